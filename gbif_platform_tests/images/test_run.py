"""A whole run: shards and rows agree, whatever happens in between, and what was lost comes with the next run."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.images import uploads
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import ORIGINAL, FetchProgress, FetchSummary, fetch_images
from gbif_platform.images.shards import read_member, verify_shard
from gbif_platform.images.transform import Transform
from gbif_platform.storage import tables
from gbif_platform.storage.objects import ObjectStore, ObjectStoreError
from gbif_platform_tests.images.faulty_host import FaultyHost, picture

OPTIONS = FetchOptions(stall_timeout=0.5, deadline=1, retries=1, backoff=0.01, allow_private=True)
COLUMNS = {column.split()[0] for column in tables.TABLES["images"].split(", ")}


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


class Ledger:
    """Keeps what was committed, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[dict[str, Any]]] = []

    def commit(self, rows: list[dict[str, Any]]) -> None:
        self.calls.append(rows)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for call in self.calls for row in call]


def fetch_urls(urls: list[str], objects: ObjectStore, ledger: Ledger, **more: Any) -> FetchSummary:
    plan = [(f"u{number}", url) for number, url in enumerate(urls)]
    more = {"options": OPTIONS, "transform": Transform(32), **more}
    return fetch_images(plan, total=len(plan), objects=objects, commit=ledger.commit, **more)


def test_rows_and_shards_agree(host: FaultyHost, objects: ObjectStore) -> None:
    urls = [host.url(f"good/{number}") for number in range(25)] + [host.url("page"), host.url("status/404")]
    ledger = Ledger()
    summary = fetch_urls(urls, objects, ledger, shard_images=10)
    assert (summary.total, summary.done, summary.ok, summary.failed, summary.refused) == (27, 27, 25, 1, 1)
    assert summary.reasons == {"html_page": 1, "http_404": 1}
    assert summary.images_per_second > 0
    assert summary.bytes_received > summary.bytes_stored > 0

    assert sorted(row["url_id"] for row in ledger.rows) == sorted(f"u{number}" for number in range(27))
    assert all(set(row) == COLUMNS for row in ledger.rows)
    for row in ledger.rows:
        assert isinstance(row["fetched_at"], datetime)
        assert row["transform"] == "keep_ratio-32-jpeg-92"
        if row["status"] == "ok":
            data = read_member(objects, row["shard"], row["shard_offset"], row["shard_size"])
            assert sha256(data).hexdigest() == row["sha256"]
            assert sha256(picture(int(row["url"].rpartition("/")[2]))).hexdigest() == row["source_sha256"]
        else:
            assert row["shard"] is row["shard_offset"] is row["shard_size"] is None


def test_each_shard_is_committed_once_with_all_its_rows(host: FaultyHost, objects: ObjectStore) -> None:
    ledger = Ledger()
    summary = fetch_urls([host.url(f"good/{number}") for number in range(25)], objects, ledger, shard_images=10)
    shards = [{row["shard"] for row in call} for call in ledger.calls]
    assert [len(call) for call in ledger.calls] == [10, 10, 5]
    assert all(len(shard) == 1 for shard in shards)
    assert sorted(objects.list("images")) == sorted(summary.shards) == sorted(set.union(*shards))
    for call in ledger.calls:
        assert verify_shard(objects, call[0]["shard"], call) == []


def test_shards_are_there_before_their_rows(host: FaultyHost, objects: ObjectStore) -> None:
    def commit(rows: list[dict[str, Any]]) -> None:
        assert all(objects.exists(row["shard"]) for row in rows)

    fetch_images(
        [(str(n), host.url(f"good/{n}")) for n in range(5)], total=5, objects=objects, commit=commit, options=OPTIONS
    )


def test_nothing_planned_commits_nothing(objects: ObjectStore) -> None:
    ledger = Ledger()
    assert fetch_urls([], objects, ledger).done == 0
    assert ledger.calls == []
    assert list(objects.list("images")) == []


def test_failures_alone_are_committed_without_a_shard(host: FaultyHost, objects: ObjectStore) -> None:
    ledger = Ledger()
    assert fetch_urls([host.url("status/410"), "urn:x"], objects, ledger).shards == []
    assert Counter(row["reason"] for row in ledger.rows) == {"http_410": 1, "unsupported_scheme": 1}


def test_a_slow_run_commits_by_the_clock(host: FaultyHost, objects: ObjectStore) -> None:
    ledger = Ledger()
    fetch_urls([host.url("good/1"), host.url("stall")], objects, ledger, commit_every_seconds=0.2)
    assert [[row["status"] for row in call] for call in ledger.calls] == [["ok"], ["failed"]]


