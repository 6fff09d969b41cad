"""kill -9 while shards are compacted: every picture is where the index says, whenever it comes."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from gbif_platform.images.compaction import verify_all
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore
from gbif_platform_tests.faults.fetching import compact_for_ever
from gbif_platform_tests.images.ledger import picture, store, stored

pytestmark = pytest.mark.faults
SPAWN = multiprocessing.get_context("spawn")


def test_killed_at_random_moments(tmp_path: Path) -> None:
    lake = Lake(f"sqlite:{tmp_path / 'catalog.sqlite'}", str(tmp_path / "lake"))
    tables.initialise(lake)
    objects, dice = ObjectStore(str(tmp_path / "objects")), Random(5)
    for shard in range(4):
        store(lake, objects, {f"p{shard}-{number}": picture(100 * shard + number) for number in range(20)})
    before, version = stored(lake, objects), lake.version()
    for kill in range(6):
        ready = tmp_path / f"ready{kill}"
        process = SPAWN.Process(target=compact_for_ever, args=(lake.catalog, lake.data, objects, ready))
        process.start()
        while not ready.exists():
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1.5))
        assert process.is_alive()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert stored(lake, objects) == before
    assert lake.version() > version, "the kills fell into the work"
    assert verify_all(lake, objects, "test", lambda done, total: None).is_empty()
