import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.training import tracking
from gbif_platform.training.checkpoints import TrainingDivergedError
from gbif_platform.training.run import TrainResult
from gbif_platform.training.tracking import MlflowTracker, TrackedDataset
from gbif_platform_tests.training.conftest import Toy
from gbif_platform_tests.training.cuts import Cut, CutAfterEpoch


def tracker(uri: str, experiment: str, key: str = "toy/2026/it's") -> MlflowTracker:
    return MlflowTracker(
        uri,
        experiment,
        key,
        run_name="baseline",
        tags={"dataset": "toy", "lake_version": "7"},
        dataset=TrackedDataset("toy", "ab" * 32, "https://doi.org/10.15468/dl.toy"),
    )


def runs(uri: str, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def losses(uri: str, run_id: str) -> list[int]:
    from mlflow import MlflowClient

    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, "train_loss")]


def test_a_training_is_one_run_with_all_that_it_needs(toy: Toy, sqlite_uri: str, tmp_path: Path) -> None:
    ours = tracker(sqlite_uri, "whole")
    result = toy.train(tmp_path / "work", epochs=2, tracker=ours)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    ours.log_folder(tmp_path / "bundle", "bundle")
    ours.log_bytes(b"png", "plots/curves.png")
    ours.log_metrics({"test_top1": 0.75})
    assert result.warnings == []
    (run,) = runs(sqlite_uri, "whole")
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone"] == "test_resnet"
    assert run.data.tags["lake_version"] == "7"
    assert run.data.metrics["val_macro"] == pytest.approx(result.history[-1]["val_macro"])
    assert run.data.metrics["test_top1"] == 0.75
    assert losses(sqlite_uri, run.info.run_id) == [0, 1]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "ab" * 18
    assert "10.15468" in dataset.source
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_uri)
    files = [file.path for name in ("bundle", "plots") for file in client.list_artifacts(run.info.run_id, name)]
    assert files == ["bundle/bundle.json", "plots/curves.png"]
    database = Path(sqlite_uri.removeprefix("sqlite:///"))
    assert run.info.artifact_uri.startswith((database.parent / "artifacts").as_uri())


class KilledTracker(MlflowTracker):
    """Forwards one epoch and is gone, as after kill -9: the run stays RUNNING."""

    def log_epoch(self, row: dict[str, float]) -> None:
        super().log_epoch(row)
        CutAfterEpoch(0).log_epoch(row)

    def end(self, status: str) -> None: ...


def test_a_killed_run_that_is_resumed_ends_finished(toy: Toy, sqlite_uri: str, tmp_path: Path) -> None:
    with pytest.raises(Cut):
        toy.train(tmp_path, epochs=2, tracker=KilledTracker(sqlite_uri, "killed", "k"))
    assert [run.info.status for run in runs(sqlite_uri, "killed")] == ["RUNNING"]
    toy.train(tmp_path, epochs=2, tracker=MlflowTracker(sqlite_uri, "killed", "k"))
    (run,) = runs(sqlite_uri, "killed")
    assert run.info.status == "FINISHED"
    assert losses(sqlite_uri, run.info.run_id) == [0, 1], "an epoch was sent twice"


def test_a_training_that_fails_is_marked_failed(toy: Toy, sqlite_uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError):
        toy.train(
            tmp_path,
            epochs=2,
            learning_rate=1e30,
            warmup_epochs=0,
            precision="32-true",
            tracker=tracker(sqlite_uri, "failed"),
        )
    assert [run.info.status for run in runs(sqlite_uri, "failed")] == ["FAILED"]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def finished_in(seconds: float, toy: Toy, uri: str, work_dir: Path) -> TrainResult:
    began = time.monotonic()
    result = toy.train(work_dir, epochs=3, tracker=tracker(uri, "down"))
    assert time.monotonic() - began < seconds
    return result


def test_a_dead_server_costs_a_warning(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    result = finished_in(20, toy, "http://127.0.0.1:9", tmp_path)
    assert result.weights.read_bytes() == trained.weights.read_bytes()
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 3
    assert "Connection refused" in result.warnings[0]
    assert "http://127.0.0.1:9" in result.warnings[0]


def test_a_server_that_never_answers_costs_seconds(
    toy: Toy, silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 1.0)
    result = finished_in(25, toy, silent_server, tmp_path)
    assert result.epochs == 3
    assert result.warnings


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    ours = tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "broken")
    began = time.monotonic()
    ours.begin({})
    assert time.monotonic() - began < 10
    assert "not a database" in ours.warnings[0]


def test_what_a_server_missed_is_sent_when_it_is_back(sqlite_uri: str, tmp_path: Path) -> None:
    down = tmp_path / "down"
    down.write_text("a file where the store's folder should be")
    ours = MlflowTracker(f"sqlite:///{down / 'mlflow.db'}", "outage", "k")
    ours.begin({})
    for epoch in range(3):
        ours.log_epoch({"epoch": epoch, "train_loss": 1.0 / (epoch + 1)})
    assert ours.run_id is None
    ours.uri = sqlite_uri
    ours.end("FINISHED")
    (run,) = runs(sqlite_uri, "outage")
    assert run.info.status == "FINISHED"
    assert losses(sqlite_uri, run.info.run_id) == [0, 1, 2]
