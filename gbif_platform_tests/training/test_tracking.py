import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gbif_platform.training import mlflow_access, system_metrics, tracking
from gbif_platform.training.checkpoints import TrainingDivergedError
from gbif_platform.training.forwarding import RUN_KEY, replay
from gbif_platform.training.orphans import close_orphans
from gbif_platform.training.run import TrainResult
from gbif_platform.training.tracking import MlflowTracker, TrackedDataset
from gbif_platform_tests.training.conftest import Toy
from gbif_platform_tests.training.cuts import Cut, CutAfterEpoch


@pytest.fixture(scope="module", autouse=True)
def mlflow_is_loaded() -> None:
    """Its first import may take longer than what is measured, or waited for, here."""
    import mlflow  # noqa: F401

    system_metrics._sample(system_metrics._monitors())


def tracker(uri: str, experiment: str, key: str = "toy/2026/it's", journal: Path | None = None) -> MlflowTracker:
    return MlflowTracker(
        uri,
        experiment,
        key,
        run_name="baseline",
        tags={"dataset": "toy"},
        dataset=TrackedDataset(
            "toy",
            "ab" * 32,
            "https://doi.org/10.15468/dl.toy",
            doi="10.15468/dl.toy",
            derived_doi="10.15468/dd.toy",
            lake_version=7,
        ),
        journal=journal,
    )


def runs(uri: str, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def losses(uri: str, run_id: str) -> list[int]:
    from mlflow import MlflowClient

    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, "train_loss")]


def test_a_training_is_one_run_with_all_that_it_needs(
    toy: Toy, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tracker(sqlite_uri, "whole")
    result = toy.train(tmp_path / "work", epochs=2, tracker=ours)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    ours.log_folder(tmp_path / "bundle", "bundle")
    ours.log_bytes(b"png", "plots/curves.png")
    ours.log_metrics({"test_top1": 0.75})
    ours.log_table(["picture", "label", "predicted", "score"], [["a", "frog", "toad", 0.5]], "predictions/sample.json")
    assert result.warnings == []
    (run,) = runs(sqlite_uri, "whole")
    assert run.info.status == "FINISHED"
    assert run.data.params["backbone"] == "test_resnet"
    origin = {
        "doi": "10.15468/dl.toy",
        "derived_doi": "10.15468/dd.toy",
        "lake_version": "7",
        "split_digest": "ab" * 32,
    }
    assert origin.items() <= run.data.tags.items()
    assert run.data.tags[tracking.PID] == str(os.getpid())
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert run.data.metrics["val_macro"] == pytest.approx(result.history[-1]["val_macro"])
    assert run.data.metrics["test_top1"] == 0.75
    assert losses(sqlite_uri, run.info.run_id) == [0, 1]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.digest == "ab" * 18
    assert "10.15468" in dataset.source
    tags = {tag.key: tag.value for tag in run.inputs.dataset_inputs[0].tags}
    assert tags == {"mlflow.data.context": "training", **origin}
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)  # load_table looks there
    (table,) = client.load_table(run.info.experiment_id, "predictions/sample.json").to_dict("records")
    assert table == {"picture": "a", "label": "frog", "predicted": "toad", "score": 0.5}
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


def finished_in_time(toy: Toy, uri: str, work_dir: Path) -> TrainResult:
    """MLflow itself would try for minutes."""
    began = time.monotonic()
    result = toy.train(work_dir, epochs=3, tracker=tracker(uri, "down"))
    assert time.monotonic() - began < 60
    return result


def test_a_dead_server_costs_a_warning(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    result = finished_in_time(toy, "http://127.0.0.1:9", tmp_path)
    assert result.weights.read_bytes() == trained.weights.read_bytes()
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 3
    assert "Connection refused" in result.warnings[0]
    assert "http://127.0.0.1:9" in result.warnings[0]


def test_a_server_that_never_answers_costs_seconds(
    toy: Toy, silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "BEGIN_SECONDS", 1.0)
    result = finished_in_time(toy, silent_server, tmp_path)
    assert result.epochs == 3
    assert result.warnings


def test_a_file_that_is_no_database_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    ours = tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "broken")
    began = time.monotonic()
    ours.begin({})
    assert time.monotonic() - began < 60
    assert "not a database" in ours.warnings[0]


