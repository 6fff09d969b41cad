"""Which bundle a person means: a folder, a model of a dataset, or one of MLflow's registry."""

import re
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform

if TYPE_CHECKING:
    from gbif_platform.training.bundle import Bundle

OF_MLFLOW = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))")
OF_DATASET = re.compile(r"(?P<dataset>\w+)/(?P<model>[\w.-]+?)(?:@(?P<snapshot>.+))?")
MLFLOW_FOLDER = "bundle"
"""Where the artifacts of a training's run hold its bundle."""
SECONDS, DOWNLOAD_SECONDS = 60.0, 600.0


class ModelNotFound(PlatformError):
    """There is no such model."""


def find_model(platform: Platform, reference: str) -> "Bundle":
    """The bundle behind `reference`, copied to this machine where it is elsewhere.

    Args:
        platform: where datasets' models and MLflow are; not looked at for a folder.
        reference: a bundle's folder; `DATASET/MODEL` (trained last) or `DATASET/MODEL@SNAPSHOT`;
            `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        ModelNotFound: there is none; says which there are.
        BundleError: it is damaged.
    """
    from gbif_platform.training.bundle import load_bundle

    if reference.startswith("models:"):
        return _of_mlflow(platform, reference)
    if Path(reference).is_dir():
        return load_bundle(Path(reference))
    return _of_dataset(platform, reference)


def _of_dataset(platform: Platform, reference: str) -> "Bundle":
    from gbif_platform.training.bundle import fetch_bundle

    named = OF_DATASET.fullmatch(reference)
    models = platform.lake.frame("SELECT dataset, model, snapshot, bundle FROM models ORDER BY trained_at DESC")
    rows = models.to_dicts()
    for row in rows if named else []:
        if all(row[name] == value for name, value in named.groupdict().items() if value):  # type: ignore[union-attr]
            return fetch_bundle(platform.objects, row["bundle"], _copy_folder(platform, row["bundle"]))
    known = ", ".join(sorted({f"{row['dataset']}/{row['model']}@{row['snapshot']}" for row in rows})) or "none yet"
    raise ModelNotFound(
        f"{reference} is neither a folder nor a trained model; there are: {known}",
        "give a bundle's folder, DATASET/MODEL, DATASET/MODEL@SNAPSHOT or models:/NAME@ALIAS",
    )


def _copy_folder(platform: Platform, key: str) -> Path:
    return platform.work_folder("bundles", *key.split("/")[1:])


def _of_mlflow(platform: Platform, reference: str) -> "Bundle":
    from gbif_platform.training.bundle import BundleError, load_bundle
    from gbif_platform.training.mlflow_access import ask, connect

    named = OF_MLFLOW.fullmatch(reference)
    if named is None:
        raise ModelNotFound(f"{reference} names no version", "models:/NAME@ALIAS, such as @champion, or models:/NAME/3")
    uri = platform.settings.tracking_uri
    version, trouble = ask(lambda: _registered(connect(uri), **named.groupdict()), SECONDS)
    if version is None:
        raise ModelNotFound(f"MLflow has no model {reference}: {trouble}", "MLflow's UI lists the registered models")
    folder = platform.work_folder("bundles", "mlflow", version.run_id)
    for last in (False, True):
        _, trouble = ask(lambda: _download(connect(uri), version.run_id, folder), DOWNLOAD_SECONDS)
        if trouble:
            raise ModelNotFound(
                f"{reference}: MLflow gave no folder {MLFLOW_FOLDER} of run {version.run_id}: {trouble}",
                "name the model as DATASET/MODEL, or give its bundle's folder",
            )
        try:
            return load_bundle(folder)
        except BundleError:
            if last:
                raise
            shutil.rmtree(folder)  # a copy that was cut short
            folder.mkdir()
    raise AssertionError("unreachable")


def _registered(client: Any, name: str, alias: str | None, version: str | None) -> Any:
    return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)


def _download(client: Any, run_id: str, folder: Path) -> None:
    """Copy what is not there yet of the run's bundle, and the calibration, which may have changed."""
    from gbif_platform.training.bundle import CALIBRATION, DESCRIPTION

    names = [PurePosixPath(item.path).name for item in client.list_artifacts(run_id, MLFLOW_FOLDER)]
    if DESCRIPTION not in names:
        raise FileNotFoundError(f"no {DESCRIPTION} among its artifacts")
    (folder / CALIBRATION).unlink(missing_ok=True)
    for name in names:
        if not (folder / name).exists():
            client.download_artifacts(run_id, f"{MLFLOW_FOLDER}/{name}", str(folder))
