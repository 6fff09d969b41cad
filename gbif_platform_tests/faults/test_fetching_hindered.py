"""Fetching goes on, or ends cleanly and resumes: object store lost, disk full, lake locked."""

import multiprocessing
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gbif_platform.errors import explained
from gbif_platform.images import uploads
from gbif_platform.images.shards import ShardError
from gbif_platform.storage import lake as lake_module
from gbif_platform.storage import objects as objects_module
from gbif_platform.storage.lake import LakeError
from gbif_platform.storage.objects import ObjectStoreError
from gbif_platform_tests.faults.fetching import IN_FLIGHT, SHARD, Fetching
from gbif_platform_tests.faults.outage import Relay
from gbif_platform_tests.images.faulty_host import FaultyHost
from gbif_platform_tests.storage.worker import hold_transaction

pytest_plugins = "gbif_platform_tests.services"
COUNT = 120
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost(delay=0.01) as host:
        yield host


@pytest.fixture
def relay(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with Relay((address.hostname or "", address.port or 0)) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        yield relay


def assert_resumes(fetching: Fetching, host: FaultyHost) -> None:
    """The rest is fetched, and little a second time."""
    assert fetching.problems() == []
    missing = COUNT - fetching.stored()
    assert missing > 0
    assert fetching().ok == missing
    assert fetching.stored() == COUNT
    assert fetching.problems() == []


def test_a_store_that_comes_back_is_waited_for_and_nothing_is_lost(
    host: FaultyHost, s3: str, relay: Relay, tmp_path: Path
) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT, objects=f"{s3}/objects")

    def outage() -> None:
        while len(host.seen) < 2 * SHARD:
            time.sleep(0.005)
        relay.down()
        time.sleep(3)
        relay.up()

    trouble = threading.Thread(target=outage)
    trouble.start()
    assert fetching().ok == COUNT
    trouble.join()
    assert len(host.seen) == COUNT, "no picture is asked for twice"
    assert fetching.problems() == []


def test_a_store_that_stays_away_ends_the_run_and_it_resumes(
    host: FaultyHost, s3: str, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "PATIENCE", timedelta(seconds=0.5))
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 1.0)
    fetching = Fetching(tmp_path, host.url("good"), COUNT, objects=f"{s3}/objects")
    relay.down_after(40_000)
    with pytest.raises(ObjectStoreError, match=r"cannot write images/.* in s3://bucket-"):
        fetching()
    assert len(host.seen) <= fetching.stored() + 3 * SHARD + 64 + IN_FLIGHT, "no more is fetched than can be stored"
    relay.up()
    assert_resumes(fetching, host)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


def test_a_full_disk_of_the_store(host: FaultyHost, small_disk: Path, tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT, objects=str(small_disk / "objects"))
    small_disk.joinpath("filler").write_bytes(bytes(430_000))
    with pytest.raises(
        ObjectStoreError, match=f"cannot write images/.* in file://{small_disk}/objects: .*No space"
    ) as no:
        fetching()
    told = explained(no.value)
    assert told is not None
    assert "the disk is full" in told.cause
    assert 0 < fetching.stored() < COUNT
    make_room(small_disk)
    assert_resumes(fetching, host)


def test_a_full_disk_of_the_shard_in_work(
    host: FaultyHost, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    small_disk.joinpath("filler").write_bytes(bytes(500_000))
    fetching = Fetching(tmp_path, host.url("good"), COUNT)
    with pytest.raises(ShardError, match=f"cannot write the shard in work at {small_disk}/.*: No space left") as no:
        fetching()
    assert "TMPDIR" in no.value.next_step
    make_room(small_disk)
    assert_resumes(fetching, host)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_lake_that_another_process_writes_to_is_waited_for(host: FaultyHost, tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT)
    ready = tmp_path / "ready"
    writer = SPAWN.Process(target=hold_transaction, args=(fetching.lake.catalog, fetching.lake.data, str(ready)))
    writer.start()
    while not ready.exists():
        assert writer.is_alive()
        time.sleep(0.02)
    threading.Timer(3, writer.kill).start()
    assert fetching().ok == COUNT
    writer.join()
    assert len(host.seen) == COUNT, "no picture is asked for twice"
    assert fetching.problems() == []


def test_a_lake_that_stays_locked_ends_the_run_and_it_resumes(
    host: FaultyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT)
    with monkeypatch.context() as impatient, fetching.lake.transaction("test", "takes its time"):
        impatient.setattr(lake_module, "LOCK_WAIT", timedelta(seconds=0.5))
        with pytest.raises(LakeError, match="another process has been writing to the lake"):
            Fetching(tmp_path, host.url("good"), COUNT)()
    assert_resumes(fetching, host)


def test_a_reader_holds_nobody_up_and_sees_one_state(host: FaultyHost, tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT)
    reading = Fetching(tmp_path, host.url("good"), COUNT).lake
    with reading.reader() as con:
        con.execute("BEGIN")
        assert con.execute("SELECT count(*) FROM lake.images").fetchall() == [(0,)]
        assert fetching().ok == COUNT
        assert con.execute("SELECT count(*) FROM lake.images").fetchall() == [(0,)]
        con.execute("COMMIT")
        assert con.execute("SELECT count(*) FROM lake.images").fetchall() == [(COUNT,)]
