"""One object that knows where everything is: settings, lake, object store. Made in a notebook by `Platform()`."""

import logging
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from gbif_platform.settings import Settings, load_settings
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.shard_cache import ShardCache

log = logging.getLogger("gbif_platform")

Progress = Callable[[str, int, int | None, str], None]
"""Called as (stage, done, total, note) while a step works; `total` is None while it is unknown."""


class LogProgress:
    """Progress as log lines, at most one in `every` seconds for each stage."""

    def __init__(self, every: float = 5.0) -> None:
        self.every = every
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Log where a stage stands, unless it said so a moment ago."""
        now = time.monotonic()
        if now - self._last.setdefault(stage, now) >= self.every:
            self._last[stage] = now
            log.info("%s: %s%s %s", stage, f"{done:,}", f" of {total:,}" if total else "", note)


class Platform:
    """Settings, lake and object store of one installation; the tables are created on first use.

    Args:
        settings: default = environment and `settings.toml`.
        progress: where steps report to; default = the log.
    """

    def __init__(self, settings: Settings | None = None, progress: Progress | None = None) -> None:
        self.settings = settings or load_settings()
        self.progress: Progress = progress or LogProgress()

    @cached_property
    def lake(self) -> Lake:
        """The lake, with its tables in place."""
        lake = Lake(self.settings.catalog_url, self.settings.lake_data)
        tables.initialise(lake)
        return lake

    @cached_property
    def objects(self) -> ObjectStore:
        """The object store."""
        return ObjectStore(self.settings.objects_url)

    @cached_property
    def shards(self) -> ObjectStore | ShardCache:
        """The object store for who reads pictures again and again: shards from S3 are copied to this machine."""
        most = int(self.settings.shard_cache_gb * 1e9)
        if self.objects.folder or not most:
            return self.objects
        return ShardCache(self.objects, self.settings.home / "cache" / "shards", most)

    def work_folder(self, *parts: str) -> Path:
        """A local folder for resumable work in progress; what is finished goes to the lake or the object store."""
        folder = self.settings.home.joinpath("work", *parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
