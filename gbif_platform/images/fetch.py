"""Fetch many pictures: URLs in, one typed result each out, in the order in which they are done.

One event loop asks (`request`), in the order that `schedule` gives; threads decode and hash, since Pillow and hashlib
let go of the interpreter lock. A worker carries one picture from its request to its result, so `concurrency` bounds
what is in memory.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

import aiohttp

from gbif_platform.images.reasons import rule_of
from gbif_platform.images.request import Body, FetchOptions, Redirect, Trouble, open_session, request
from gbif_platform.images.schedule import Job, Schedule
from gbif_platform.images.transform import ImageRefused, Picture, Transform, transform_image

__all__ = ["FetchOptions", "FetchResult", "fetch"]

logger = logging.getLogger(__name__)

DETAIL_LENGTH = 300


@dataclass(frozen=True)
class FetchResult:
    """What came of one URL.

    Attributes:
        status: `ok`, `failed` (the world's fault) or `refused` (our decision); `images.reasons` has them all.
        reason: empty where `ok`.
        detail: for people, at most 300 characters.
        http_status: of the last answer; None where there was none.
        source_sha256, source_bytes: of the body as received, after content-decoding; hex. Also known of refused bodies.
        data: the picture to store, encoded as the transform says; None unless `ok`.
        sha256: of `data`, hex.
        width, height: of `data`, pixels.
        source_width, source_height, source_format, frames: of the original, upright; see `transform.Picture`.
        attempts: tries made; redirects are not counted.
        fetched_at: UTC.
        retry_at: UTC; when a later run may ask again; None = never by itself, and always where `ok`.
    """

    url_id: str
    url: str
    status: Literal["ok", "failed", "refused"]
    fetched_at: datetime
    reason: str = ""
    detail: str = ""
    http_status: int | None = None
    source_sha256: str | None = None
    source_bytes: int | None = None
    data: bytes | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    source_width: int | None = None
    source_height: int | None = None
    source_format: str | None = None
    frames: int | None = None
    attempts: int = 0
    retry_at: datetime | None = None


async def fetch(
    requests: Iterable[tuple[str, str]], options: FetchOptions | None = None, transform: Transform | None = None
) -> AsyncGenerator[FetchResult, None]:
    """Yield one result for every (url_id, url), as they come.

    Args:
        requests: read lazily, within the event loop, so it should not block for long.

    Raises:
        Exception: only what `requests` itself raises; troubles with a URL or a picture are results.

    Close the generator (`aclose`) when leaving early: that ends all requests.
    """
    options = options or FetchOptions()
    results: asyncio.Queue[FetchResult | _End] = asyncio.Queue(maxsize=2 * options.concurrency)
    threads = ThreadPoolExecutor(options.decode_threads or _cpus(), thread_name_prefix="decode")
    try:
        async with open_session(options) as session:
            schedule = Schedule(requests, options.per_host)
            worker = _Worker(session, schedule, results, threads, options, transform or Transform())
            crew = asyncio.create_task(_run_crew(worker, options.concurrency, results))
            try:
                while not isinstance(result := await results.get(), _End):
                    yield result
                if result.error is not None:
                    raise result.error
            finally:
                crew.cancel()
                await asyncio.gather(crew, return_exceptions=True)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _End:
    error: Exception | None = None


async def _run_crew(worker: "_Worker", size: int, results: "asyncio.Queue[FetchResult | _End]") -> None:
    tasks = [asyncio.create_task(worker.work()) for _ in range(size)]
    end = _End()
    try:
        await asyncio.gather(*tasks)
    except Exception as error:
        end = _End(error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await results.put(end)


@dataclass(frozen=True)
class _Worker:
    session: aiohttp.ClientSession
    schedule: Schedule
    results: "asyncio.Queue[FetchResult | _End]"
    threads: ThreadPoolExecutor
    options: FetchOptions
    transform: Transform

    async def work(self) -> None:
        """Take jobs until there are none."""
        while (job := await self.schedule.next()) is not None:
            result = await self._one_step(job)
            if result is not None:
                # First the result, then the end of the job: the crew stops when no job is unfinished.
                await self.results.put(result)
                self.schedule.finish(job)

    async def _one_step(self, job: Job) -> FetchResult | None:
        """One request of a job; None = it went back into the schedule."""
        try:
            try:
                answer = await self._ask(job)
            finally:
                self.schedule.release(job)
            if isinstance(answer, Redirect):
                self._follow(job, answer)
                return None
            return await self._picture(job, answer)
        except Trouble as trouble:
            return self._after_trouble(job, trouble)
        except Exception as error:
            # A fault of ours must not end a run of millions: it is counted like every other and logged with its trace.
            logger.exception("unexpected error at %s", job.url)
            return _lost(job, Trouble("internal_error", f"{type(error).__name__}: {error}"))

    async def _ask(self, job: Job) -> Body | Redirect:
        if job.problem is not None:
            raise Trouble(job.problem.reason, job.problem.detail)
        if job.host.closed_until is not None:
            raise Trouble(
                "host_busy", f"{job.host.name} asked to be left alone until {job.host.closed_until:%F %T} UTC"
            )
        assert job.target is not None  # Schedule sets either the target or the problem
        if not job.visited:
            job.attempts += 1
        job.visited.append(str(job.target))
        return await request(self.session, job.target, self.options)

    def _follow(self, job: Job, redirect: Redirect) -> None:
        target = str(redirect.target)
        if target in job.visited:
            raise Trouble("redirect_loop", f"back to {target}")
        if len(job.visited) > self.options.max_redirects:
            raise Trouble("too_many_redirects", f"more than {self.options.max_redirects}, then {target}")
        job.target = redirect.target
        self.schedule.again(job)

    def _after_trouble(self, job: Job, trouble: Trouble) -> FetchResult | None:
        """Another try, where the reason allows one; else the result."""
        again = min(rule_of(trouble.reason).tries_again, self.options.retries)
        if trouble.pause is not None:
            if trouble.pause > self.options.max_pause:
                job.host.closed_until = datetime.now(UTC) + timedelta(seconds=trouble.pause)
                return _lost(job, trouble)
            self.schedule.pause(job.host, trouble.pause)
        if not again or job.attempts > again:
            return _lost(job, trouble)
        # Full jitter: tries that failed together must not come back together.
        wait = random.uniform(0, self.options.backoff * 2 ** (job.attempts - 1))  # noqa: S311 - not a secret
        job.target, job.visited = None, []
        self.schedule.again(job, max(wait, trouble.pause or 0.0))
        return None

    async def _picture(self, job: Job, body: Body) -> FetchResult:
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self.threads, _make, body.data, self.transform, self.options.max_pixels)
        if made.refusal is not None:
            return _lost(job, Trouble(made.refusal.reason, made.refusal.detail, body.status), made.source_sha256, body)
        assert made.picture is not None
        return FetchResult(
            url_id=job.url_id,
            url=job.url,
            status="ok",
            fetched_at=datetime.now(UTC),
            http_status=body.status,
            source_sha256=made.source_sha256,
            source_bytes=len(body.data),
            data=made.picture.data,
            sha256=made.sha256,
            width=made.picture.width,
            height=made.picture.height,
            source_width=made.picture.source_width,
            source_height=made.picture.source_height,
            source_format=made.picture.source_format,
            frames=made.picture.frames,
            attempts=job.attempts,
        )


@dataclass(frozen=True)
class _Made:
    source_sha256: str
    sha256: str | None = None
    picture: Picture | None = None
    refusal: ImageRefused | None = None


def _make(data: bytes, transform: Transform, max_pixels: int) -> _Made:
    """Everything that costs CPU, in one call for a thread (or, one day, a process)."""
    received = sha256(data).hexdigest()
    try:
        picture = transform_image(data, transform, max_pixels=max_pixels)
    except ImageRefused as refusal:
        return _Made(received, refusal=refusal)
    return _Made(received, sha256(picture.data).hexdigest(), picture)


def _lost(job: Job, trouble: Trouble, source_sha256: str | None = None, body: Body | None = None) -> FetchResult:
    """The result of a URL that gave no picture."""
    now = datetime.now(UTC)
    rule = rule_of(trouble.reason)
    later = rule.later
    if later is not None and trouble.pause is not None:
        later = max(later, timedelta(seconds=trouble.pause))
    retry_at = now + later if later is not None else None
    if trouble.reason == "host_busy":
        retry_at = job.host.closed_until
    return FetchResult(
        url_id=job.url_id,
        url=job.url,
        status=rule.status,
        fetched_at=now,
        reason=trouble.reason,
        detail=trouble.detail[:DETAIL_LENGTH],
        http_status=trouble.status,
        source_sha256=source_sha256,
        source_bytes=len(body.data) if body else None,
        attempts=job.attempts,
        retry_at=retry_at,
    )


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
