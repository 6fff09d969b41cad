"""The real daemon: what appears at GBIF is worked through to metrics, without a hand on it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gbif_platform.orchestration.instance import prepare_home
from gbif_platform.orchestration.keys import partitions_name
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform_tests.commands import Home

pytestmark = pytest.mark.e2e

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 420
DATASET = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{watch: {{user: frog, since: 2026-01-01}}, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: any}}
  images: {{size: 32}}
  split: {{subsets: {{train: 0.6, validation: 0.2, test: 0.2}}}}
  models:
    tiny: {{backbone: test_resnet, image_size: 32, epochs: 1}}
"""
RECORDS = SandboxDataset(size=60, troubles=0)


@contextmanager
def daemon(home: Path) -> Iterator[None]:
    """`dagster-daemon run` as a child process, with all its servers."""
    program = Path(sys.executable).parent / "dagster-daemon"
    with (home / "daemon.log").open("a") as log:
        child = subprocess.Popen(
            [program, "run", "-w", PROJECT / "workspace.yaml"],
            cwd=home,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)


def until(what: str, ready: Callable[[], Any], home: Path) -> Any:
    """Wait for something to be true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(1)
    pytest.fail(
        f"{what} did not happen in {PATIENCE_S} s; the daemon's log ends\n{(home / 'daemon.log').read_text()[-4000:]}"
    )


def test_a_new_doi_becomes_metrics_without_a_hand_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Home(tmp_path, monkeypatch)
    for name, value in {
        "GBIF_PLATFORM_AUTOMATION": "RUNNING",
        "GBIF_PLATFORM_SENSOR_INTERVAL": "2",
        "GBIF_PLATFORM_EXECUTOR": "in_process",
        "GBIF_USER": "frog",
        "GBIF_PWD": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    with Sandbox() as sandbox:
        platform = Platform(Settings(home=tmp_path))
        prepare_home(platform.settings)
        platform.settings.datasets.mkdir(parents=True)
        (platform.settings.datasets / "insects.yaml").write_text(DATASET.format(endpoint=sandbox.url))
        platform.lake.version()
        with dg.DagsterInstance.get() as instance:

            def evaluated(doi: str) -> bool:
                frame = platform.lake.frame("SELECT 1 FROM evaluation_metrics WHERE snapshot = ?", [doi])
                return len(frame) > 0

            def runs(doi: str) -> list[dg.DagsterRun]:
                return list(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": doi})))

            def succeeded(doi: str) -> bool:
                return evaluated(doi) and all(run.is_success for run in runs(doi))

            with daemon(tmp_path):
                first = sandbox.publish(RECORDS, user="frog", created=datetime.now(UTC))
                second = sandbox.publish(replace(RECORDS, grow=0.1), user="frog", created=datetime.now(UTC))
                until("the second DOI", lambda: succeeded(first.doi) and succeeded(second.doi), tmp_path)
            with daemon(tmp_path):  # the cursor survives the daemon
                third = sandbox.publish(replace(RECORDS, grow=0.2), user="frog", created=datetime.now(UTC))
                until("the third DOI", lambda: succeeded(third.doi), tmp_path)
            dois = [first.doi, second.doi, third.doi]
            assert instance.get_dynamic_partitions(partitions_name("insects")) == dois
            assert [len(runs(doi)) for doi in dois] == [1, 1, 1]
            times = [instance.get_run_records(dg.RunsFilter(run_ids=[runs(doi)[0].run_id]))[0] for doi in dois]
            assert times[0].end_time <= times[1].start_time, "one snapshot after the other"
    changes = platform.lake.frame("SELECT DISTINCT previous, snapshot, change FROM snapshot_changes ORDER BY snapshot")
    assert changes.rows() == [(first.doi, second.doi, "added"), (second.doi, third.doi, "added")]
