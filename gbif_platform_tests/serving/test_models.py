from pathlib import Path

import pytest

from gbif_platform.platform import Platform
from gbif_platform.serving.models import ModelNotFound, find_model
from gbif_platform.settings import Settings
from gbif_platform.training.bundle import Bundle, with_calibration
from gbif_platform.training.mlflow_access import connect
from gbif_platform_tests.training.bundles import rewritten


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(Settings(home=tmp_path / "home"))


def test_a_folder_needs_no_platform(platform: Platform, bundle: Bundle) -> None:
    assert find_model(platform, str(bundle.folder)) == bundle
    assert not platform.settings.home.exists()


def test_what_is_no_model_is_told_with_those_there_are(platform: Platform) -> None:
    for reference in ("frogs/baseline", "frogs", "no/such/folder"):
        with pytest.raises(ModelNotFound, match="none yet"):
            find_model(platform, reference)
    with pytest.raises(ModelNotFound, match="names no version"):
        find_model(platform, "models:/frogs")


def test_a_registered_model_is_found_by_alias_and_by_version(
    platform: Platform, bundle: Bundle, tmp_path: Path
) -> None:
    client = connect(platform.settings.tracking_uri)
    experiment = client.create_experiment("frogs", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_registered_model("frogs-baseline")
    second = rewritten(bundle, tmp_path / "second", class_counts=[3, 2, 1])
    for made, alias in ((bundle, "champion"), (second, "challenger")):
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(made.folder), "bundle")
        version = client.create_model_version("frogs-baseline", f"runs:/{run_id}/bundle", run_id)
        client.set_registered_model_alias("frogs-baseline", alias, version.version)
    assert find_model(platform, "models:/frogs-baseline@champion").class_counts == bundle.class_counts
    found = find_model(platform, "models:/frogs-baseline/2")
    assert found.class_counts == [3, 2, 1]
    (found.folder / "model.safetensors").write_bytes(b"torn")
    assert find_model(platform, "models:/frogs-baseline@challenger").class_counts == [3, 2, 1], "fetched again"
    calibrated = with_calibration(second.folder, 1.5, 0.0)
    client.log_artifact(run_id, str(calibrated.folder / "calibration.json"), "bundle")
    assert find_model(platform, "models:/frogs-baseline@challenger").temperature == 1.5
    with pytest.raises(ModelNotFound, match="nobody"):
        find_model(platform, "models:/frogs-baseline@nobody")
    client.set_registered_model_alias("frogs-baseline", "empty", _without_bundle(client, experiment))
    with pytest.raises(ModelNotFound, match="artifacts"):
        find_model(platform, "models:/frogs-baseline@empty")


def _without_bundle(client: object, experiment: str) -> str:
    run_id = client.create_run(experiment).info.run_id  # type: ignore[attr-defined]
    version = client.create_model_version("frogs-baseline", f"runs:/{run_id}/x", run_id)  # type: ignore[attr-defined]
    return str(version.version)
