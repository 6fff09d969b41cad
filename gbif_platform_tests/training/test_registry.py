import io
import pickletools
import time
import zipfile
from pathlib import Path

import mlflow
import pytest
import torch

from gbif_platform.training import registry
from gbif_platform.training.bundle import Bundle, Provenance, save_bundle
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.registry import find_alias, register, set_champion
from gbif_platform.training.run import TrainResult
from gbif_platform.training.tracking import MlflowTracker
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.shards import PATTERNS


@pytest.fixture(scope="module")
def bundle(trained: TrainResult, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return save_bundle(folder, trained, ModelSpec(**TINY), PATTERNS, Provenance("toy", "2026"))


@pytest.fixture(scope="module")
def later(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with other weights."""
    result = toy.train(tmp_path_factory.mktemp("later"), epochs=1)
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    return save_bundle(folder, result, ModelSpec(**TINY), PATTERNS, Provenance("toy", "2027"))


def a_run(uri: str, key: str) -> str:
    tracker = MlflowTracker(uri, "registry", key)
    tracker.begin({"epochs": 3})
    tracker.end("FINISHED")
    assert tracker.run_id
    return tracker.run_id


@pytest.fixture
def here(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow's own functions look there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", sqlite_uri)
    return sqlite_uri


def test_a_registered_model_is_read_back_with_the_same_logits(here: str, bundle: Bundle) -> None:
    run_id = a_run(here, "first")
    answer = register(here, "toy-baseline", run_id, bundle.folder, tags={"snapshot": "2026"})
    assert answer.trouble is None
    assert answer.version is not None
    assert (answer.version.version, answer.version.run_id) == ("1", run_id)
    assert answer.version.tags["snapshot"] == "2026"
    pictures = torch.randn(5, 3, bundle.preprocess.size, bundle.preprocess.size)
    loaded = mlflow.pytorch.load_model("models:/toy-baseline@challenger")
    with torch.no_grad():
        assert torch.allclose(loaded(pictures), bundle.network()(pictures), atol=1e-5)
        assert loaded(pictures[:1]).shape == (1, len(PATTERNS))
    served = mlflow.pyfunc.load_model("models:/toy-baseline/1")
    assert served.predict(pictures.numpy()).shape == (5, len(PATTERNS))
    info = mlflow.models.get_model_info("models:/toy-baseline/1")
    assert info.signature.inputs.inputs[0].shape == (-1, 3, 32, 32)
    assert info.saved_input_example_info["artifact_path"] == "input_example.json"
    run = mlflow.MlflowClient(here).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(run.outputs.model_outputs) == 1


def test_there_is_no_pickle_that_runs_code_in_it(here: str, bundle: Bundle, tmp_path: Path) -> None:
    register(here, "toy-pickle", a_run(here, "pickle"), bundle.folder)
    folder = Path(mlflow.artifacts.download_artifacts("models:/toy-pickle@challenger", dst_path=str(tmp_path)))
    assert (folder / "extra_files" / "bundle.json").read_bytes() == (bundle.folder / "bundle.json").read_bytes()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pth", ".pickle")]
    with zipfile.ZipFile(folder / "data" / "model.pt2") as archive:
        for name in archive.namelist():
            assert _globals(archive.read(name)) <= {
                "collections OrderedDict",
                "torch._utils _rebuild_tensor_v2",
                "torch FloatStorage",
            }, name


def _globals(data: bytes) -> set[str]:
    """What a record that `torch.save` wrote names; anything but tensors would be code."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return set()
    with zipfile.ZipFile(io.BytesIO(data)) as checkpoint:
        pickles = [checkpoint.read(name) for name in checkpoint.namelist() if name.endswith("data.pkl")]
    opcodes = [opcode for pickle in pickles for opcode in pickletools.genops(pickle)]
    assert not [opcode for opcode, _, _ in opcodes if opcode.name == "STACK_GLOBAL"]
    return {str(argument) for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}


def test_the_same_weights_are_registered_once_and_aliases_move_forward(
    here: str, bundle: Bundle, later: Bundle
) -> None:
    first, second = a_run(here, "one"), a_run(here, "two")
    assert find_alias(here, "toy-moves", "champion") == registry.Answer(None)
    versions = [
        register(here, "toy-moves", run_id, chosen.folder).version
        for run_id, chosen in ((first, bundle), (first, bundle), (second, later), (first, bundle))
    ]
    assert [version.version if version else None for version in versions] == ["1", "1", "2", "1"]
    challenger = find_alias(here, "toy-moves", "challenger").version
    assert challenger
    assert challenger.version == "2", "registering an old version again does not make it the challenger"
    assert find_alias(here, "toy-moves", "champion").version is None
    for version in ("1", "2"):
        set_champion(here, "toy-moves", version)
        champion = find_alias(here, "toy-moves", "champion").version
        assert champion
        assert champion.version == version


def test_a_kill_between_the_model_and_its_version_leaves_one_model(
    here: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = a_run(here, "cut")

    def cut(*arguments: object, **named: object) -> None:
        raise ConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", cut)
        assert "cut" in str(register(here, "toy-cut", run_id, bundle.folder).trouble)
    answer = register(here, "toy-cut", run_id, bundle.folder)
    assert answer.version
    assert answer.version.version == "1"
    assert len(mlflow.MlflowClient(here).get_run(run_id).outputs.model_outputs) == 1


def test_a_registry_out_of_reach_is_told_and_costs_seconds(bundle: Bundle) -> None:
    began = time.monotonic()
    dead = "http://127.0.0.1:9"
    for answer in (
        register(dead, "toy", "run", bundle.folder),
        set_champion(dead, "toy", "1"),
        find_alias(dead, "toy", "champion"),
    ):
        assert answer.version is None
        assert "Connection refused" in str(answer.trouble)
    assert "has no run" in str(register(dead, "toy", None, bundle.folder).trouble)
    assert time.monotonic() - began < 60
