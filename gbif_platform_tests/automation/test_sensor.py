"""A dataset's sensor: what appears at GBIF becomes a partition and one run, whatever happens in between."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from gbif_platform.dataset import Dataset, parse_dataset
from gbif_platform.definitions import build_defs
from gbif_platform.gbif import retry
from gbif_platform.orchestration import automation
from gbif_platform.orchestration.keys import job_name, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot, ask_again
from gbif_platform.storage import tables

RECORDS = SandboxDataset(size=24, troubles=0)
TEXT = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {source}}}
  label: species
"""


class Watched:
    """A dataset at the loopback GBIF, its definitions, and an instance on which its sensor ticks."""

    def __init__(self, home: Path, sandbox: Sandbox, source: str) -> None:
        self.sandbox = sandbox
        self.platform = Platform(Settings(home=home, allow_private_hosts=True))
        text = TEXT.format(source=source.replace("ENDPOINT", sandbox.url))
        self.dataset: Dataset = parse_dataset(text, home / "insects.yaml")
        self.definitions = build_defs(self.platform, [self.dataset])
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None

    def tick(self) -> list[str]:
        """One look; the partitions that runs were asked for. What Dagster does with a result is done here."""
        context = dg.build_sensor_context(
            instance=self.instance,
            definitions=self.definitions,
            cursor=self.cursor,
            resources={"platform": self.platform},
        )
        result = self.definitions.resolve_sensor_def("insects_sensor")(context)
        if isinstance(result, dg.SkipReason):
            self.said = result.skip_message or ""
            return []
        assert isinstance(result, dg.SensorResult)
        self.said = result.skip_reason.skip_message or "" if result.skip_reason else ""
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        runs = list(result.run_requests or [])
        assert all(run.run_key == f"insects:{run.partition_key}" for run in runs)
        return [str(run.partition_key) for run in runs]

    @property
    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(partitions_name("insects")))


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setenv("GBIF_USER", "frog")
    monkeypatch.setenv("GBIF_PWD", "secret")
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)
    with Sandbox() as sandbox:
        yield sandbox


def test_a_listed_doi_becomes_a_partition_once_it_is_finished(tmp_path: Path, sandbox: Sandbox) -> None:
    download = sandbox.publish(RECORDS)
    sandbox.set_status(download.key, "RUNNING")
    watch = f"{{watch: {{dois: [10.15468/dl.nowhere, {download.doi}]}}, endpoint: ENDPOINT}}"
    watched = Watched(tmp_path, sandbox, watch)
    assert watched.tick() == []
    assert "10.15468/dl.nowhere" in watched.said, "a wrong DOI is told, and holds up nobody"
    assert "RUNNING" in watched.said
    sandbox.set_status(download.key, "SUCCEEDED")
    assert watched.tick() == [download.doi]
    assert watched.partitions == [download.doi]
    assert watched.tick() == [], "one run, not one a look"


def test_a_users_new_downloads_are_taken(tmp_path: Path, sandbox: Sandbox) -> None:
    now = datetime.now(UTC)
    old = sandbox.publish(RECORDS, user="frog", created=now - timedelta(days=40))
    watched = Watched(tmp_path, sandbox, "{watch: {user: frog}, endpoint: ENDPOINT}")
    assert watched.tick() == [], "what was there before the first look is left alone"
    slow = sandbox.publish(RECORDS, user="frog", created=now + timedelta(seconds=60))
    sandbox.set_status(slow.key, "RUNNING")
    quick = sandbox.publish(RECORDS, user="frog", created=now + timedelta(seconds=90))
    assert watched.tick() == [quick.doi]
    sandbox.set_status(slow.key, "SUCCEEDED")
    assert watched.tick() == [slow.doi], "one that was asked for earlier and finished later is not missed"
    assert watched.tick() == []
    assert old.doi not in watched.partitions


def test_since_takes_older_downloads_too(tmp_path: Path, sandbox: Sandbox) -> None:
    old = sandbox.publish(RECORDS, user="frog", created=datetime.now(UTC) - timedelta(days=2))
    since = datetime.now(UTC) - timedelta(days=10)
    watched = Watched(tmp_path, sandbox, f"{{watch: {{user: frog, since: {since:%Y-%m-%d}}}, endpoint: ENDPOINT}}")
    assert watched.tick() == [old.doi]


