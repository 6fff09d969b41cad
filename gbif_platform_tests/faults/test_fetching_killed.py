"""kill -9 while pictures are fetched: the same pictures in the end, and little of the work done twice."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import psutil
import pytest
from polars.testing import assert_frame_equal

from gbif_platform_tests.faults.fetching import IN_FLIGHT, Fetching
from gbif_platform_tests.images.faulty_host import FaultyHost

pytestmark = pytest.mark.faults

COUNT, SHARD = 700, 40
HELD = 64
"""Results that wait for a commit to end, at most."""
SLOW = 0.2
"""Seconds for a picture: a shard takes longer to fill than to be committed, as it does in earnest."""
# Imports are done once, in a process that opens nothing: a run starts in half a second then.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["gbif_platform_tests.faults.fetching", "duckdb", "polars", "obstore"])


@pytest.fixture(scope="module")
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


@pytest.fixture(scope="module")
def undisturbed(host: FaultyHost, tmp_path_factory: pytest.TempPathFactory) -> Fetching:
    fetching = Fetching(tmp_path_factory.mktemp("undisturbed"), host.url("good"), COUNT, shard=SHARD)
    assert fetching().ok == COUNT
    return fetching


def kill_after(fetching: Fetching, host: FaultyHost, requests: int, later: float) -> tuple[int, list[psutil.Process]]:
    """Kill a run when it has made so many requests; returns how many there were, and the processes it had started."""
    before, host.delay = len(host.seen), SLOW
    process: BaseProcess = SERVER.Process(target=fetching)
    process.start()
    while len(host.seen) < before + requests and process.is_alive():
        time.sleep(0.001)
    time.sleep(later)
    assert process.is_alive(), "the run was to be killed before its end"
    assert process.pid is not None
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    host.delay = 0
    return len(host.seen) - before, children


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a while."""
    return psutil.wait_procs(processes, timeout=10)[1]


def test_killed_at_20_random_moments(host: FaultyHost, undisturbed: Fetching, tmp_path: Path) -> None:
    fetching, dice = Fetching(tmp_path, host.url("good"), COUNT, shard=SHARD), Random(20)
    wasted = []
    for _ in range(20):
        before = fetching.stored()
        asked, _ = kill_after(fetching, host, dice.randint(1, 2 * SHARD), dice.uniform(0, SLOW))
        wasted.append(asked - (fetching.stored() - before))
    assert 0 < fetching.stored() < COUNT, "the kills fell into the fetching"
    print("asked for in vain, by kill:", wasted)
    assert max(wasted) < 2 * SHARD + HELD + IN_FLIGHT, "the shard that fills, and the one on its way to the store"
    assert sum(wasted) / len(wasted) < SHARD, "under one shard of work is done again"
    missing = COUNT - fetching.stored()
    assert fetching().ok == missing
    assert_frame_equal(fetching.ledger(), undisturbed.ledger())
    assert fetching.problems() == []


def test_worker_processes_end_with_the_run_that_is_killed(
    host: FaultyHost, undisturbed: Fetching, tmp_path: Path
) -> None:
    fetching, dice = Fetching(tmp_path, host.url("good"), COUNT, processes=2, shard=SHARD), Random(3)
    for _ in range(3):
        _, workers = kill_after(fetching, host, dice.randint(1, 2 * SHARD), dice.uniform(0, SLOW))
        assert len(workers) >= 2
        assert alive(workers) == []
    fetching()
    assert_frame_equal(fetching.ledger(), undisturbed.ledger())
    assert fetching.problems() == []


def test_a_killed_worker_process_is_replaced(host: FaultyHost, undisturbed: Fetching, tmp_path: Path) -> None:
    fetching = Fetching(tmp_path, host.url("good"), COUNT, processes=2, shard=SHARD)
    before, host.delay = len(host.seen), 0.01
    process = SERVER.Process(target=fetching)
    process.start()
    assert process.pid is not None
    for requests in (20, 60):
        while len(host.seen) < before + requests:
            assert process.is_alive()
            time.sleep(0.001)
        victim = psutil.Process(process.pid).children()[0]
        victim.kill()
        victim.wait(timeout=30)  # the run has noticed: the next one is another
    process.join()
    fetching()  # a picture that two workers died over waits for the next run
    assert_frame_equal(fetching.ledger(), undisturbed.ledger())
    assert fetching.problems() == []
