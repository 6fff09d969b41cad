"""The model registry of MLflow: versions of a model without pickle in them, and who is challenger and champion.

`challenger` is the version registered last, `champion` the one in force. Load one anywhere that torch and MLflow are:
`mlflow.pytorch.load_model("models:/frogs-baseline@champion")` maps normalised float32 (N, 3, size, size) to logits
(N, C); labels and preprocessing are beside it in `extra_files/bundle.json`.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gbif_platform.training.mlflow_access import ask, connect, shown

if TYPE_CHECKING:
    from gbif_platform.training.bundle import Bundle

CHALLENGER, CHAMPION = "challenger", "champion"
DIGEST = "gbif_platform.weights_sha256"
SECONDS, UPLOAD_SECONDS = 60.0, 600.0
EXAMPLES = 2  # torch.export would take a single picture for the only size of a batch
REQUIREMENTS = ("torch", "numpy")


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name, version: as in `models:/<name>/<version>`.
        run_id: of the training.
        tags: as registered.
    """

    name: str
    version: str
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the registry said: a version or none, and what went wrong or None."""

    version: Version | None
    trouble: str | None = None


def register(
    uri: str, name: str, run_id: str | None, bundle_folder: Path, *, tags: dict[str, str] | None = None
) -> Answer:
    """Log a bundle's network as a model of its run, and register it as `challenger`; weights known there stay as is.

    Args:
        uri: MLflow's tracking URI.
        name: of the registered model, such as `<dataset>-<model>`; made where it is missing.
        run_id: MLflow's, of the training; None where MLflow never heard of it: then there is no version.
        bundle_folder: the bundle.
        tags: of the version: dataset, snapshot, doi, bundle, …

    Returns:
        The version, or what went wrong; never raises for a trouble of MLflow's.

    Raises:
        BundleError: the bundle cannot be read.
    """
    from gbif_platform.training.bundle import load_bundle

    if run_id is None:
        return Answer(None, f"{name} is not registered: MLflow at {shown(uri)} has no run of this training")
    bundle = load_bundle(bundle_folder)
    digest = _weights_digest(bundle_folder)
    return _answer(uri, UPLOAD_SECONDS, lambda client: _register(client, name, run_id, bundle, digest, tags or {}))


def set_champion(uri: str, name: str, version: str) -> Answer:
    """Put a version in force."""

    def promote(client: Any) -> Version:
        client.set_registered_model_alias(name, CHAMPION, version)
        return _version(client.get_model_version(name, version))

    return _answer(uri, SECONDS, promote)


def find_alias(uri: str, name: str, alias: str) -> Answer:
    """The version that is `challenger` or `champion`; neither version nor trouble where there is none yet."""

    def find(client: Any) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _version(client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    return _answer(uri, SECONDS, find)


def _answer(uri: str, seconds: float, action: Callable[[Any], Version | None]) -> Answer:
    version, trouble = ask(lambda: action(connect(uri)), seconds)
    return Answer(version, None if trouble is None else f"MLflow at {shown(uri)}: {trouble}")


def _register(client: Any, name: str, run_id: str, bundle: "Bundle", digest: str, tags: dict[str, str]) -> Version:
    _ensure_model(client, name)
    versions = client.search_model_versions(f"name = '{name}'")
    known = [version for version in versions if version.tags.get(DIGEST) == digest and version.run_id == run_id]
    if known:
        version = known[0]
    else:
        logged = _logged_model(client, name, run_id, bundle, digest)
        # Its place, not models:/…, which MLflow would look up at the process-wide tracking URI.
        version = client.create_model_version(
            name, logged.artifact_location, run_id, tags={**tags, DIGEST: digest}, model_id=logged.model_id
        )
    newest = max((int(other.version) for other in versions), default=0)
    if int(version.version) >= newest:
        client.set_registered_model_alias(name, CHALLENGER, version.version)
    return _version(version)


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _logged_model(client: Any, name: str, run_id: str, bundle: "Bundle", digest: str) -> Any:
    """The run's model with these weights; one that a kill left half logged is made anew."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    whole = [model for model in found if model.tags.get(DIGEST) == digest and model.status == "READY"]
    if whole:
        return whole[0]
    with tempfile.TemporaryDirectory(prefix="gbif-platform-model-") as temporary:
        logged = client.create_logged_model(
            run.info.experiment_id, name, run_id, tags={DIGEST: digest}, params=run.data.params, model_type="classifier"
        )
        folder = Path(temporary) / "model"
        _save(bundle, folder, logged, run_id)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def _save(bundle: "Bundle", folder: Path, logged: Any, run_id: str) -> None:
    """MLflow's model folder: the network as torch.export's program, signature, example, and the bundle's description.

    Requirements are given: inferring them loads the model in a new process, which takes 15 s.
    """
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from gbif_platform.training.bundle import DESCRIPTION

    size = bundle.preprocess.size
    picture = np.linspace(-1, 1, size, dtype=np.float32).round(1)
    example = np.broadcast_to(picture, (EXAMPLES, 3, size, size)).copy()
    single = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(single, (-1, 3, size, size))]),  # a name would make MLflow hand the network a dict
        Schema([TensorSpec(single, (-1, len(bundle.labels)))]),
    )
    with torch.no_grad():
        mlflow.pytorch.save_model(
            bundle.network().to(memory_format=torch.contiguous_format),
            str(folder),
            mlflow_model=Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id),
            signature=signature,
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[_pinned(package) for package in REQUIREMENTS],
            extra_files=[str(bundle.folder / DESCRIPTION)],
        )


def _pinned(package: str) -> str:
    from importlib.metadata import version

    return f"{package}=={version(package)}"


def _weights_digest(bundle_folder: Path) -> str:
    import json

    from gbif_platform.training.bundle import DESCRIPTION

    return str(json.loads((bundle_folder / DESCRIPTION).read_text(encoding="utf-8"))["weights_sha256"])


def _version(version: Any) -> Version:
    return Version(version.name, str(version.version), version.run_id, dict(version.tags))
