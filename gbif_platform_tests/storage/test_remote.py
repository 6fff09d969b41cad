"""Past one machine: the lake over a real PostgreSQL and a real S3 server, and the whole chain of stages over both."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from urllib.parse import unquote, urlsplit

import boto3  # type: ignore[import-untyped]
import psycopg2
import pytest

from gbif_platform.dataset import parse_dataset
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Run
from gbif_platform.steps.splits import splits
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake, LakeError

# The behaviour of the local lake is asked of this one too: the same tests, with this module's `lake`.
from gbif_platform_tests.storage.test_lake import (  # noqa: F401
    STAGE,
    outcome,
    test_a_failed_block_leaves_nothing_behind,
    test_a_read_only_lake_refuses_writes,
    test_a_stage_replaces_its_own_rows_and_no_others,
    test_an_old_state_can_be_read_again_by_its_version,
    test_columns_of_a_new_archive_are_added_and_old_rows_stay,
    test_images_are_one_row_for_each_url_and_transform,
)
from gbif_platform_tests.storage.worker import hold_transaction, open_and_append

pytest_plugins = "gbif_platform_tests.services"
STEPS = (occurrences, media_urls, balanced_samples, downloaded_images, duplicate_images, splits)
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def lake(postgres: str, s3: str) -> Lake:
    lake = Lake(postgres, f"{s3}/lake")
    tables.initialise(lake)
    return lake


def keys_in(bucket_url: str, prefix: str = "") -> list[str]:
    """What the bucket holds, by another client than the platform's."""
    bucket = boto3.resource("s3").Bucket(bucket_url.removeprefix("s3://"))
    return [found.key for found in bucket.objects.filter(Prefix=prefix)]


def test_rows_lie_in_the_bucket(lake: Lake, s3: str) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome([str(n) for n in range(100)]), run_id="r")
    assert any(key.endswith(".parquet") for key in keys_in(s3, "lake/main/occurrences/"))


def test_text_that_is_hard_on_databases_comes_back_unchanged(lake: Lake) -> None:
    texts = ["nul \0 byte", 'it\'s "quoted" \\ $1 %s', "line\nbreak\t", "江口 🐸", ""]
    for times in (1, 100):  # a few rows lie in the catalogue, many in a file
        tables.write_stage(lake, STAGE, f"v{times}", outcome(texts * times), run_id="r")
        assert lake.frame("SELECT DISTINCT gbif_id FROM occurrences")["gbif_id"].sort().to_list() == sorted(texts)


def test_processes_that_find_no_lake_make_one_and_take_turns_at_writing(postgres: str, s3: str) -> None:
    workers, times = 3, 2
    processes = [SPAWN.Process(target=open_and_append, args=(postgres, f"{s3}/lake", n, times)) for n in range(workers)]
    for process in processes:
        process.start()
    lake = Lake(postgres, f"{s3}/lake")
    tables.initialise(lake)
    seen = set()
    while any(process.is_alive() for process in processes):
        seen |= set(lake.frame("SELECT snapshot, count(*) AS n FROM occurrences GROUP BY snapshot")["n"].to_list())
        time.sleep(0.2)
    assert [process.exitcode for process in processes] == [0] * workers
    assert seen <= {50}, "a reader never sees half of a transaction"
    assert lake.frame("SELECT count(*) AS n FROM occurrences")["n"][0] == workers * 50
    assert lake.frame("SELECT count(*) AS n FROM lake.snapshots() WHERE author LIKE 'w%'")["n"][0] == workers * times


def test_kill_9_inside_a_transaction_loses_it_and_frees_the_lock(lake: Lake, tmp_path: Path) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1"]), run_id="r")
    ready = tmp_path / "ready"
    process = SPAWN.Process(target=hold_transaction, args=(lake.catalog, lake.data, str(ready)))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start = time.monotonic()
    tables.write_stage(lake, STAGE, "v2", outcome(["1", "2"]), run_id="r")
    assert time.monotonic() - start < 60, "the lock is free"
    assert len(lake.frame("FROM occurrences")) == 2


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT is a KeyboardInterrupt here, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_writer_that_waits_can_be_stopped(lake: Lake, ctrl_c: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbif_platform.storage.lake.LOCK_WAIT", timedelta(seconds=20))
    waiting = Lake(lake.catalog, lake.data)
    waiting.version()
    with lake.transaction("r", "takes its time"):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), waiting.transaction("r", "waits"):
            pass