def test_an_own_request_is_followed_to_its_end(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    sandbox.prepare_polls, sandbox.run_polls = 2, 2
    watched = Watched(tmp_path, sandbox, "{query: {country: [DK, PT]}, endpoint: ENDPOINT}")
    ask_again(watched.platform, watched.dataset, "2026-11-01T04:00")
    ask_again(watched.platform, watched.dataset, "2026-11-01T04:00")
    assert sandbox.counts()["POST /v1/occurrence/download/request"] == 1, "asked twice for one tick, asked once"
    looks = [watched.tick() for _ in range(6)]
    found = [key for keys in looks for key in keys]
    assert len(found) == 1
    assert found[0].startswith("10.15468/dl.")
    assert looks[0] == [], "not before GBIF has finished"
    key, new = add_snapshot(watched.platform, watched.dataset)
    assert (key, new) == (found[0], False), "run takes what the schedule has asked for"


def test_a_request_that_gbif_ends_is_told_and_not_waited_for(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    watched = Watched(tmp_path, sandbox, "{query: {country: DK}, endpoint: ENDPOINT}")
    ask_again(watched.platform, watched.dataset, "2026-11-01T04:00")
    key = watched.platform.lake.frame("SELECT download_key FROM download_requests")["download_key"][0]
    sandbox.set_status(key, "KILLED")
    assert watched.tick() == []
    assert "KILLED" in watched.said
    watched.tick()
    assert "KILLED" not in watched.said


def test_gbif_being_down_is_a_skipped_tick_with_a_reason(tmp_path: Path, sandbox: Sandbox) -> None:
    watched = Watched(tmp_path, sandbox, "{watch: {user: frog, since: 2026-01-01}, endpoint: ENDPOINT}")
    watched.tick()
    before = watched.cursor
    sandbox.down = True
    assert watched.tick() == []
    assert "cannot be reached" in watched.said
    assert "503" in watched.said
    assert watched.cursor == before
    sandbox.down = False
    found = sandbox.publish(RECORDS, user="frog", created=datetime.now(UTC))
    assert watched.tick() == [found.doi]


def test_a_wrong_password_fails_the_tick(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GBIF_PWD", "wrong password")
    watched = Watched(tmp_path, sandbox, "{watch: {user: frog}, endpoint: ENDPOINT}")
    with pytest.raises(dg.Failure) as failure:
        watched.tick()
    assert "GBIF_PWD" in str(failure.value.description)
    assert "wrong password" not in str(failure.value.description)


def test_a_download_without_media_or_for_another_dataset_is_left_alone(tmp_path: Path, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    sandbox.prepare_polls = sandbox.run_polls = 0
    watched = Watched(tmp_path, sandbox, "{watch: {user: frog, since: 2026-01-01}, endpoint: ENDPOINT}")
    other = Watched(tmp_path / "other", sandbox, "{query: {country: DK}, endpoint: ENDPOINT}")
    toads = other.dataset.model_copy(update={"name": "toads"})
    ask_again(other.platform, toads, "2026-11-01T04:00")
    assert watched.tick() == []
    assert "was requested for dataset toads" in watched.said


def test_what_was_added_by_hand_runs_unless_it_has_begun(tmp_path: Path, sandbox: Sandbox) -> None:
    one, two, three = (sandbox.publish(RECORDS) for _ in range(3))
    watched = Watched(tmp_path, sandbox, "{endpoint: ENDPOINT}")
    add_snapshot(watched.platform, watched.dataset, one.doi)
    watched.instance.add_dynamic_partitions(partitions_name("insects"), [two.key])
    add_snapshot(watched.platform, watched.dataset, three.doi)
    begun = tables.Outcome({}, rows_in=0, rows_out=0)
    stage = tables.Stage("insects", three.doi, "occurrences")
    tables.write_stage(watched.platform.lake, stage, "v", begun, run_id="by hand")
    assert watched.tick() == [one.doi, two.key]


def test_a_partition_that_is_running_is_not_launched_again(tmp_path: Path, sandbox: Sandbox) -> None:
    download = sandbox.publish(RECORDS)
    watched = Watched(tmp_path, sandbox, "{endpoint: ENDPOINT}")
    add_snapshot(watched.platform, watched.dataset, download.doi)
    watched.instance.add_dynamic_partitions(partitions_name("insects"), [download.doi])
    job = watched.definitions.resolve_job_def(job_name("insects"))
    run = watched.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": download.doi}
    )
    assert watched.tick() == []
    watched.instance.report_run_canceled(run)
    assert watched.tick() == [download.doi]


def test_key_doi_and_addresses_of_a_download_are_one_snapshot(tmp_path: Path, sandbox: Sandbox) -> None:
    download = sandbox.publish(RECORDS)
    watched = Watched(tmp_path, sandbox, "{endpoint: ENDPOINT}")
    forms = [
        download.doi,
        f"https://doi.org/{download.doi.upper()}",
        download.key,
        f"https://www.gbif.org/occurrence/download/{download.key}",
        f"doi:{download.doi}",
    ]
    keys = {add_snapshot(watched.platform, watched.dataset, form)[0] for form in forms}
    assert keys == {download.doi}
    assert tables.snapshots(watched.platform.lake, "insects")["download_key"].to_list() == [download.key]


def test_a_gbif_that_never_answers_skips_the_tick_before_dagster_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automation, "LOOK_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        watch = f'{{watch: {{dois: [10.15468/dl.sand01]}}, endpoint: "http://127.0.0.1:{silent.getsockname()[1]}"}}'
        with Sandbox() as sandbox:
            watched = Watched(tmp_path, sandbox, watch)
            assert watched.tick() == []
    assert "has not answered" in watched.said
