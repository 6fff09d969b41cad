"""Whose turn it is: URLs wait in one queue per host, and hosts that may be asked take turns.

The unit is one HTTP request. A redirect, a further try and another address of the same picture go back into the queues,
under the host they then concern, so that no limit is passed by and nothing waits while it holds a place.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gbif_platform.images.addresses import BadURLError, server_name, web_url
from gbif_platform.images.candidates import Candidate
from gbif_platform.images.hosts import NEVER, Host
from gbif_platform.images.plan import Wanted

if TYPE_CHECKING:
    from gbif_platform.images.fetch import FetchResult

LOOK_AHEAD = 10_000
# Read beyond the look-ahead while all hosts known so far are busy, so that one with a long queue holds up no other.
MOST_KNOWN = 30_000
READ_AT_ONCE = 50


@dataclass(eq=False, slots=True)
class Lane:
    """A host and the jobs that wait for it."""

    host: Host
    waiting: "deque[Job]" = field(default_factory=deque)
    listed: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False, slots=True)
class Job:
    """One picture on its way.

    Attributes:
        candidates: where it may be had, the best place first; the first is the one in work.
        target: what to request next: the candidate, or where redirects have led; empty where that is unusable.
        problem: why it is unusable.
        visited: the targets of this try, in order.
        attempts: tries begun, at all candidates; `tries`: at this one.
        losses: workers that died with it.
        sent_at: when its request left, in the event loop's seconds.
        lost: what came of the URL itself, while GBIF's cache is asked.
        hanging: its first byte is overdue.
        stage: `asked` holds a place at its host; `aside` has given it back; `released` is over, but for decoding.
    """

    wanted: Wanted
    candidates: list[Candidate]
    lane: Lane
    target: str = ""
    problem: BadURLError | None = None
    visited: list[str] = field(default_factory=list)
    attempts: int = 0
    tries: int = 0
    losses: int = 0
    sent_at: float = NEVER
    hanging: bool = False
    stage: Literal["waiting", "asked", "aside", "released"] = "waiting"
    lost: "FetchResult | None" = None

    @property
    def host(self) -> Host:
        """Where its target is."""
        return self.lane.host


class Schedule:
    """Hands out jobs, host by host in turn.

    Args:
        plan: read lazily, a few rows at a time.
        candidates: where a picture may be had.
        most_at: the widest window of requests in flight that a host gets, by its name.
        most_hanging: requests of one host that wait for their first byte without holding a place.
        wake: called when there may be something to take again.
        look_ahead: jobs known at a time.
    """

    def __init__(
        self,
        plan: Iterable[Wanted | tuple[str, str]],
        candidates: Callable[[Wanted], list[Candidate]],
        *,
        most_at: Callable[[str], int],
        most_hanging: int,
        wake: Callable[[], None],
        look_ahead: int = LOOK_AHEAD,
    ) -> None:
        self._plan: Iterator[Wanted | tuple[str, str]] = iter(plan)
        self._candidates = candidates
        self._most_at = most_at
        self._most_hanging = most_hanging
        self._wake = wake
        self._look_ahead = look_ahead
        self._most_known = look_ahead * MOST_KNOWN // LOOK_AHEAD
        self._lanes: dict[str, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._unfinished = 0
        self._exhausted = False
        self._loop = asyncio.get_running_loop()

    @property
    def done(self) -> bool:
        """Whether every job of the plan is finished."""
        return self._exhausted and not self._unfinished

    @property
    def left(self) -> int | None:
        """Jobs that are not finished; None while more of the plan may be read."""
        return self._unfinished if self._exhausted else None

    def take(self) -> Job | None:
        """A job that may be asked now, None when there is none at present; its host's place is taken."""
        if self._unfinished < self._look_ahead:
            self._read()
        job = self._first_in_turn()
        if job is None and not self._exhausted and self._unfinished < self._most_known:
            self._read()
            self._wake()
        return job

    def release(self, job: Job) -> None:
        """The request no longer counts at its host."""
        if job.stage == "asked":
            job.host.in_flight -= 1
        elif job.stage == "aside":
            job.host.hanging -= 1
        job.stage = "released"
        self._list(job.lane)

    def set_aside(self, job: Job) -> None:
        """The request goes on without its place at its host, which is free for others."""
        job.host.in_flight -= 1
        job.host.hanging += 1
        job.stage = "aside"
        self._list(job.lane)

    def again(self, job: Job, delay: float = 0.0) -> None:
        """Put a released job back, before the new ones, after `delay` seconds: for its next target or another try."""
        if delay > 0:
            self._loop.call_later(delay, self.again, job)
            return
        self._admit(job)
        job.lane.waiting.appendleft(job)
        self._list(job.lane)

    def finish(self, job: Job) -> None:
        """The job has its result."""
        self._unfinished -= 1

    def waiting_at(self, name: str) -> int:
        """Jobs that wait for a host."""
        return len(self._lanes[name].waiting) if name in self._lanes else 0

    def changed(self, host: Host) -> None:
        """Something was learnt about a host that may free its jobs."""
        self._list(self._lane(host.name))

    def close(self) -> None:
        """End all timers of waiting hosts."""
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()

    def _read(self) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                row = next(self._plan)
            except StopIteration:
                self._exhausted = True
                return
            wanted = row if isinstance(row, Wanted) else Wanted(*row)
            self._unfinished += 1
            job = Job(wanted, self._candidates(wanted), NOWHERE)
            self._admit(job)
            job.lane.waiting.append(job)
            self._list(job.lane)
            if self._unfinished >= self._look_ahead and self._turns:
                return

    def _admit(self, job: Job) -> None:
        """Find the host of the job's target."""
        name = ""
        if not job.target:
            job.problem = None
        try:
            target = web_url(job.target or job.candidates[0].url)
            job.target = str(target)
            name = server_name(target)
        except BadURLError as problem:
            job.problem = problem
        job.lane = self._lane(name)
        job.stage = "waiting"

    def _lane(self, name: str) -> Lane:
        if name not in self._lanes:
            self._lanes[name] = Lane(Host(name, self._most_at(name)))
        return self._lanes[name]

    def _list(self, lane: Lane) -> None:
        """Give a host its turn, at once or when it may be asked."""
        if lane.listed or not lane.waiting:
            return
        now = self._loop.time()
        at = self._free_at(lane, now)
        if at is None:
            return
        if at <= now:
            lane.listed = True
            self._turns.append(lane)
            self._wake()
        elif lane.timer is None or at < lane.timer.when():
            if lane.timer is not None:
                lane.timer.cancel()
            lane.timer = self._loop.call_at(at, self._look_again, lane)

    def _look_again(self, lane: Lane) -> None:
        lane.timer = None
        self._list(lane)

    def _free_at(self, lane: Lane, now: float) -> float | None:
        host = lane.host
        if not host.name:
            return now
        if not host.gone and host.in_flight + host.hanging >= self._most_hanging:
            return None
        return host.free_at(now)

    def _first_in_turn(self) -> Job | None:
        while self._turns:
            lane = self._turns.popleft()
            lane.listed = False
            now = self._loop.time()
            at = self._free_at(lane, now)
            if at is None or at > now or not lane.waiting:
                self._list(lane)
                continue
            job = lane.waiting.popleft()
            lane.host.asked(now)
            job.sent_at = now
            job.stage = "asked"
            self._list(lane)
            return job
        return None


NOWHERE = Lane(Host("", 1))
