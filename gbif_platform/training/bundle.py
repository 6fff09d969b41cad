"""The bundle: what leaves training. A folder with `model.safetensors` and `bundle.json`, no pickle in it."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gbif_platform.errors import PlatformError
from gbif_platform.training.backbone import create_backbone
from gbif_platform.training.preprocess import Preprocess

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec
    from gbif_platform.training.run import TrainResult

FORMAT = "gbif-platform-bundle/1"
WEIGHTS = "model.safetensors"
DESCRIPTION = "bundle.json"


class BundleError(PlatformError):
    """A folder is no bundle, or a damaged one."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        dataset, snapshot: as in the dataset file and its partition.
        lake_version: the lake's snapshot id that the training read.
        split_digest: of the samples that were trained on.
        doi: the download to cite.
        licences: media trained on, per SPDX licence.
        code_version: of the platform.
    """

    dataset: str
    snapshot: str
    lake_version: int | None = None
    split_digest: str | None = None
    doi: str | None = None
    licences: dict[str, int] = field(default_factory=dict)
    code_version: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A trained model on disk.

    Attributes:
        folder: where the two files are.
        labels: the name of each output.
        class_counts: training pictures of each label, for priors chosen later.
        preprocess: decoded picture to input.
        backbone: timm's name.
        spec: the settings of the training.
        provenance: what it was trained on.
        taxonomy: per label its classification, such as {"family": "Ranidae", "gbif_key": 5217334}; may be empty.
    """

    folder: Path
    labels: list[str]
    class_counts: list[int]
    preprocess: Preprocess
    backbone: str
    spec: dict[str, Any]
    provenance: Provenance
    taxonomy: dict[str, dict[str, Any]]

    def network(self, device: torch.device | str = "cpu") -> nn.Module:
        """The network with its weights, in evaluation mode: normalised float (N, 3, size, size) → logits (N, C).

        Raises:
            BundleError: the weights are missing, damaged, or of another network.
        """
        network = create_backbone(self.backbone, len(self.labels), self.preprocess.size)
        try:
            network.load_state_dict(load_file(self.folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"{self.folder / WEIGHTS} cannot be loaded: {error}", "train the model again") from error
        return network.eval().to(device)


def save_bundle(
    folder: Path,
    result: "TrainResult",
    spec: "ModelSpec",
    labels: Sequence[str],
    provenance: Provenance,
    taxonomy: dict[str, dict[str, Any]] | None = None,
) -> Bundle:
    """Write the bundle of a finished training into `folder`, replacing what was there.

    It is put together in a folder beside it and renamed.
    """
    folder = Path(folder)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    shutil.copyfile(result.weights, building / WEIGHTS)
    description = {
        "format": FORMAT,
        "labels": list(labels),
        "class_counts": result.class_counts,
        "preprocess": result.preprocess.to_json(),
        "backbone": spec.backbone,
        "spec": dict(vars(spec)),
        "provenance": asdict(provenance),
        "taxonomy": taxonomy or {},
        "best_epoch": result.best_epoch,
        "weights_sha256": _sha256(building / WEIGHTS),
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    (building / DESCRIPTION).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return load_bundle(folder)


def load_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's description and the digest of its weights.

    Raises:
        BundleError: not a bundle, of another format, or damaged.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    try:
        bundle = Bundle(
            folder=folder,
            labels=[str(label) for label in description["labels"]],
            class_counts=[int(count) for count in description["class_counts"]],
            preprocess=Preprocess.from_json(description["preprocess"]),
            backbone=str(description["backbone"]),
            spec=dict(description["spec"]),
            provenance=Provenance(**description["provenance"]),
            taxonomy=dict(description["taxonomy"]),
        )
        expected = description["weights_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / DESCRIPTION} lacks or misstates {error}", "train the model again") from error
    if len(bundle.labels) != len(bundle.class_counts):
        raise BundleError(f"{folder / DESCRIPTION} has not one count a label", "train the model again")
    if not (folder / WEIGHTS).is_file() or _sha256(folder / WEIGHTS) != expected:
        raise BundleError(f"{folder / WEIGHTS} is missing or not the file described", "copy the bundle again")
    return bundle


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.parent} is no bundle: {error}", "give a folder written by training") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{path} is not of format {FORMAT}", "train the model with this version of the platform")
    return description


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