def test_a_writer_that_waits_gives_up_in_the_end(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbif_platform.storage.lake.LOCK_WAIT", timedelta(seconds=0.2))
    waiting = Lake(lake.catalog, lake.data)
    with (
        lake.transaction("r", "takes its time"),
        pytest.raises(LakeError, match="another process has been writing"),
        waiting.transaction("r", "waits"),
    ):
        pass


def end_sessions(catalog: str) -> None:
    """What a restart of PostgreSQL does to its clients."""
    with closing(psycopg2.connect(catalog)) as server:
        server.cursor().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_restart_of_the_server_fails_the_transaction_and_no_later_one(lake: Lake) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1"]), run_id="r")

    def cut_off() -> None:
        with lake.transaction("r", "it") as con:
            con.execute("DELETE FROM lake.occurrences")
            end_sessions(lake.catalog)

    with pytest.raises(LakeError, match="the lake did not take it") as failure:
        cut_off()
    assert not reveals_password(failure.value, lake.catalog)
    assert len(lake.frame("FROM occurrences")) == 1
    tables.write_stage(lake, STAGE, "v2", outcome(["1", "2"]), run_id="r")
    assert len(lake.frame("FROM occurrences")) == 2


def reveals_password(error: BaseException, catalog: str) -> bool:
    text = "".join(traceback.format_exception(error))
    password = urlsplit(catalog).password or ""
    return password in text or unquote(password) in text


@pytest.mark.parametrize("read_only", [False, True])
def test_a_catalogue_that_is_not_there_is_named_without_the_password(postgres: str, s3: str, read_only: bool) -> None:
    lake = Lake(postgres.replace("/lake_", "/none_"), f"{s3}/lake", read_only=read_only)
    with pytest.raises(LakeError, match=r"the lake at postgresql://127\.0\.0\.1:\d+/none_.* does not exist") as failure:
        lake.cursor()
    assert not reveals_password(failure.value, lake.catalog)


def test_data_that_cannot_be_reached_fails_the_write_with_its_cause(postgres: str, s3: str) -> None:
    lake = Lake(postgres, f"{s3}-other/lake")
    tables.initialise(lake)  # tables lie in the catalogue alone
    with pytest.raises(LakeError, match=r"the lake did not take frogs/occurrences .*s3://bucket-.*-other.* 404"):
        tables.write_stage(lake, STAGE, "v1", outcome([str(n) for n in range(100)]), run_id="r")
    assert tables.stage_version(lake, STAGE) is None


def test_missing_credentials_are_named(postgres: str, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(LakeError, match="AWS_ACCESS_KEY_ID is not set"):
        Lake(postgres, f"{s3}/lake").cursor()


@pytest.mark.parametrize(
    ("catalog", "data"), [("mysql://me:secret@host/lake", "data"), ("sqlite:lake.sqlite", "gs://bucket/lake")]
)
def test_other_catalogues_and_stores_are_refused(catalog: str, data: str) -> None:
    with pytest.raises(LakeError, match="is not supported") as failure:
        Lake(catalog, data)
    assert "secret" not in str(failure.value)


def test_two_machines_take_turns_at_the_chain_and_a_second_run_writes_nothing(
    postgres: str, s3: str, tmp_path: Path
) -> None:
    def machine(name: str) -> Platform:
        """It has nothing in common with the others but the two settings."""
        home = tmp_path / name
        return Platform(Settings(home=home, catalog=postgres, data=f"{s3}/group", allow_private_hosts=True))

    one, two, three = (machine(name) for name in ("one", "two", "three"))
    with Sandbox() as sandbox:
        doi = sandbox.publish(SandboxDataset(size=40)).doi
        dataset = parse_dataset(
            f"""
type: gbif_platform.components.ImageDataset
attributes:
  source: {{gbif_download: {{doi: {doi}, endpoint: "{sandbox.url}"}}}}
  label: species
  filters: {{licences: any}}
  sampling: {{policy: all}}
""",
            tmp_path / "insects.yaml",
        )
        snapshot, _ = add_snapshot(one, dataset)

        reports = [
            step(Run(platform, dataset, snapshot)) for step, platform in zip(STEPS, cycle((one, two)), strict=False)
        ]
        assert [check for report in reports for check in report.checks if not (check.passed or check.only_warn)] == []
        assert all(report.written for report in reports)
        pictures = reports[3].numbers
        assert pictures["pictures"] > 40
        stored = keys_in(s3)
        assert sum(key.startswith("group/objects/images/") for key in stored) == pictures["shards"]
        assert not list(tmp_path.rglob("*.tar")), "no picture stays on a machine"

        version, requests = three.lake.version(), sandbox.counts()
        again = [step(Run(three, dataset, snapshot)) for step in STEPS]
        assert not any(report.written for report in again)
        assert [report.version for report in again] == [report.version for report in reports]
        assert three.lake.version() == version
        assert sandbox.counts() == requests
        assert keys_in(s3) == stored
