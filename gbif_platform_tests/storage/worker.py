"""What the storage tests do in processes of their own; imports little, so that they start quickly."""

import time
from itertools import cycle
from pathlib import Path

import polars as pl

from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.shard_cache import ShardCache
from gbif_platform.storage.tables import Outcome, Stage


def open_and_append(catalog: str, data: str, worker: int, times: int) -> None:
    """Replace a stage's 50 rows, `times` times; the lake need not be there yet."""
    lake = Lake(catalog, data)
    tables.initialise(lake)
    for turn in range(times):
        rows = pl.DataFrame({"gbif_id": [f"{turn}-{n}" for n in range(50)]})
        stage = Stage("frogs", f"{worker}", "occurrences")
        tables.write_stage(lake, stage, f"{turn}", Outcome({"occurrences": rows}, 50, 50), run_id=f"w{worker}")


def hold_transaction(catalog: str, data: str, ready: str) -> None:
    """Write, touch `ready`, and never commit."""
    with Lake(catalog, data).transaction("victim", "never commits") as con:
        con.execute(
            "INSERT INTO lake.occurrences (dataset, snapshot, gbif_id) SELECT 'x', 'y', range::VARCHAR FROM range(9999)"
        )
        Path(ready).touch()
        time.sleep(600)


def put_for_ever(store: ObjectStore, key: str, files: list[Path]) -> None:
    """Put one file after the other under the same key."""
    for file in cycle(files):
        store.put(key, file)


def get(store: ObjectStore, key: str, copy: Path) -> None:
    """Copy an object to a file."""
    copy.write_bytes(store.get(key))


def read_cached(cache: ShardCache, key: str) -> None:
    """Exit with 0 where the cache has a copy of 20 MB."""
    path = cache.path_of(key)
    assert path is not None
    assert path.stat().st_size == 20_000_000