def test_a_long_commit_does_not_run_requests_into_time_outs(host: FaultyHost, objects: ObjectStore) -> None:
    ledger = Ledger()

    def commit(rows: list[dict[str, Any]]) -> None:
        time.sleep(1.2)
        ledger.commit(rows)

    plan = [(f"u{n}", host.url(f"good/{n % 7}")) for n in range(250)]
    summary = fetch_images(plan, total=250, objects=objects, commit=commit, options=OPTIONS, shard_images=100)
    assert summary.ok == 250
    assert {row["attempts"] for row in ledger.rows} == {1}


def test_progress_is_told_in_the_callers_thread(host: FaultyHost, objects: ObjectStore) -> None:
    told: list[tuple[int, int]] = []

    def progress(state: FetchProgress) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append((state.done, state.total))

    fetch_urls([host.url("good/1"), host.url("stall")], objects, Ledger(), progress=progress)
    assert len(told) >= 2
    assert told == sorted(told)
    assert told[-1] == (2, 2)


def test_it_works_inside_a_running_loop(host: FaultyHost, objects: ObjectStore) -> None:
    async def notebook() -> FetchSummary:
        return fetch_urls([host.url("good/1")], objects, Ledger())

    assert asyncio.run(notebook()).ok == 1


def test_originals_are_kept_in_shards_of_their_own(host: FaultyHost, objects: ObjectStore) -> None:
    ledger = Ledger()
    urls = [host.url(f"good/{number}") for number in range(3)] + [host.url("status/404")]
    fetch_urls(urls, objects, ledger, transform=Transform(32, keep_original=True))
    assert [row["status"] for row in ledger.rows].count("failed") == 2
    originals = [row for row in ledger.rows if row["transform"] == ORIGINAL]
    assert len(originals) == len(ledger.rows) / 2 == 4
    for row in originals:
        if row["status"] == "ok":
            served = picture(int(row["url"].rpartition("/")[2]))
            assert read_member(objects, row["shard"], row["shard_offset"], row["shard_size"]) == served
            assert row["shard"].startswith("images/original/")
            assert row["sha256"] == row["source_sha256"] == sha256(served).hexdigest()
            assert (row["width"], row["height"]) == (row["source_width"], row["source_height"])
    (shard,) = {row["shard"] for row in originals if row["shard"]}
    assert verify_shard(objects, shard, [row for row in originals if row["status"] == "ok"]) == []
    with tarfile.open(fileobj=BytesIO(objects.get(shard))) as tar:
        assert sorted(tar.getnames()) == ["u0.jpg", "u1.jpg", "u2.jpg"]


class SlowStore(ObjectStore):
    """Takes its time for every object."""

    def put(self, key: str, data: bytes | Path) -> None:
        time.sleep(0.5)
        super().put(key, data)


def test_the_next_shard_fills_while_one_is_stored(host: FaultyHost, tmp_path: Path) -> None:
    objects, ledger = SlowStore(str(tmp_path)), Ledger()
    filled: list[int] = []

    def commit(rows: list[dict[str, Any]]) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert all(objects.exists(row["shard"]) for row in rows)
        filled.append(len(host.seen))
        ledger.commit(rows)

    plan = [(f"u{n}", host.url(f"good/{n % 7}")) for n in range(40)]
    summary = fetch_images(plan, total=40, objects=objects, commit=commit, options=OPTIONS, shard_images=10)
    assert filled[0] >= 20
    assert [len(call) for call in ledger.calls] == [10, 10, 10, 10]
    assert summary.shards == [call[0]["shard"] for call in ledger.calls]


class FailingStore(ObjectStore):
    """Refuses so many requests to write, after having taken `sound` of them."""

    def __init__(self, url: str, refusals: int, sound: int = 0, says: str = "Connection refused") -> None:
        super().__init__(url)
        self.refusals, self.sound, self.says = refusals, sound, says
        self.asked = 0

    def put(self, key: str, data: bytes | Path) -> None:
        self.asked += 1
        if self.sound < self.asked <= self.sound + self.refusals:
            raise ObjectStoreError(f"cannot write {key}: {self.says}")
        super().put(key, data)