def curve(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return sorted((metric.step, metric.value) for metric in MlflowClient(uri).get_metric_history(run_id, name))


def test_what_mlflow_missed_is_replayed_once(sqlite_uri: str, tmp_path: Path) -> None:
    ours = tracker("http://127.0.0.1:9", "missed", journal=tmp_path / "journal")
    ours.begin({"epochs": 3})
    for epoch in range(3):
        ours.log_step(10 * epoch, {"loss": 2.0})
        ours.log_epoch({"epoch": epoch, "train_loss": 1.0 / (epoch + 1)})
    ours.log_bytes(b"png", "plots/confusion_matrix.png")
    ours.end("FINISHED")
    ours.log_metrics({"test_top1": 0.5})
    assert ours.run_id is None
    assert "gbif-platform doctor" in ours.warnings[0]
    (tmp_path / "journal" / "sent").unlink(missing_ok=True)
    for _ in range(2):
        assert replay(tmp_path / "journal", sqlite_uri) is None
        (tmp_path / "journal" / "sent").unlink()  # as after a kill between sending and writing down that it was sent
    (run,) = runs(sqlite_uri, "missed")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "3"}
    assert curve(sqlite_uri, run.info.run_id, "train_loss") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert curve(sqlite_uri, run.info.run_id, "step/loss") == [(0, 2.0), (10, 2.0), (20, 2.0)]
    assert curve(sqlite_uri, run.info.run_id, "test_top1") == [(0, 0.5)]
    assert (tmp_path / "journal").exists(), "an evaluation may be about to write"
    ends = abs(run.info.end_time / 1000 - time.time())
    assert ends < 600
    os.utime(tmp_path / "journal" / "journal.jsonl", (0, 0))
    assert replay(tmp_path / "journal", sqlite_uri) is None
    assert not (tmp_path / "journal").exists()


def test_a_journal_goes_when_mlflow_has_all_of_it(sqlite_uri: str, tmp_path: Path) -> None:
    ours = tracker(sqlite_uri, "gone", journal=tmp_path / "journal")
    ours.begin({})
    ours.log_epoch({"epoch": 0, "train_loss": 1.0})
    assert (tmp_path / "journal" / "journal.jsonl").exists()
    ours.end("FINISHED")
    assert not (tmp_path / "journal").exists()
    again = tracker(sqlite_uri, "gone", journal=tmp_path / "journal")
    again.log_epoch({"epoch": 0, "train_loss": 1.5})  # as a training on a GPU may find it after a kill
    again.log_metrics({"test_top1": 0.5})
    again.log_metrics({"test_top1": 0.6})
    again.end("FINISHED")
    (run,) = runs(sqlite_uri, "gone")
    assert curve(sqlite_uri, run.info.run_id, "train_loss") == [(0, 1.0)]
    assert run.data.metrics["test_top1"] == 0.6


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    ours = MlflowTracker("http://me:secret@127.0.0.1:9", "down", "k")
    ours.begin({})
    assert "secret" not in ours.warnings[0]


class Server:
    """A real MLflow server on SQLite."""

    def __init__(self, folder: Path) -> None:
        # Below the ports that the system gives away: nobody takes it before the server does, or while it is down.
        for port in Random(str(folder)).sample(range(20_000, 30_000), 100):
            with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
                self.port = port
                break
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder

    def start(self) -> None:
        options = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1"]
        command = [str(Path(sys.executable).with_name("mlflow")), "server", *options, "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--artifacts-destination", str(self.folder / "artifacts")],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # starts in half the time
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class ServerDiesAfter(MlflowTracker):
    """Kills the server after the first epoch, with SIGKILL."""

    server: Server

    def log_epoch(self, row: dict[str, float]) -> None:
        super().log_epoch(row)
        if row["epoch"] == 0:
            self.server.kill()


