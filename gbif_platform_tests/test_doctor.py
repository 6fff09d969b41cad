import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import click.testing
import pytest

from gbif_platform.commands import doctor as command
from gbif_platform.commands.doctor import doctor
from gbif_platform.training.tracking import HOST, PID, STARTED, MlflowTracker
from gbif_platform_tests.commands import Home

NOWHERE = "http://127.0.0.1:9"
REPOSITORY = Path(__file__).resolve().parents[1]
KILLED = """
import os, signal, sys
from pathlib import Path
from gbif_platform.training.tracking import MlflowTracker
tracker = MlflowTracker(sys.argv[1], "frogs", "k", run_name="baseline 2026", journal=Path(sys.argv[2]))
tracker.begin({"epochs": 3})
tracker._background.finish(100)  # on a busy machine the start goes on in its thread
assert tracker.run_id
tracker._background.start = lambda: None
tracker.log_epoch({"epoch": 0, "train_loss": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    home = Home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("GBIF_PLATFORM_GBIF_URL", NOWHERE)
    return home


def ask(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(doctor, list(arguments), catch_exceptions=False)


def findings() -> dict[str, dict[str, Any]]:
    result = ask("--json")
    answer = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["ok"] == (result.exit_code == 0) == all(finding["status"] != "error" for finding in found.values())
    return found


def test_a_fresh_home_is_made_and_well(home: Home) -> None:
    found = findings()
    assert {name for name, finding in found.items() if finding["status"] != "ok"} == {"pretrained weights", "gbif"}
    assert "Connection refused" in found["gbif"]["found"]
    assert "archives" in found["gbif"]["next_step"]
    assert "made just now" in found["home"]["found"]
    assert "version" in found["lake"]["found"]
    assert list(home.platform.objects.list("doctor")) == []
    assert (home.folder / "datasets").is_dir()


def test_people_get_a_table_that_says_what_to_do(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GBIF_PLATFORM_MLFLOW_URI", NOWHERE)
    result = ask()
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if line.split()[:2] == ["mlflow", "warning"]]
    assert "[Errno 111]" in result.stdout
    assert "start the server" in line


@pytest.mark.parametrize(
    ("text", "named"), [("fetch_timeout = 'soon'", "fetch_timeout"), ("home = [", "settings.toml"), ("a = 1", "'a'")]
)
def test_a_broken_settings_file_is_an_error(home: Home, text: str, named: str) -> None:
    home.folder.mkdir()
    (home.folder / "settings.toml").write_text(text)
    result = ask("--json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.stdout)["findings"]
    assert finding["status"] == "error"
    assert named in finding["found"]
    assert "correct" in finding["next_step"]


def test_a_home_that_cannot_be_made_is_an_error(home: Home) -> None:
    home.folder.write_text("a file")
    found = findings()
    assert found["home"]["status"] == "error"
    assert "GBIF_PLATFORM_HOME" in found["home"]["next_step"]


def test_a_lake_that_cannot_be_opened_is_an_error_among_the_rest(home: Home) -> None:
    (home.folder / "lake").mkdir(parents=True)
    (home.folder / "lake" / "catalog.sqlite").write_text("no database, " * 1000)
    found = findings()
    assert found["lake"]["status"] == "error"
    assert found["object store"]["status"] == "ok"


def test_an_object_store_out_of_reach_is_an_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.folder).mkdir()
    (home.folder / "objects").write_text("a file")
    found = findings()
    assert found["object store"]["status"] == "error"


def test_a_check_that_hangs_is_told_and_left_behind(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("GBIF_PLATFORM_GBIF_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(command, "NETWORK_SECONDS", 0.5)
        found = findings()
    assert found["gbif"]["status"] == "warning"


def test_a_killed_training_is_closed_and_its_journal_sent(home: Home) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{home.folder / 'mlflow' / 'mlflow.db'}"
    journal = home.folder / "work" / "training" / "frogs" / "journal"
    process = [sys.executable, "-c", KILLED, uri, str(journal)]
    killed = subprocess.run(process, cwd=REPOSITORY, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    alive = MlflowTracker(uri, "frogs", "alive", run_name="alive")
    alive.begin({})
    found = findings()
    assert found["journals"]["found"] == "1 sent to MLflow just now"
    assert "baseline 2026" in found["mlflow runs"]["found"]
    assert "alive" not in found["mlflow runs"]["found"]
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("frogs").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"baseline 2026": "KILLED", "alive": "RUNNING"}
    (dead,) = [run for run in runs if run.info.status == "KILLED"]
    assert dead.data.metrics["train_loss"] == 1.0
    assert findings()["mlflow runs"]["found"] == "none is RUNNING without a process"
    alive.end("FINISHED")


def test_who_is_alive() -> None:
    import psutil

    def alive(tags: dict[str, str], going: dict[str, bool] | None = None) -> bool:
        return command._alive(
            {"gbif_platform.run_started": "2026-01-01T00:00:00+00:00", **tags}, going or {}, timedelta(days=3)
        )

    here, pid = socket.gethostname(), str(os.getpid())
    started = psutil.Process().create_time()
    assert alive({HOST: here, PID: pid, STARTED: f"{started:.0f}"})
    assert not alive({HOST: here, PID: pid, STARTED: f"{started - 60:.0f}"}), "the pid is another process's now"
    assert not alive({HOST: "elsewhere", PID: pid, STARTED: "0"}), "silent since January"
    assert alive({HOST: "elsewhere", "gbif_platform.heartbeat": "2999-01-01T00:00:00+00:00"})
    assert alive({"run_id": "a"}, {"a": True})
    assert not alive({"run_id": "a", "gbif_platform.heartbeat": "2999-01-01T00:00:00+00:00"}, {"a": False})
