"""A whole run: shards and rows agree, whatever happens in between, and what was lost comes with the next run."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import FetchProgress, FetchSummary, fetch_images
from gbif_platform.images.shards import read_member, verify_shard
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore
from gbif_platform_tests.images.faulty_host import FaultyHost, picture

OPTIONS = FetchOptions(stall_timeout=0.5, deadline=1, retries=1, backoff=0.01, allow_private=True)
COLUMNS = {
    "url_id", "transform", "url", "status", "reason", "detail", "http_status", "source_sha256", "sha256", "width",
    "height", "source_width", "source_height", "source_bytes", "source_format", "frames", "shard", "shard_offset",
    "shard_size", "attempts", "fetched_at", "retry_at",
}  # fmt: skip


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
    assert time.monotonic() - started < 5
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
