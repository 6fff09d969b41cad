"""The content of a local weights file that a training starts from; no torch, so that asking for it is quick."""

import hashlib
from pathlib import Path


def weights_digest(pretrained: object) -> str | None:
    """SHA-256 (hex) of the file that the setting `pretrained` names.

    None where it names no file: `false`, `true` (timm's own weights, fixed by the backbone's name), or a path at which
    there is none, which is an error of its own as soon as the weights are read.
    """
    if not isinstance(pretrained, str):
        return None
    path = Path(pretrained).expanduser()
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