def test_a_server_that_dies_in_the_middle_costs_nothing(
    toy: Toy, trained: TrainResult, server: Server, tmp_path: Path
) -> None:
    ours = ServerDiesAfter(server.uri, "dies", "k", journal=tmp_path / "journal")
    ours.server = server
    began = time.monotonic()
    result = toy.train(tmp_path / "work", epochs=3, tracker=ours)
    assert time.monotonic() - began < 60
    assert result.weights.read_bytes() == trained.weights.read_bytes()
    assert "gbif-platform doctor" in result.warnings[0]
    ours.log_bytes(b"png", "plots/curves.png")
    server.start()
    assert replay(tmp_path / "journal", server.uri) is None
    (run,) = runs(server.uri, "dies")
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(server.uri, run.info.run_id, "train_loss")] == [0, 1, 2]
    from mlflow import MlflowClient

    (file,) = MlflowClient(server.uri).list_artifacts(run.info.run_id, "plots")
    assert file.path == "plots/curves.png"


def test_a_server_that_comes_back_during_the_run_gets_the_rest(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_access, "FIRST_PAUSE", 0.0)
    database = tmp_path / "mlflow.db"
    database.write_text("not a database, " * 100)
    ours = tracker(f"sqlite:///{database}", "back", journal=tmp_path / "journal")
    ours.begin({})
    assert ours.warnings
    database.write_bytes(Path(sqlite_uri.removeprefix("sqlite:///")).read_bytes())
    ours.log_epoch({"epoch": 0, "train_loss": 1.0})
    ours.end("FINISHED")
    assert ours.warnings == []
    assert [run.info.status for run in runs(ours._uri, "back")] == ["FINISHED"]


def test_system_metrics_go_on_counting_after_a_kill(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_metrics, "SAMPLE_SECONDS", 0.1)
    lines = tmp_path / "journal" / "journal.jsonl"
    for status, samples in (("FAILED", 3), ("FINISHED", 6)):
        ours = tracker(sqlite_uri, "machine", journal=tmp_path / "journal")
        ours.begin({})
        deadline = time.monotonic() + 60
        while lines.read_text().count("system/cpu_utilization_percentage") < samples and time.monotonic() < deadline:
            time.sleep(0.1)
        ours.end(status)
    (run,) = runs(sqlite_uri, "machine")
    steps = [step for step, _ in curve(sqlite_uri, run.info.run_id, "system/cpu_utilization_percentage")]
    assert len(steps) > 4
    assert steps == list(range(len(steps)))


def test_orphans_are_closed_and_others_left_alone(sqlite_uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(sqlite_uri)
    foreign = client.create_run(client.create_experiment("foreign")).info.run_id
    for key in ("orphan", "going"):
        tracker(sqlite_uri, "orphans", key).begin({})
    closed, trouble = close_orphans(sqlite_uri, lambda tags: tags[RUN_KEY] != "orphan")
    assert trouble is None
    assert [orphan.run_key for orphan in closed] == ["orphan"]
    assert {run.data.tags[RUN_KEY]: run.info.status for run in runs(sqlite_uri, "orphans")} == {
        "orphan": "KILLED",
        "going": "RUNNING",
    }
    assert client.get_run(foreign).info.status == "RUNNING"
    closed, trouble = close_orphans("http://127.0.0.1:9", lambda tags: False)
    assert closed == []
    assert "Connection refused" in str(trouble)


def test_mlflow_and_torch_are_loaded_only_when_they_are_used() -> None:
    modules = "tracking, registry, orphans, forwarding, journal"
    heavy = "{'mlflow', 'torch'}.isdisjoint(sys.modules)"
    light = f"import sys; from gbif_platform.training import {modules}; sys.exit(not {heavy})"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0
