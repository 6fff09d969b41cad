"""A fetching run over a real lake and store, without Dagster: to be killed, starved and locked out."""

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from gbif_platform.images.compaction import rewrite, survey, unneeded
from gbif_platform.images.progress import FetchSummary
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import fetch_images
from gbif_platform.images.shards import ShardProblem, verify_shard
from gbif_platform.images.transform import Transform
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore

SHARD, IN_FLIGHT = 15, 4
TRANSFORM = Transform(32)


class Fetching:
    """Pictures `p0`, `p1`, … of a host, fetched into a home; what the ledger has is not asked for again.

    Args:
        home: of the lake, and of the store where `objects` is none.
        address: of the pictures, to be followed by their number.
    """

    def __init__(
        self, home: Path, address: str, count: int, *, objects: str = "", processes: int = 1, shard: int = SHARD
    ) -> None:
        self.home, self.address, self.count, self.processes, self.shard = home, address, count, processes, shard
        self.objects_url = objects or str(home / "objects")

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens the lake itself."""
        return {name: value for name, value in vars(self).items() if name != "lake"}

    @cached_property
    def lake(self) -> Lake:
        """The lake."""
        lake = Lake(f"sqlite:{self.home / 'catalog.sqlite'}", str(self.home / "lake"))
        tables.initialise(lake)
        return lake

    def __call__(self) -> FetchSummary:
        """Fetch what is missing."""
        known = set(self.lake.frame("SELECT url_id FROM images WHERE status = 'ok'")["url_id"])
        plan = [(f"p{number}", f"{self.address}/{number}") for number in range(self.count)]
        plan = [wanted for wanted in plan if wanted[0] not in known]
        return fetch_images(
            plan,
            total=len(plan),
            objects=ObjectStore(self.objects_url),
            commit=lambda rows: tables.add_images(self.lake, rows, run_id="faults"),
            transform=TRANSFORM,
            options=FetchOptions(
                allow_private=True, concurrency=IN_FLIGHT, per_host=IN_FLIGHT, processes=self.processes, retries=0
            ),
            shard_images=self.shard,
        )

    def stored(self) -> int:
        """How many pictures the ledger has."""
        return len(self.lake.frame("SELECT url_id FROM images WHERE status = 'ok'"))

    def ledger(self) -> pl.DataFrame:
        """What must not depend on what happened on the way."""
        return self.lake.frame("SELECT url_id, status, reason, source_sha256, sha256 FROM images ORDER BY url_id")

    def problems(self) -> list[ShardProblem]:
        """What is wrong with any shard, or any row. A shard that no row names is whole all the same."""
        rows = self.lake.frame("SELECT * FROM images WHERE status = 'ok'")
        objects = ObjectStore(self.objects_url)
        found = []
        for shard in {*objects.list("images"), *rows["shard"]}:
            found += verify_shard(objects, shard, rows.filter(pl.col("shard") == shard).to_dicts())
        return [problem for problem in found if problem.problem != "not_in_index"]


def compact_for_ever(catalog: str, data: str, objects: ObjectStore, ready: Path) -> None:
    """Rewrite all shards, then all the new ones, and delete the old ones at once; touches `ready` as it begins."""
    lake = Lake(catalog, data)
    lake.version()
    ready.touch()
    while True:
        shards = survey(lake, objects).filter(pl.col("pictures") > 0)["shard"].to_list()
        rewrite(lake, objects, shards, shard_images=SHARD, author="faults", told=lambda done, total: None)
        for shard in unneeded(lake, survey(lake, objects), timedelta(0)):
            objects.delete(shard)