def test_a_store_that_comes_back_is_waited_for(
    host: FaultyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_pauses", lambda: itertools.repeat(0.3))
    objects, ledger, told = FailingStore(str(tmp_path), refusals=4, sound=1), Ledger(), set[str]()
    urls = [host.url(f"good/{number % 7}") for number in range(30)]
    summary = fetch_urls(urls, objects, ledger, shard_images=10, progress=lambda state: told.add(state.note))
    assert (summary.ok, len(summary.shards), summary.trouble) == (30, 3, "")
    assert [len(call) for call in ledger.calls] == [10, 10, 10]
    assert any("waiting for the object store" in note and "Connection refused" in note for note in told)


@pytest.mark.parametrize("says", ["Connection refused", "No space left on device (os error 28)"])
def test_a_store_that_stays_away_ends_the_run_and_what_was_stored_stays(
    says: str, host: FaultyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(uploads, "_pauses", lambda: itertools.repeat(0.06))
    objects, ledger = FailingStore(str(tmp_path), refusals=10**9, sound=1, says=says), Ledger()
    with pytest.raises(ObjectStoreError, match=re.escape(says)):
        fetch_urls([host.url(f"good/{number % 7}") for number in range(60)], objects, ledger, shard_images=10)
    assert objects.asked == 2 if "space" in says else objects.asked > 2
    assert [len(call) for call in ledger.calls] == [10]
    assert list(objects.list("images")) == [ledger.rows[0]["shard"]]
    assert fetch_threads() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


def fetch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "fetch"]


def test_an_error_of_commit_stops_everything_and_is_the_callers(host: FaultyHost, objects: ObjectStore) -> None:
    def commit(_: list[dict[str, Any]]) -> None:
        raise OSError(28, "No space left on device")

    def endless() -> Iterator[tuple[str, str]]:
        for number in range(10**9):
            yield f"u{number}", host.url(f"good/{number % 7}")

    started = time.monotonic()
    with pytest.raises(OSError, match="No space left"):
        fetch_images(endless(), total=10**9, objects=objects, commit=commit, options=OPTIONS, shard_images=5)
    assert time.monotonic() - started < 60, "it does not go on"
    assert fetch_threads() == []
    asked = len(host.seen)
    time.sleep(0.2)
    assert len(host.seen) == asked


def test_an_error_of_the_plan_is_the_callers(host: FaultyHost, objects: ObjectStore) -> None:
    def plan() -> Iterator[tuple[str, str]]:
        yield "u1", host.url("good/1")
        raise LookupError("the table went away")

    with pytest.raises(LookupError):
        fetch_images(plan(), total=2, objects=objects, commit=lambda _: None, options=OPTIONS)
    assert fetch_threads() == []


KILLED = """
import json, os, sys
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import fetch_images
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore

store, ledger, plan = sys.argv[1], sys.argv[2], json.load(sys.stdin)

def commit(rows):
    with open(ledger, "a") as file:
        file.write("".join(json.dumps(row, default=str) + "\\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())
    print(len(rows), flush=True)

fetch_images(plan, total=len(plan), objects=ObjectStore(store), commit=commit, transform=Transform(32),
             options=FetchOptions(allow_private=True, concurrency=8), shard_images=20)
"""


def test_killed_and_run_again_gives_the_same_images(tmp_path: Path) -> None:
    store, ledger = str(tmp_path / "objects"), tmp_path / "ledger.jsonl"
    ledger.touch()

    def committed() -> list[dict[str, Any]]:
        return [json.loads(line) for line in ledger.read_text().splitlines()]

    def start(plan: list[tuple[str, str]]) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", KILLED, store, str(ledger)]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdin is not None
        json.dump(plan, process.stdin)
        process.stdin.close()
        return process

    with FaultyHost(delay=0.02) as host:
        whole = [(f"u{number}", host.url(f"good/{number}")) for number in range(150)]
        for commits in (1, 2):
            done = {row["url_id"] for row in committed()}
            process = start([item for item in whole if item[0] not in done])
            assert process.stdout is not None
            for _ in range(commits):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        killed_at = len(committed())
        assert 60 <= killed_at < 150
        done = {row["url_id"] for row in committed()}
        with start([item for item in whole if item[0] not in done]) as last:
            assert last.wait(30) == 0

    rows = committed()
    assert {row["url_id"]: row["source_sha256"] for row in rows} == {
        f"u{number}": sha256(picture(number)).hexdigest() for number in range(150)
    }
    assert len(rows) == 150
    objects = ObjectStore(store)
    for shard in {row["shard"] for row in rows}:
        assert verify_shard(objects, shard, [row for row in rows if row["shard"] == shard]) == []
