"""Fetch many pictures: URLs in, one typed result each out, in the order in which they are done.

`schedule` says whose turn it is, `asker` asks and decodes, here or in `workers`, and what comes of each request is
settled in this file: kept, followed, tried again, looked for elsewhere, or given up.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Literal

from gbif_platform.cpus import cpus
from gbif_platform.images.addresses import host_of
from gbif_platform.images.asker import Answer, Ask, Asker, Message, Outbox, Released
from gbif_platform.images.candidates import cached, candidates, too_small
from gbif_platform.images.manners import learn
from gbif_platform.images.plan import Wanted
from gbif_platform.images.reasons import NOT_FROM_THE_CACHE, rule_of
from gbif_platform.images.request import FetchOptions, Trouble
from gbif_platform.images.schedule import Job, Schedule
from gbif_platform.images.transform import Picture, Transform
from gbif_platform.images.workers import Workers

__all__ = ["FetchOptions", "FetchResult", "fetch"]

logger = logging.getLogger(__name__)

DETAIL_LENGTH = 300
# Requests that wait for their first byte hold a socket and little else.
HANGING_PER_PLACE = 4
# A picture that is in work when a worker dies is asked once more, without other such pictures beside it.
MOST_LOSSES = 2
SUSPECT_SECONDS = 0.1
# When nothing but silent requests is left, they are left to a later run after so many seconds, or twice the slowest
# answer's, where so many others were answered. Among few, as they are then, they are waited for to their time-out.
STRAGGLER_SECONDS, STRAGGLER_ANSWERS = 5.0, 200
# GBIF's cache is asked one picture at a time: where many are lost at once, most wait for a later run.
MOST_WAITING_FOR_CACHE = 500


@dataclass(frozen=True)
class FetchResult:
    """What came of one URL.

    Attributes:
        status: `ok`, `unchanged` (304: nothing new to store), `failed` (the world's fault) or `refused` (our decision);
            `images.reasons` has them all.
        reason: empty where `ok` or `unchanged`.
        detail: for people, at most 300 characters.
        http_status: of the last answer; None where there was none.
        source_sha256, source_bytes: of the body as received, after content-decoding; hex. Also known of refused bodies.
        data: the picture to store, encoded as the transform says; None unless `ok`.
        sha256: of `data`, hex.
        width, height: of `data`, pixels.
        source_width, source_height, source_format, frames: of the body, upright; see `transform.Picture`.
        attempts: tries made, at all addresses of the picture; redirects are not counted.
        fetched_at: UTC.
        retry_at: UTC; when a later run may ask again; None = never by itself, and always where `ok`.
        rendition: what was stored: a rendition's name, `gbif_cache`, or None = what is at the URL itself.
        fetched_url: the last URL asked, where it is not `url`.
        etag, last_modified: of what was stored, as its host gave them.
        original: the body, where the transform keeps originals.
    """

    url_id: str
    url: str
    status: Literal["ok", "unchanged", "failed", "refused"]
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
    rendition: str | None = None
    fetched_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    original: bytes | None = None


async def fetch(
    requests: Iterable[Wanted | tuple[str, str]],
    options: FetchOptions | None = None,
    transform: Transform | None = None,
) -> AsyncGenerator[FetchResult, None]:
    """Yield one result for every picture that is wanted, as they come.

    Args:
        requests: read lazily, within the event loop, so it should not block for long.

    Raises:
        WorkersFailed: no other process can be started.
        Exception: only what `requests` itself raises; troubles with a URL or a picture are results.

    Close the generator (`aclose`) when leaving early: that ends all requests and processes.
    """
    options, transform = options or FetchOptions(), transform or Transform()
    run = _Run(requests, options, transform)
    try:
        async with _crew(options, transform, run) as crew:
            run.begin(crew)
            while (result := await run.next_result()) is not None:
                yield result
    finally:
        run.close()


def _crew(options: FetchOptions, transform: Transform, run: "_Run") -> Asker | Workers:
    if options.processes > 1:
        return Workers(options, transform, run.receive, run.fail)
    return Asker(options, transform, Outbox(run.receive), threads=options.decode_threads or cpus())


class _Run:
    """The pictures in work, and what is decided about each."""

    def __init__(
        self, requests: Iterable[Wanted | tuple[str, str]], options: FetchOptions, transform: Transform
    ) -> None:
        self._options = options
        self._transform = transform
        self._cache_host = host_of(options.gbif_cache or "")
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule(
            requests,
            lambda wanted: candidates(wanted, transform),
            most_at=lambda name: 1 if name == self._cache_host else options.per_host,
            most_hanging=options.concurrency,
            wake=self._wake,
        )
        self._crew: Asker | Workers
        self._numbers = count()
        self._asked: dict[int, Job] = {}
        self._hanging = 0
        self._answers, self._slowest = 0, 0.0
        self._suspect: Job | None = None
        self._results: deque[FetchResult] = deque()
        self._arrived = asyncio.Event()
        self._woken = False
        self._error: Exception | None = None
        self._closed = False

    def begin(self, crew: Asker | Workers) -> None:
        self._crew = crew
        self._wake()

    async def next_result(self) -> FetchResult | None:
        """The next result, None after the last."""
        while not self._results:
            if self._error is not None:
                raise self._error
            if self._schedule.done:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._results) >= self._most_results:
            self._wake()
        return self._results.popleft()

    def fail(self, error: Exception) -> None:
        """End the run with an error that no single URL is to blame for."""
        self._error = self._error or error
        self._arrived.set()

    def close(self) -> None:
        """Nothing more is asked."""
        self._closed = True
        self._schedule.close()

    def receive(self, messages: list[Message]) -> None:
        """Settle what came from the crew."""
        try:
            for message in messages:
                job = self._asked.get(message.number)
                if job is not None:  # else a straggler, after all
                    self._settle(job, message)
        except Exception as error:  # a fault of ours that would leave pictures without a result
            self.fail(error)
        self._hand_out()
        self._leave_stragglers()

    def _leave_stragglers(self) -> None:
        """See STRAGGLER_SECONDS."""
        if self._closed or self._answers < STRAGGLER_ANSWERS or not self._only_silent:
            return
        patience, now = max(STRAGGLER_SECONDS, 2 * self._slowest), self._loop.time()
        for number, job in list(self._asked.items()):
            if now - job.sent_at >= patience:
                detail = f"no byte in {now - job.sent_at:.0f} s: left to a later run"
                self._settle(job, Answer(number, "timeout", detail))
        if self._asked:
            first = min(job.sent_at for job in self._asked.values())
            self._loop.call_at(first + patience, self._leave_stragglers)
        self._hand_out()

    @property
    def _only_silent(self) -> bool:
        """Whether all that is left of the plan was asked for and is overdue."""
        left = len(self._asked)
        return 0 < left == self._hanging and self._schedule.left == left

    @property
    def _most_results(self) -> int:
        return 2 * self._options.concurrency

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._hand_out)

    def _hand_out(self) -> None:
        """Ask as much as may be asked now."""
        self._woken = False
        try:
            while self._has_room() and (job := self._schedule.take()) is not None:
                self._begin(job)
        except Exception as error:  # the plan's
            self.fail(error)
        if self._results or self._schedule.done:
            self._arrived.set()

    def _has_room(self) -> bool:
        if self._closed or self._error is not None or len(self._results) >= self._most_results:
            return False
        places = self._options.concurrency
        return len(self._asked) - min(self._hanging, HANGING_PER_PLACE * places) < places

    def _begin(self, job: Job) -> None:
        if trouble := _unaskable(job):
            self._release(job)
            self._after_trouble(job, trouble)
            return
        if job.losses and self._suspect is not None:
            self._release(job)
            self._schedule.again(job, SUSPECT_SECONDS)
            return
        if job.losses:
            self._suspect = job
        if not job.visited:
            job.attempts += 1
            job.tries += 1
        job.visited.append(job.target)
        number = next(self._numbers)
        self._asked[number] = job
        self._crew.ask(Ask(number, job.target, job.wanted.etag, job.wanted.last_modified))

    def _released(self, job: Job) -> None:
        """The body is there; its decoding follows."""
        self._answers += 1
        self._slowest = max(self._slowest, self._loop.time() - job.sent_at)
        self._learn(job, "")
        self._release(job)

    def _hangs(self, job: Job) -> None:
        """Its first byte is overdue: it takes no place among all, and none at its host where that is the exception."""
        job.hanging = True
        self._hanging += 1
        if job.host.is_quick_with_others(job.sent_at):
            self._schedule.set_aside(job)

    def _release(self, job: Job) -> None:
        self._hanging -= job.hanging
        job.hanging = False
        self._schedule.release(job)

    def _settle(self, job: Job, message: Message) -> None:
        """What comes of one request, or of a part of it. A fault of ours costs its picture, and no other."""
        try:
            if isinstance(message, Answer):
                self._answered(job, message)
            elif isinstance(message, Released):
                self._released(job)
            elif job.stage == "asked":
                self._hangs(job)
        except Exception as error:
            logger.exception("unexpected error at %s", job.wanted.url)
            self._asked.pop(message.number, None)
            if job is self._suspect:
                self._suspect = None
            if job.stage in ("asked", "aside"):
                self._release(job)
            self._finish(job, _lost(job, Trouble("internal_error", f"{type(error).__name__}: {error}")))

    def _answered(self, job: Job, answer: Answer) -> None:
        del self._asked[answer.number]
        if answer.trace:
            logger.error("unexpected error at %s\n%s", job.target, answer.trace)
        if job is self._suspect:
            self._suspect = None
        answered_others = job.host.answers_since(job.sent_at)
        if job.stage != "released":
            self._learn(job, answer.reason, answer.detail, answer.pause)
            self._release(job)
        if answer.picture is not None:
            self._keep(job, answer, answer.picture)
        elif answer.target:
            self._follow(job, answer.target)
        elif answer.reason:
            trouble = Trouble(answer.reason, answer.detail, answer.status, answer.pause)
            self._after_trouble(job, trouble, answer, may_try_again=answer.reason != "timeout" or not answered_others)
        else:
            self._finish(job, _result(job, "unchanged", http_status=answer.status))

    def _learn(self, job: Job, reason: str, detail: str = "", pause: float | None = None) -> None:
        learn(
            job.host,
            reason,
            detail,
            url_id=job.wanted.url_id,
            pause=pause,
            sent_at=job.sent_at,
            now=self._loop.time(),
            backoff=self._options.backoff,
            max_pause=self._options.max_pause,
        )

    def _keep(self, job: Job, answer: Answer, picture: Picture) -> None:
        if len(job.candidates) > 1 and too_small(job.candidates[0], picture, self._transform):
            self._elsewhere(job)
            return
        self._finish(
            job,
            _result(
                job,
                "ok",
                http_status=answer.status,
                source_sha256=answer.source_sha256,
                source_bytes=answer.source_bytes,
                data=picture.data,
                sha256=answer.sha256,
                width=picture.width,
                height=picture.height,
                source_width=picture.source_width,
                source_height=picture.source_height,
                source_format=picture.source_format,
                frames=picture.frames,
                rendition=job.candidates[0].rendition,
                etag=answer.etag,
                last_modified=answer.last_modified,
                original=answer.original,
            ),
        )

    def _follow(self, job: Job, target: str) -> None:
        if target in job.visited:
            self._after_trouble(job, Trouble("redirect_loop", f"back to {target}"))
        elif len(job.visited) > self._options.max_redirects:
            detail = f"more than {self._options.max_redirects}, then {target}"
            self._after_trouble(job, Trouble("too_many_redirects", detail))
        else:
            job.target = target
            self._schedule.again(job)

    def _after_trouble(
        self, job: Job, trouble: Trouble, answer: Answer | None = None, *, may_try_again: bool = True
    ) -> None:
        """Another try where the reason allows one, another address where there is one; else the result."""
        if may_try_again and self._tries_again(job, trouble):
            return
        lost = _lost(job, trouble, answer)
        if len(job.candidates) > 1 and trouble.reason not in ("robots", "worker_lost"):
            self._elsewhere(job)
        elif self._ask_cache(job, lost):
            job.lost = lost
            self._elsewhere(job)
        else:
            self._finish(job, lost if job.lost is None else replace(job.lost, attempts=job.attempts))

    def _tries_again(self, job: Job, trouble: Trouble) -> bool:
        if trouble.reason == "worker_lost":
            job.losses += 1
            if job.losses < MOST_LOSSES:
                self._restart(job)
                return True
            return False
        again = min(rule_of(trouble.reason).tries_again, self._options.retries)
        if not again or job.tries > again or (trouble.pause or 0) > self._options.max_pause:
            return False
        # Full jitter: tries that failed together must not come back together.
        wait = random.uniform(0, self._options.backoff * 2 ** (job.tries - 1))  # noqa: S311 - not a secret
        self._restart(job, max(wait, trouble.pause or 0.0))
        return True

    def _ask_cache(self, job: Job, lost: FetchResult) -> bool:
        """Whether GBIF's cache is asked next: the host failed, and neither it nor we decided against the picture."""
        if lost.status != "failed" or lost.reason in NOT_FROM_THE_CACHE or job.lost is not None:
            return False
        copy = cached(job.wanted, self._options.gbif_cache)
        if copy is None or self._schedule.waiting_at(self._cache_host) >= MOST_WAITING_FOR_CACHE:
            return False
        job.candidates.append(copy)
        return True

    def _elsewhere(self, job: Job) -> None:
        """Ask at the next address."""
        del job.candidates[0]
        job.tries = 0
        self._restart(job)

    def _restart(self, job: Job, delay: float = 0.0) -> None:
        job.target, job.visited = "", []
        self._schedule.again(job, delay)

    def _finish(self, job: Job, result: FetchResult) -> None:
        self._results.append(result)
        self._schedule.finish(job)


def _unaskable(job: Job) -> Trouble | None:
    """Why a job's turn is not used for asking."""
    host = job.host
    if job.problem is not None:
        return Trouble(job.problem.reason, job.problem.detail)
    if host.closed_until is not None:
        return Trouble("host_busy", f"{host.name} asked to be left alone until {host.closed_until:%F %T} UTC")
    if host.down:
        return Trouble("host_down", f"{host.name}: {host.down}")
    return None


def _lost(job: Job, trouble: Trouble, answer: Answer | None = None) -> FetchResult:
    """The result of a URL that gave no picture."""
    rule = rule_of(trouble.reason)
    now = datetime.now(UTC)
    later = rule.later
    if later is not None and trouble.pause is not None:
        later = max(later, timedelta(seconds=trouble.pause))
    retry_at = now + later if later is not None else None
    if trouble.reason == "host_busy":
        retry_at = job.host.closed_until
    result = _result(
        job,
        rule.status,
        reason=trouble.reason,
        detail=trouble.detail[:DETAIL_LENGTH],
        http_status=trouble.status,
        retry_at=retry_at,
    )
    if answer is None:
        return result
    return replace(result, source_sha256=answer.source_sha256, source_bytes=answer.source_bytes)


def _result(job: Job, status: Literal["ok", "unchanged", "failed", "refused"], **found: Any) -> FetchResult:
    at_the_url = job.candidates[0].rendition is None and len(job.visited) <= 1
    return FetchResult(
        url_id=job.wanted.url_id,
        url=job.wanted.url,
        status=status,
        fetched_at=datetime.now(UTC),
        attempts=job.attempts,
        fetched_url=None if at_the_url or not job.visited else job.visited[-1],
        **found,
    )
