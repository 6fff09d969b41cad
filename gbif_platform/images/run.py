"""A whole fetching run: pictures into shards, and a row for every URL, committed shard by shard.

Network and decoding run in threads or processes of their own, and a full shard is uploaded while the next one fills;
rows are committed in the caller's thread, so `commit` may use the caller's connections, and its errors are the
caller's errors.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import fields
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from gbif_platform.images.fetch import FetchResult, fetch
from gbif_platform.images.local_files import read_pictures
from gbif_platform.images.plan import Wanted
from gbif_platform.images.progress import FetchProgress, FetchSummary
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.shards import ORIGINAL, ShardWriter, sweep_orphans
from gbif_platform.images.transform import Transform
from gbif_platform.images.uploads import Upload
from gbif_platform.storage.objects import ObjectStore

__all__ = ["ORIGINAL", "FetchProgress", "FetchSummary", "Row", "fetch_images"]

PROGRESS_EVERY_SECONDS = 0.5
TICK_SECONDS = 0.05
HANDOVER_SIZE = 64
RELEASED_TOGETHER = 16

SUFFIXES = {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif", "jpeg2000": ".jp2"}
BYTES = ("data", "original")
RESULT_COLUMNS = tuple(one.name for one in fields(FetchResult) if one.name not in BYTES)

Row = dict[str, Any]


def fetch_images(
    plan: Iterable[Wanted | tuple[str, str]],
    *,
    total: int,
    objects: ObjectStore,
    commit: Callable[[list[Row]], None],
    transform: Transform | None = None,
    options: FetchOptions | None = None,
    progress: Callable[[FetchProgress], None] | None = None,
    shard_images: int = 1000,
    commit_every_seconds: float = 30,
    folder: Path | None = None,
) -> FetchSummary:
    """Fetch every picture of the plan into shards.

    Args:
        plan: each url_id once; read lazily and in another thread.
        total: how many the plan has, for the progress.
        commit: gets rows with the columns of the `images` table, of one batch: those of a stored shard, of its
            originals where they are kept, and all failures meanwhile. They belong together. A row whose `status` is
            `unchanged` says only when the stored picture was last asked for. A killed run loses what was not committed:
            the shard that fills and the one on its way to the store; running again completes it.
        progress: called about twice a second and at the end, in the caller's thread, always with the same object.
        shard_images: pictures per shard, at most.
        commit_every_seconds: a shard is closed at this age even when it is not full.
        folder: the plan's URLs are those of `local_urls`, and stand for files below it.

    Works with and without a running event loop in the caller's thread; it blocks either way.

    Raises:
        ShardError, ObjectStoreError: no room, or the store has not answered for two minutes.
        Exception: whatever `plan`, `commit` or `progress` raises; all requests have ended by then.
    """
    transform = transform or Transform()
    sweep_orphans()
    summary = FetchSummary(total)
    clock = _Clock(summary, progress)
    with (
        _Batches(objects, transform, commit, summary, clock.tick) as batches,
        _results(plan, options or FetchOptions(), transform, folder) as results,
    ):
        for result in results:
            if result is not None:
                summary.count(result)
                batches.add(result)
            if batches.pictures >= shard_images or batches.full or batches.age >= commit_every_seconds:
                batches.send()
            batches.commit_stored()
            clock.tick()
        batches.send()
        batches.settle()
    clock.show()
    return summary


class _Clock:
    """Shows the progress about twice a second."""

    def __init__(self, summary: FetchSummary, progress: Callable[[FetchProgress], None] | None) -> None:
        self._summary = summary
        self._progress = progress
        self._started = self._shown = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._shown >= PROGRESS_EVERY_SECONDS:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        self._summary.at(self._shown - self._started)
        if self._progress:
            self._progress(self._summary)


class _Batches:
    """The batch that fills, and the one before it, on its way to the store: a row is committed after its shard."""

    def __init__(
        self,
        objects: ObjectStore,
        transform: Transform,
        commit: Callable[[list[Row]], None],
        summary: FetchSummary,
        tick: Callable[[], None],
    ) -> None:
        self._objects = objects
        self._transform = transform
        self._commit = commit
        self._summary = summary
        self._tick = tick
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._sent: tuple[Upload, list[Row]] | None = None
        self._open()

    def __enter__(self) -> "_Batches":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.discard()
        if self._sent:
            self._sent[0].give_up()
        self._threads.shutdown()

    def _open(self) -> None:
        self._writers: dict[str, ShardWriter] = {}
        self._rows: list[Row] = []
        self._opened = time.monotonic()

    @property
    def pictures(self) -> int:
        return max(map(len, self._writers.values()), default=0)

    @property
    def full(self) -> bool:
        return any(writer.full for writer in self._writers.values())

    @property
    def age(self) -> float:
        return time.monotonic() - self._opened

    def add(self, result: FetchResult) -> None:
        row = {name: getattr(result, name) for name in RESULT_COLUMNS}
        row["checked_at"] = result.fetched_at
        self._add(row, self._transform.key, result.data, self._transform.suffix)
        if self._transform.keep_original:
            suffix = SUFFIXES.get(result.source_format or "", f".{result.source_format}")
            self._add(row | _as_served(result), ORIGINAL, result.original, suffix)

    def _add(self, row: Row, name: str, data: bytes | None, suffix: str) -> None:
        row["transform"] = name
        row["shard"] = row["shard_offset"] = row["shard_size"] = None
        if data is not None:
            writer = self._writers.get(name) or self._writers.setdefault(name, ShardWriter(self._objects, name))
            row["shard_offset"], row["shard_size"] = writer.add(row["url_id"], data, suffix)
        self._rows.append(row)

    def send(self) -> None:
        """Begin to store the batch, after the one before it."""
        self.settle()
        if self._rows:
            self._sent = Upload(self._threads, self._writers), self._rows
        self._open()

    def commit_stored(self) -> None:
        """Commit the batch that was sent, if it is stored."""
        if self._sent and self._sent[0].done:
            self.settle()

    def settle(self) -> None:
        """Wait until the batch that was sent is stored, and commit it."""
        if not self._sent:
            return
        upload, rows = self._sent
        while not upload.wait(TICK_SECONDS):
            self._summary.trouble = upload.trouble
            self._tick()
        shards = upload.keys()
        self._summary.trouble, self._sent = "", None
        for row in rows:
            if row["shard_size"] is not None:
                row["shard"] = shards[row["transform"]]
        self._summary.shards += shards.values()
        self._commit(rows)


def _as_served(result: FetchResult) -> Row:
    """What the row of a kept original says otherwise than that of the picture made from it."""
    return {"sha256": result.source_sha256, "width": result.source_width, "height": result.source_height}


@contextmanager
def _results(
    plan: Iterable[Wanted | tuple[str, str]], options: FetchOptions, transform: Transform, folder: Path | None
) -> Iterator[Iterator[FetchResult | None]]:
    """The results of `fetch`, run by an event loop in a thread of its own; None now and then while nothing comes."""
    if folder:
        limits = {"max_bytes": options.max_bytes, "max_pixels": options.max_pixels}
        yield read_pictures((Wanted(*one) for one in plan), folder, transform, **limits)
        return
    handover: SimpleQueue[FetchResult] = SimpleQueue()
    # Waited for by the loop without blocking it: a long commit must not run requests in flight into their time-outs.
    room = asyncio.Semaphore(HANDOVER_SIZE)

    async def pump() -> None:
        async with aclosing(fetch(plan, options, transform)) as source:
            async for result in source:
                await room.acquire()
                handover.put(result)

    def release(places: int) -> None:
        for _ in range(places):
            room.release()

    def take() -> Iterator[FetchResult | None]:
        taken = 0
        while not (pumping.done() and handover.empty()):
            # Waking the loop costs more than handing over a result.
            if taken >= RELEASED_TOGETHER or (taken and handover.empty()):
                loop.call_soon_threadsafe(release, taken)
                taken = 0
            try:
                result = handover.get(timeout=TICK_SECONDS)
            except Empty:
                yield None
            else:
                taken += 1
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
