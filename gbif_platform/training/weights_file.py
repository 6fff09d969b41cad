"""The content of a local weights file that a training starts from; no torch, so that asking for it is quick."""

from pathlib import Path

from gbif_platform.training.files import sha256_of


def weights_digest(pretrained: object) -> str | None:
    """SHA-256 (hex) of the file that the setting `pretrained` names.

    None where it names no file: `false`, `true` (timm's own weights, fixed by the backbone's name), or a path at which
    there is none, which is an error of its own as soon as the weights are read.
    """
    if not isinstance(pretrained, str):
        return None
    path = Path(pretrained).expanduser()
    return sha256_of(path) if path.is_file() else None
