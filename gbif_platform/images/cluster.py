"""A fetching run past one machine: Ray actors fetch, each its share of the hosts; the caller alone commits.

An actor stores its shards itself and hands over their rows; it goes on when it hears that they are committed. The
share of an actor that is lost goes to another, without what was committed.
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event, Semaphore
from typing import Any

import polars as pl

from gbif_platform.errors import PlatformError, first_line
from gbif_platform.images.candidates import GBIF_CACHE, cached
from gbif_platform.images.plan import Wanted
from gbif_platform.images.progress import FetchProgress, FetchSummary
from gbif_platform.images.reasons import NOT_FROM_THE_CACHE
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import ORIGINAL, Row, fetch_images
from gbif_platform.images.shares import Division
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore

PLAN_PREFIX = "gbif-platform-plan-"
TICK_SECONDS = 0.5
STOP_SECONDS = 10.0
KNOCK_SECONDS = 10.0
LOSSES = 3
"""So many workers of one share may be lost in a row, without a row between."""
MOST_FROM_CACHE = 5_000
"""It takes one picture at a time: where more are lost, most wait for a later run."""

log = logging.getLogger(__name__)


class ClusterError(PlatformError):
    """Ray is missing, does not answer, or lost the same work again and again."""


def fetch_images_on_ray(
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
    address: str = "",
    workers: int | None = None,
) -> FetchSummary:
    """Fetch every picture of the plan on a Ray cluster; what `images.run.fetch_images` does on one machine.

    GBIF's image cache takes one connection: what has failed is asked of it at the end, by one worker, and its row is
    then committed again. The plan is read once, before the first request.

    Args:
        commit: called in the caller's thread; a lost worker loses what it had not handed over, and that is fetched
            again.
        options: `per_host` is for all workers together, `concurrency` for each. A worker has `processes` CPUs, or all
            of the smallest node.
        progress: called about twice a second and at the end, always with the same object: the sum of all workers.
        address: of the cluster, `ray://head:10001` or `auto`; empty = as Ray finds it ($RAY_ADDRESS), else one on this
            machine for as long as the run lasts. Where this process is connected to Ray already, that is used.
        workers: actors at most; None = as many as fit.

    Raises:
        ClusterError: Ray is not installed or does not answer; one share has lost its worker `LOSSES` times in a row; a
            worker had no room, or the store did not answer it.
        Exception: whatever `plan`, `commit` or `progress` raises; all actors have ended by then.
    """
    options = options or FetchOptions()
    with connected(address) as ray, TemporaryDirectory(prefix=PLAN_PREFIX) as name:
        fitting, cpus = _room(ray, objects, options.processes)
        folder = Path(name)
        work = _Work(
            objects.url,
            transform or Transform(),
            options.model_copy(
                update={"processes": cpus, "decode_threads": options.decode_threads or cpus, "gbif_cache": None}
            ),
            shard_images,
            commit_every_seconds,
        )
        tally = _Tally(total, progress)
        division = Division(folder / "plan", plan, min(fitting, workers or fitting), options.per_host)
        with _Crew(ray, work, division) as crew:
            for rows in crew.rows():
                if rows:
                    commit(rows)
                tally.tick(crew.done())
        mended = FetchProgress(0)
        if options.gbif_cache:
            failed = _Failed(folder / "failed", division)
            copies = Division(folder / "copies", failed.in_cache(options.gbif_cache), 1, 1)
            with _Crew(ray, work, copies) as cache_crew:
                for rows in cache_crew.rows():
                    if arrived := failed.mend(rows, mended):
                        commit(arrived)
                    tally.tick([*crew.done(), mended])
        return tally.end([*crew.done(), mended])


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; an existing connection of this process is used and left as it is.

    Raises:
        ClusterError: Ray is not installed, or does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "Ray is not installed", "pip install 'gbif-platform[ray]', here and on every node"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(
            f"Ray {where} does not answer: {first_line(str(error))}", "start the cluster, or correct ray_address"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself would try for a minute. Raises OSError where nobody listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()


def _room(ray: Any, objects: ObjectStore, processes: int) -> tuple[int, int]:
    """How many workers fit, and with how many CPUs each."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not nodes:
        raise ClusterError("no node of the Ray cluster has a CPU", "add nodes to it: ray start --address=…")
    if objects.folder is not None and len({node["NodeManagerAddress"] for node in nodes}) > 1:
        raise ClusterError(
            f"the object store {objects.url} lies on one machine, the Ray cluster does not", "set data to s3://…"
        )
    sizes = [int(node["Resources"]["CPU"]) for node in nodes]
    cpus = min(processes, *sizes)
    return sum(size // cpus for size in sizes), cpus


@dataclass(frozen=True)
class _Work:
    """What every worker is told; the `AWS_*` variables are those of the caller."""

    objects_url: str
    transform: Transform
    options: FetchOptions
    shard_images: int
    commit_every_seconds: float
    environment: dict[str, str] = field(
        default_factory=lambda: {name: value for name, value in os.environ.items() if name.startswith("AWS_")},
        repr=False,
    )


@dataclass(frozen=True)
class _News:
    """What has come of a worker since it was last asked."""

    rows: list[Row]
    progress: FetchProgress
    ended: bool = False
    error: tuple[str, str] | None = None


class _Stopped(Exception):
    pass


class _Worker:
    """Fetches one share, in a Ray actor; to be asked for its news again and again."""

    def __init__(self, work: _Work, pieces: list[Any], total: int) -> None:
        os.environ.update(work.environment)
        self._rows: SimpleQueue[list[Row]] = SimpleQueue()
        self._committed = Semaphore(0)
        self._owed = False
        self._stopped = Event()
        self._progress = FetchProgress(total)
        self._run = ThreadPoolExecutor(1).submit(self._fetch, work, pieces, total)
        self._run.add_done_callback(lambda _: self._rows.put([]))

    def news(self) -> _News:
        """What has come; asking also says that the rows of the last answer are committed."""
        if self._owed:
            self._committed.release()
        try:
            rows = self._rows.get(timeout=TICK_SECONDS)
        except Empty:
            rows = []
        self._owed = bool(rows)
        ended = not rows and self._run.done()
        if ended and (error := self._run.exception()):
            if not isinstance(error, PlatformError):
                raise error
            return _News([], self._progress, ended, (error.cause, error.next_step))
        return _News(rows, self._progress, ended)

    def stop(self) -> None:
        """End all requests and throw away what is in work."""
        self._stopped.set()
        self._committed.release()
        self._run.exception()

    def _fetch(self, work: _Work, pieces: list[Any], total: int) -> None:
        fetch_images(
            _plan(pieces),
            total=total,
            objects=ObjectStore(work.objects_url),
            commit=self._hand_over,
            transform=work.transform,
            options=work.options,
            progress=self._note,
            shard_images=work.shard_images,
            commit_every_seconds=work.commit_every_seconds,
        )

    def _hand_over(self, rows: list[Row]) -> None:
        self._rows.put(rows)
        self._committed.acquire()
        self._check()

    def _note(self, progress: FetchProgress) -> None:
        self._check()
        # a copy: it is sent by another thread than that which counts
        self._progress = deepcopy(progress)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped


def _plan(pieces: list[Any]) -> Iterator[Wanted]:
    import ray

    for piece in pieces:
        yield from map(Wanted._make, ray.get(piece).iter_rows())


@dataclass
class _Member:
    """A share and the worker that has it now.

    Attributes:
        handed: what the worker has handed over.
        losses: workers lost since something was handed over.
    """

    actor: Any
    progress: FetchProgress
    handed: FetchProgress
    losses: int


class _Crew:
    """The workers of a division; as a context manager it ends them."""

    def __init__(self, ray: Any, work: _Work, division: Division) -> None:
        self._ray = ray
        self._work = work
        self._division = division
        self._before = FetchProgress(0)
        self._members: dict[int, _Member] = {}
        self._asked: dict[Any, int] = {}

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        """Let the workers that are left end in peace, but not for long."""
        left = [self._members[number].actor for number in self._asked.values()]
        with suppress(self._ray.exceptions.RayError):
            ending = [actor.stop.remote() for actor in left]
            if ending:
                self._ray.wait(ending, num_returns=len(ending), timeout=STOP_SECONDS)
        for actor in left:
            self._ray.kill(actor)

    def done(self) -> list[FetchProgress]:
        """What the workers have done, what lost ones had handed over included."""
        return [self._before, *(member.progress for member in self._members.values())]

    def rows(self) -> Iterator[list[Row]]:
        """The rows as they come, an empty list now and then; asking for the next means that the last are committed."""
        for number in range(len(self._division.shares)):
            self._start(number)
        while self._asked:
            ready, _ = self._ray.wait(list(self._asked), timeout=TICK_SECONDS)
            for answer in ready:
                number = self._asked[answer]
                try:
                    news: _News = self._ray.get(answer)
                except self._ray.exceptions.RayTaskError:
                    raise
                except self._ray.exceptions.RayError as error:
                    del self._asked[answer]
                    self._replace(number, error)
                else:
                    yield self._taken(number, news)
                    self._go_on(answer, number, news)
            yield []

    def _start(self, number: int, losses: int = 0) -> None:
        pieces, total = [], 0
        for piece in self._division.rest(number):
            pieces.append(self._ray.put(piece))
            total += len(piece)
        options = self._work.options.model_copy(update={"per_host": self._division.shares[number].per_host})
        cpus = options.processes
        actor = (
            self._ray.remote(_Worker)
            .options(num_cpus=cpus, max_restarts=0)
            .remote(replace(self._work, options=options), pieces, total)
        )
        self._members[number] = _Member(actor, FetchProgress(0), FetchProgress(0), losses)
        self._asked[actor.news.remote()] = number

    def _taken(self, number: int, news: _News) -> list[Row]:
        member = self._members[number]
        if news.error:
            raise ClusterError(f"worker {number} on Ray: {news.error[0]}", news.error[1])
        member.progress = news.progress
        if news.rows:
            _count(member.handed, news.rows)
            member.losses = 0
        return news.rows

    def _go_on(self, answer: Any, number: int, news: _News) -> None:
        """The rows are committed: note it, and let the worker go on."""
        del self._asked[answer]
        actor = self._members[number].actor
        if news.rows:
            self._division.note(number, news.rows)
        if news.ended:
            self._ray.kill(actor)
        else:
            self._asked[actor.news.remote()] = number

    def _replace(self, number: int, error: Exception) -> None:
        lost = self._members[number]
        says = " ".join(str(error).split())[:300]
        if lost.losses + 1 >= LOSSES:
            raise ClusterError(
                f"Ray lost a worker {LOSSES} times in a row over the same pictures: {says}",
                "see Ray's logs of that node, and that every node has the same gbif-platform; what was committed stays",
            ) from error
        log.warning("Ray lost a worker, its share goes to another: %s", says)
        self._ray.kill(lost.actor)  # it may only be out of reach, and a host must not be asked by two
        _sum_up(self._before, [replace(self._before), lost.handed])
        self._start(number, lost.losses + 1)


class _Failed:
    """What has failed at its own host and may be in GBIF's image cache; on disk."""

    def __init__(self, folder: Path, division: Division) -> None:
        folder.mkdir()
        for part, frame in enumerate(division.failed()):
            offered = frame.drop_nulls("gbif_id").filter(~pl.col("reason").is_in(list(NOT_FROM_THE_CACHE)))
            offered.write_parquet(folder / f"{part:08}.parquet")
        self._parts = sorted(folder.glob("*.parquet"))

    def in_cache(self, base: str) -> Iterator[Wanted]:
        """Where it is there; `MOST_FROM_CACHE` at most."""
        return islice(self._in_cache(base), MOST_FROM_CACHE)

    def _in_cache(self, base: str) -> Iterator[Wanted]:
        for path in self._parts:
            for row in pl.read_parquet(path, columns=list(Wanted._fields)).iter_rows():
                if copy := cached(Wanted(*row), base):
                    yield Wanted(row[0], copy.url)

    def mend(self, rows: list[Row], mended: FetchProgress) -> list[Row]:
        """The rows of what the cache had, as rows of the URL itself; counts them, and no more as failed."""
        arrived = [row for row in rows if row["status"] == "ok"]
        if not arrived:
            return []
        ids = [row["url_id"] for row in arrived]
        known = pl.scan_parquet(self._parts).filter(pl.col("url_id").is_in(ids)).collect()
        _count(mended, arrived)
        mended.failed -= len(known)
        mended.reasons.subtract(known["reason"].to_list())
        urls = dict(known.select("url_id", "url").iter_rows())
        return [
            row | {"url": urls[row["url_id"]], "rendition": GBIF_CACHE, "fetched_url": row["fetched_url"] or row["url"]}
            for row in arrived
        ]


class _Tally:
    """Shows the sum about twice a second."""

    def __init__(self, total: int, progress: Callable[[FetchProgress], None] | None) -> None:
        self._summary = FetchSummary(total)
        self._progress = progress
        self._started = self._shown = time.monotonic()

    def tick(self, parts: list[FetchProgress]) -> None:
        if time.monotonic() - self._shown >= TICK_SECONDS:
            self.end(parts)

    def end(self, parts: list[FetchProgress]) -> FetchSummary:
        self._shown = time.monotonic()
        _sum_up(self._summary, parts)
        self._summary.at(self._shown - self._started)
        if self._progress:
            self._progress(self._summary)
        return self._summary


def _sum_up(whole: FetchProgress, parts: list[FetchProgress]) -> None:
    for name in ("ok", "failed", "refused", "unchanged", "bytes_received", "bytes_stored"):
        setattr(whole, name, sum(getattr(part, name) for part in parts))
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(part.reasons)  # a mended one counts below zero
    whole.reasons = +reasons
    whole.shards = list(dict.fromkeys(chain.from_iterable(part.shards for part in parts)))
    whole.trouble = next((part.trouble for part in parts if part.trouble), "")


def _count(progress: FetchProgress, rows: list[Row]) -> None:
    """Add what `FetchProgress.count` counted of these rows before they were handed over."""
    progress.shards += dict.fromkeys(row["shard"] for row in rows if row["shard"])
    for row in rows:
        if row["transform"] == ORIGINAL:
            continue
        setattr(progress, row["status"], getattr(progress, row["status"]) + 1)
        if row["reason"]:
            progress.reasons[row["reason"]] += 1
        progress.bytes_received += row["source_bytes"] or 0
        progress.bytes_stored += row["shard_size"] or 0
