"""Whose turn it is: URLs wait in one queue per host, hosts take turns, and each host has its own limit and pauses.

The unit is one HTTP request. A redirect and a second try go back into the queues, under the host they then concern, so
that no limit is passed by and nothing waits while it holds a place.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from yarl import URL

from gbif_platform.images.addresses import BadURLError, web_url


@dataclass(eq=False)
class Host:
    """A server: its waiting jobs and what it has asked of us. Times are those of the event loop, in seconds."""

    name: str
    waiting: "deque[Job]" = field(default_factory=deque)
    in_flight: int = 0
    paused_until: float = 0.0
    closed_until: datetime | None = None
    listed: bool = False


@dataclass(eq=False)
class Job:
    """One URL on its way.

    Attributes:
        url: as the plan has it.
        target: what to request next: the URL, or where redirects have led; None where the URL is unusable.
        problem: why it is unusable.
        visited: the targets of this try, in order.
        attempts: tries begun.
    """

    url_id: str
    url: str
    target: URL | None = None
    problem: BadURLError | None = None
    host: Host = field(default_factory=lambda: Host(""))
    visited: list[str] = field(default_factory=list)
    attempts: int = 0


class Schedule:
    """Hands out jobs, host by host in turn.

    Args:
        requests: (url_id, url) pairs; read lazily, at most `look_ahead` jobs are known at a time.
        per_host: requests in flight to one host.
        look_ahead: also how far a paused host's URLs can stand in the way of the others behind them.
    """

    def __init__(self, requests: Iterable[tuple[str, str]], per_host: int, look_ahead: int = 10_000) -> None:
        self._requests: Iterator[tuple[str, str]] = iter(requests)
        self._per_host = per_host
        self._look_ahead = look_ahead
        self._hosts: dict[str, Host] = {}
        self._turns: deque[Host] = deque()
        self._unfinished = 0
        self._exhausted = False
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def next(self) -> Job | None:
        """The next job, when there is one that may be asked; None when all jobs are finished."""
        while True:
            self._read_ahead()
            if job := self._take():
                return job
            if not self._unfinished:
                self._changed.set()
                return None
            self._changed.clear()
            await self._changed.wait()

    def release(self, job: Job) -> None:
        """The request is over: its place at the host is free."""
        job.host.in_flight -= 1
        self._list(job.host)

    def again(self, job: Job, delay: float = 0.0) -> None:
        """Put a released job back, before the new ones: for its next hop, or for another try after `delay` seconds."""
        if delay > 0:
            self._loop.call_later(delay, self.again, job)
            return
        self._admit(job)
        job.host.waiting.appendleft(job)
        self._list(job.host)

    def finish(self, job: Job) -> None:
        """The job has its result."""
        self._unfinished -= 1
        self._changed.set()

    def pause(self, host: Host, seconds: float) -> None:
        """Ask the host nothing for `seconds`."""
        until = self._loop.time() + seconds
        if until > host.paused_until:
            host.paused_until = until
            self._loop.call_later(seconds, self._resume, host, until)

    def _resume(self, host: Host, until: float) -> None:
        # Compared by identity of the moment: a timer may fire a clock tick early, and a longer pause may have followed.
        if host.paused_until == until:
            host.paused_until = 0.0
            self._list(host)

    def _read_ahead(self) -> None:
        while not self._exhausted and self._unfinished < self._look_ahead:
            try:
                url_id, url = next(self._requests)
            except StopIteration:
                self._exhausted = True
                return
            self._unfinished += 1
            job = Job(url_id, url)
            self._admit(job)
            job.host.waiting.append(job)
            self._list(job.host)

    def _admit(self, job: Job) -> None:
        """Find the host of the job's target."""
        if job.target is None and job.problem is None:
            try:
                job.target = web_url(job.url)
            except BadURLError as problem:
                job.problem = problem
        name = _host_name(job.target) if job.target else ""
        if name not in self._hosts:
            self._hosts[name] = Host(name)
        job.host = self._hosts[name]

    def _list(self, host: Host) -> None:
        if not host.listed and self._may_ask(host):
            host.listed = True
            self._turns.append(host)
            self._changed.set()

    def _may_ask(self, host: Host) -> bool:
        free = host.in_flight < self._per_host
        return bool(host.waiting) and free and self._loop.time() >= host.paused_until

    def _take(self) -> Job | None:
        while self._turns:
            host = self._turns.popleft()
            host.listed = False
            if self._may_ask(host):
                host.in_flight += 1
                job = host.waiting.popleft()
                self._list(host)
                return job
        return None


def _host_name(target: URL) -> str:
    """The server behind a URL; http and https on their usual ports are one."""
    return target.raw_host or "" if target.is_default_port() else f"{target.raw_host}:{target.port}"
