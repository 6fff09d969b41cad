"""The bundle: what leaves training. A folder with `model.safetensors` and `bundle.json`, no pickle in it.

Neither file ever changes. How the model's answers are read (temperature, prior) is found out later, by the evaluation,
and lies beside them in `calibration.json`.
"""

import json
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gbif_platform.errors import PlatformError
from gbif_platform.training.backbone import create_backbone
from gbif_platform.training.files import sha256_of, write_text_atomically
from gbif_platform.training.head import Network
from gbif_platform.training.preprocess import Preprocess

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec
    from gbif_platform.training.run import TrainResult

FORMAT = "gbif-platform-bundle/1"
WEIGHTS = "model.safetensors"
DESCRIPTION = "bundle.json"
CALIBRATION = "calibration.json"
HEAD = ("pooling", "hidden", "dropout")
OUTPUTS = ("softmax", "sigmoid")


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
        citation: its text.
        licences: media trained on, per SPDX licence.
        code_version: of the platform.
    """

    dataset: str
    snapshot: str
    lake_version: int | None = None
    split_digest: str | None = None
    doi: str | None = None
    citation: str | None = None
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
        taxonomy: per label its classification, such as {"family": "Ranidae", "species_key": "5217334"}; may be empty.
        head: pooling, hidden and dropout of `create_backbone`; empty = the backbone's own head.
        output: `softmax` (one label a picture) or `sigmoid` (each label for itself).
        pictures: how pictures were stored before training (the fields of `images.transform.Transform`), so that
            one from outside can be made the same; empty = not known.
        temperature: logits are divided by it before softmax or sigmoid.
        tau: the prior of the answers, see `priors.answer_adjustment`.
    """

    folder: Path
    labels: list[str]
    class_counts: list[int]
    preprocess: Preprocess
    backbone: str
    spec: dict[str, Any]
    provenance: Provenance
    taxonomy: dict[str, dict[str, Any]]
    head: dict[str, Any] = field(default_factory=dict)
    output: Literal["softmax", "sigmoid"] = "softmax"
    pictures: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    tau: float = 0.0

    def network(self, device: torch.device | str = "cpu") -> Network:
        """The network with its weights, in evaluation mode: normalised float (N, 3, size, size) → logits (N, C).

        Raises:
            BundleError: the weights are missing, damaged, or of another network.
        """
        network = create_backbone(self.backbone, len(self.labels), self.preprocess.size, **self.head)
        try:
            network.load_state_dict(load_file(self.folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise BundleError(f"{self.folder / WEIGHTS} cannot be loaded: {error}", "train the model again") from error
        return network.eval().to(device)

    def weights_digest(self) -> str:
        """SHA-256 of the weights: what tells two models apart."""
        return sha256_of(self.folder / WEIGHTS)


class Files(Protocol):
    """What is needed of an object store (`gbif_platform.storage.objects.ObjectStore` is one)."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError where there is none."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def copy_to(self, key: str, path: Path) -> None:
        """Copy an object into a local file."""

    def path_of(self, key: str) -> Path | None:
        """The local file behind `key`, where there is one."""


def save_bundle(
    folder: Path,
    result: "TrainResult",
    spec: "ModelSpec",
    labels: Sequence[str],
    provenance: Provenance,
    taxonomy: dict[str, dict[str, Any]] | None = None,
    pictures: Mapping[str, Any] | None = None,
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
        "head": head_of(vars(spec)),
        "output": spec.output,
        "pictures": dict(pictures or {}),
        "spec": {name: value for name, value in vars(spec).items() if name != "evaluation"},
        "provenance": asdict(provenance),
        "taxonomy": taxonomy or {},
        "best_epoch": result.best_epoch,
        "weights_sha256": sha256_of(building / WEIGHTS),
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    (building / DESCRIPTION).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return load_bundle(folder)


def head_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `create_backbone` that a model's settings name beside the backbone; what is left out is not."""
    return {name: spec[name] for name in HEAD if spec.get(name)}


def with_calibration(folder: Path, temperature: float, tau: float) -> Bundle:
    """Keep how the answers of the bundle in `folder` are to be read, in a file of its own beside it.

    Args:
        folder: the bundle.
        temperature: above 0; fitted on the validation subset, for this `tau`.
        tau: 0 = labels as frequent as in training, 1 = all equally likely.

    Raises:
        BundleError: no bundle, or a value out of its range.
    """
    bundle = load_bundle(folder)
    text = calibration_text(bundle.weights_digest(), temperature, tau)
    write_text_atomically(bundle.folder / CALIBRATION, text)
    return load_bundle(folder)


def calibration_text(weights_sha256: str, temperature: float, tau: float) -> str:
    """The content of `calibration.json`; the digest says for which weights it holds. Raises BundleError."""
    _check_calibration(temperature, tau, "calibration")
    return json.dumps({"temperature": temperature, "tau": tau, "weights_sha256": weights_sha256}, indent=1)


def fetch_bundle(objects: Files, key: str, folder: Path) -> Bundle:
    """The bundle under `key` of an object store: where it lies if that is a folder, else copied into `folder`.

    What was copied before and is whole is not copied again; the calibration is, for it may have changed.

    Raises:
        BundleError: there is no bundle, or a damaged one.
    """
    stored = objects.path_of(key)
    if stored is not None:
        return load_bundle(stored)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_text_atomically(folder / DESCRIPTION, objects.get(f"{key}/{DESCRIPTION}").decode())
        calibration = f"{key}/{CALIBRATION}"
        (folder / CALIBRATION).unlink(missing_ok=True)
        if objects.exists(calibration):
            write_text_atomically(folder / CALIBRATION, objects.get(calibration).decode())
        if not _weights_agree(folder):
            (folder / WEIGHTS).unlink(missing_ok=True)
            objects.copy_to(f"{key}/{WEIGHTS}", folder / WEIGHTS)
    except FileNotFoundError as error:
        raise BundleError(f"no bundle under {key} in the object store", "train the model again") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"the bundle under {key} is damaged: {error}", "train the model again") from error
    return load_bundle(folder)


def _weights_agree(folder: Path) -> bool:
    expected = _read_description(folder / DESCRIPTION).get("weights_sha256")
    return (folder / WEIGHTS).is_file() and sha256_of(folder / WEIGHTS) == expected


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
            head=head_of(description.get("head", {})),
            output=cast(Literal["softmax", "sigmoid"], _one_of(OUTPUTS, description.get("output", "softmax"))),
            pictures=dict(description.get("pictures", {})),
        )
        expected = description["weights_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / DESCRIPTION} lacks or misstates {error}", "train the model again") from error
    if len(bundle.labels) != len(bundle.class_counts):
        raise BundleError(f"{folder / DESCRIPTION} has not one count a label", "train the model again")
    if not (folder / WEIGHTS).is_file() or sha256_of(folder / WEIGHTS) != expected:
        raise BundleError(f"{folder / WEIGHTS} is missing or not the file described", "copy the bundle again")
    return _calibrated(bundle, expected)


def _calibrated(bundle: Bundle, weights_sha256: str) -> Bundle:
    path = bundle.folder / CALIBRATION
    if not path.exists():
        return bundle
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        temperature, tau, of_weights = float(values["temperature"]), float(values["tau"]), values["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} lacks or misstates {error}", "remove it, and evaluate the model again") from error
    _check_calibration(temperature, tau, str(path))
    if of_weights != weights_sha256:
        raise BundleError(f"{path} is of other weights", "remove it, and evaluate the model again")
    return replace(bundle, temperature=temperature, tau=tau)


def _check_calibration(temperature: float, tau: float, where: str) -> None:
    if not (0 < temperature < math.inf and 0 <= tau <= 2):
        raise BundleError(
            f"{where}: temperature {temperature} is not above 0, or tau {tau} not from 0 to 2",
            "evaluate the model again",
        )


def _one_of(known: Collection[object], value: object) -> str:
    if value not in known:
        raise ValueError(f"output {value!r}, which is none of {known}")
    return str(value)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.parent} is no bundle: {error}", "give a folder written by training") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BundleError(f"{path} is not of format {FORMAT}", "train the model with this version of the platform")
    return description
