"""A whole fetching run: pictures into shards, and a row for every URL, committed shard by shard.

Network and decoding run in threads of their own; shards are stored and rows are committed in the caller's thread, so
`commit` may use the caller's connections, and its errors are the caller's errors.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from gbif_platform.images.fetch import FetchResult, fetch
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.shards import ShardWriter, sweep_orphans
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore

PROGRESS_EVERY_SECONDS = 0.5
TICK_SECONDS = 0.05
HANDOVER_SIZE = 64

Row = dict[str, Any]


@dataclass
class FetchProgress:
    """Where a run stands.

    Attributes:
        total: URLs planned.
        ok, failed, refused: URLs done, by status.
        reasons: how many of the failed and refused there are, by reason.
        bytes_received, bytes_stored: of bodies and of the pictures made from them.
        shards: keys of the shards committed.
        seconds: since the start.
    """

    total: int
    ok: int = 0
    failed: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    bytes_received: int = 0
    bytes_stored: int = 0
    shards: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """URLs with a result."""
        return self.ok + self.failed + self.refused

    @property
    def images_per_second(self) -> float:
        """Pictures stored per second since the start."""
        return self.ok / self.seconds if self.seconds else 0.0

    def count(self, result: FetchResult) -> None:
        """Add one result."""
        if result.status == "ok":
            self.ok += 1
        elif result.status == "failed":
            self.failed += 1
        else:
            self.refused += 1
        if result.reason:
            self.reasons[result.reason] += 1
        self.bytes_received += result.source_bytes or 0
        self.bytes_stored += len(result.data or b"")


class FetchSummary(FetchProgress):
    """How a run ended; every planned URL is counted."""


def fetch_images(
    plan: Iterable[tuple[str, str]],
    *,
    total: int,
    objects: ObjectStore,
    commit: Callable[[list[Row]], None],
    transform: Transform | None = None,
    options: FetchOptions | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
    shard_images: int = 1000,
    commit_every_seconds: float = 30,
) -> FetchSummary:
    """Fetch every (url_id, url) of the plan into shards.

    Args:
        plan: each url_id once; read lazily and in another thread.
        total: how many the plan has, for the progress.
        commit: gets rows with the columns of the `images` table: those of one stored shard and all failures since the
            last call. Rows of a call belong together; a killed run loses what was not committed, and running again
            with that part of the plan completes it.
        progress: called about twice a second and at the end, in the caller's thread, always with the same object.
        shard_images: pictures per shard, at most.
        commit_every_seconds: a shard is closed at this age even when it is not full.

    Works with and without a running event loop in the caller's thread; it blocks either way.

    Raises:
        ShardError, ObjectStoreError: no room, or the store does not answer.
        Exception: whatever `plan`, `commit` or `progress` raises; all requests have ended by then.
    """
    transform = transform or Transform()
    sweep_orphans()
    summary = FetchSummary(total)
    started = last_shown = time.monotonic()
    with (
        _Batch(objects, transform, commit, summary) as batch,
        _results(plan, options or FetchOptions(), transform) as results,
    ):
        for result in results:
            if result is not None:
                summary.count(result)
                batch.add(result)
            now = time.monotonic()
            if batch.pictures >= shard_images or batch.full or now - batch.opened >= commit_every_seconds:
                batch.commit()
                now = time.monotonic()
            if progress and now - last_shown >= PROGRESS_EVERY_SECONDS:
                summary.seconds, last_shown = now - started, now
                progress(summary)
        batch.commit()
    summary.seconds = time.monotonic() - started
    if progress:
        progress(summary)
    return summary


class _Batch:
    """The open shard and the rows that will be committed with it."""

    def __init__(
        self, objects: ObjectStore, transform: Transform, commit: Callable[[list[Row]], None], summary: FetchSummary
    ) -> None:
        self._objects = objects
        self._transform = transform
        self._commit = commit
        self._summary = summary
        self._rows: list[Row] = []
        self._writer: ShardWriter | None = None
        self.opened = time.monotonic()

    def __enter__(self) -> "_Batch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.discard()

    @property
    def pictures(self) -> int:
        return len(self._writer) if self._writer is not None else 0

    @property
    def full(self) -> bool:
        return self._writer is not None and self._writer.full

    def add(self, result: FetchResult) -> None:
        row = asdict(result) | {
            "transform": self._transform.key,
            "shard": None,
            "shard_offset": None,
            "shard_size": None,
        }
        data = row.pop("data")
        if data is not None:
            if self._writer is None:
                self._writer = ShardWriter(self._objects, self._transform)
            row["shard_offset"], row["shard_size"] = self._writer.add(result.url_id, data)
        self._rows.append(row)

    def commit(self) -> None:
        """Store the shard, then hand over its rows: a row never points to a shard that is not there."""
        self.opened = time.monotonic()
        if self._writer is not None:
            shard = self._writer.close()
            self._writer = None
            for row in self._rows:
                if row["shard_size"] is not None:
                    row["shard"] = shard
            self._summary.shards.append(shard)
        rows, self._rows = self._rows, []
        if rows:
            self._commit(rows)


@contextmanager
def _results(
    plan: Iterable[tuple[str, str]], options: FetchOptions, transform: Transform
) -> Iterator[Iterator[FetchResult | None]]:
    """The results of `fetch`, run by an event loop in a thread of its own; None now and then while nothing comes."""
    handover: SimpleQueue[FetchResult] = SimpleQueue()
    # Waited for by the loop without blocking it: a long commit must not run requests in flight into their time-outs.
    room = asyncio.Semaphore(HANDOVER_SIZE)

    async def pump() -> None:
        async with aclosing(fetch(plan, options, transform)) as source:
            async for result in source:
                await room.acquire()
                handover.put(result)

    def take() -> Iterator[FetchResult | None]:
        while not (pumping.done() and handover.empty()):
            try:
                result = handover.get(timeout=TICK_SECONDS)
            except Empty:
                yield None
            else:
                loop.call_soon_threadsafe(room.release)
                yield result
        pumping.result()

    loop = asyncio.new_event_loop()
    # For name look-ups, which block: as many as pictures in work, so that dead names do not hold up the others.
    resolvers = ThreadPoolExecutor(options.concurrency, thread_name_prefix="resolve")
    loop.set_default_executor(resolvers)
    thread = Thread(target=loop.run_forever, name="fetch", daemon=True)
    thread.start()
    pumping = asyncio.run_coroutine_threadsafe(pump(), loop)
    try:
        yield take()
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_tasks(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        resolvers.shutdown(wait=False, cancel_futures=True)
        loop.close()


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
