"""What one host bears, as far as it has shown: how many requests at a time, how many a second, and whether it is there.

Nothing here asks or waits: the schedule tells what happened and when. Times are the event loop's, in seconds.
"""

from collections import deque
from datetime import datetime

FIRST_WINDOW = 4
# Answers that make the window one wider.
WIDEN_AFTER = 25
# A host that counts lets a burst pass, usually as many requests as it allows in so long.
SAVED_SECONDS = 1.0
# Two measurements of a host's limit that are as close as this are no chance.
CLOSE = 0.1
HALF = 0.5
NEARLY = 0.9
RISE_PER_SECOND = 1.15
# No refusal for so long: what is known of the host's limit is too little. Requests, too, for one that may have none.
OUTDATED_SECONDS = 60
OUTDATED_REQUESTS = 50
# Refusals that come so often, so many times in a row, are no chance of single URLs.
OFTEN_REQUESTS = 500
OFTEN_TIMES = 8
# What a host has let through between two refusals is known well: so much, and then feeling the way upwards.
RISE_PER_REQUEST = 1.0001
SLOWEST = 0.2
# A host that usually takes longer is slow, and a request that waits there is nothing special.
QUICK_SECONDS = 1.0
# Timers are late now and then; what they missed may be caught up with.
CATCH_UP_SECONDS = 0.05

UNREACHABLE_IN_A_ROW = 5
# Waits before a single request is risked again.
PROBES_AFTER = (2.0, 10.0)

NEVER = float("-inf")


class Host:
    """A server.

    Args:
        name: with its port, where it is not the usual one.
        most: the widest that the window of requests in flight becomes.

    Attributes:
        in_flight: requests in the window.
        hanging: requests that gave their place back, since they wait while others are answered.
        closed_until: it asked to be left alone for longer than a run waits.
        down: why it counts as unreachable for the rest of the run; empty while it does not.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.in_flight = 0
        self.hanging = 0
        self.closed_until: datetime | None = None
        self.down = ""
        self._most = most
        self._window = float(min(FIRST_WINDOW, most))
        self._pace = _Pace()
        self._paused_until = NEVER
        self._answered_at = NEVER
        self._usual_seconds = 0.0
        self._refused_at = NEVER
        self._refusals = 0
        self._burst: tuple[int, int] | None = None
        self._unavailable = False
        self._lost: set[str] = set()
        self._probes = 0
        self._probe_sent_at = NEVER

    @property
    def gone(self) -> bool:
        """Whether it is not asked any more in this run."""
        return bool(self.down) or self.closed_until is not None

    @property
    def refusals(self) -> int:
        """How often it has refused us with nothing let through between."""
        return self._refusals

    def free_at(self, now: float) -> float | None:
        """When it may be asked next; not after `now` = at once; None = when a request has ended."""
        if self.gone:
            return now
        if self.in_flight >= (1 if self._probes else int(self._window)):
            return None
        return max(self._paused_until, self._pace.free_at(now))

    def asked(self, now: float) -> None:
        """A request leaves."""
        if self._burst is not None:
            refused, answered = self._burst
            self._pace.resume(now, counted=refused > max(1, answered), again=self._refusals > 1)
            self._burst = None
        self.in_flight += 1
        self._pace.count(now)
        if self._probes:
            self._probe_sent_at = now

    def answers_since(self, sent_at: float) -> bool:
        """Whether it has answered anything since a request was sent."""
        return self._answered_at > sent_at

    def is_quick_with_others(self, sent_at: float) -> bool:
        """Whether a request that waits is an exception: others were answered since, and soon."""
        return self.answers_since(sent_at) and self._usual_seconds < QUICK_SECONDS

    def answered(self, now: float, sent_at: float) -> None:
        """It answered, and was not too busy to."""
        self._answered_at = now
        self._usual_seconds += (now - sent_at - self._usual_seconds) / 10
        if self._burst is not None:
            self._burst = self._burst[0], self._burst[1] + 1
        self._window = min(self._most, self._window + 1 / WIDEN_AFTER)
        self._refusals = 0
        self._unavailable = False
        self._lost.clear()
        self._probes = 0

    def unavailable(self, now: float) -> bool:
        """It answered 503 without naming a time; whether that is a refusal: one alone may be about the URL."""
        in_a_row = self._unavailable
        self._answered_at, self._unavailable = now, True
        return in_a_row

    def refused(self, now: float, sent_at: float) -> None:
        """It answered 429 or 503. What was sent before the last refusal came is the same refusal."""
        self._answered_at = now
        self._lost.clear()
        self._probes = 0
        if sent_at > self._refused_at:
            self._refused_at = now
            self._refusals += 1
            self._halve()
            self._pace.refused(now, self.in_flight)
            self._burst = 1, 0
        elif self._burst is not None:
            self._burst = self._burst[0] + 1, self._burst[1]

    def pause(self, now: float, seconds: float) -> None:
        """Ask it nothing for so long."""
        self._paused_until = max(self._paused_until, now + seconds)

    def timed_out(self) -> None:
        """It left a request without an answer, and all others since."""
        self._halve()

    def unreachable(self, now: float, sent_at: float, url_id: str, why: str) -> None:
        """A request did not get through, or broke down inside the host.

        Several URLs in a row: it is left alone but for single probes, and given up when those fail as well.
        """
        if self._answered_at > sent_at:
            return
        self._lost.add(url_id)
        if self._probes:
            if sent_at < self._probe_sent_at:
                return  # sent with the others, before the first wait
        elif len(self._lost) < UNREACHABLE_IN_A_ROW:
            return
        if self._probes == len(PROBES_AFTER):
            self.down = why
            return
        self.pause(now, PROBES_AFTER[self._probes])
        self._probes += 1
        self._probe_sent_at = float("inf")

    def _halve(self) -> None:
        self._window = max(1.0, self._window / 2)


class _Pace:
    """Requests a second, once a host has shown that it counts them."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=500)
        self._rate: float | None = None
        self._ceiling = 0.0
        self._counted = False
        self._next_at = NEVER
        self._asked_at = NEVER
        self._refused_at = NEVER
        self._resumed_at = NEVER
        self._since_refused = 0
        self._often = 0
        self._let_through: float | None = None

    def free_at(self, now: float) -> float:
        return now if self._rate is None else self._next_at

    def count(self, now: float) -> None:
        """A request leaves."""
        self._since_refused += 1
        if self._rate is None:
            self._recent.append(now)
            return
        if self._rate < NEARLY * self._ceiling or self._is_outdated(now):
            self._rate *= RISE_PER_SECOND ** min(1.0, now - self._asked_at)
        else:
            self._rate *= RISE_PER_REQUEST
        self._next_at = max(self._next_at, now - CATCH_UP_SECONDS) + 1 / self._rate
        self._asked_at = now

    def refused(self, now: float, in_flight: int) -> None:
        """Measure what the host has let through."""
        if self._refused_at == NEVER:
            self._ceiling = max(1.0, self._first_measured(in_flight))
        else:
            # A bucket was empty at both refusals; while nothing was asked, it was not filled beyond its brim.
            before = self._let_through or self._ceiling
            filled = min(SAVED_SECONDS, self._resumed_at - self._refused_at) + now - self._resumed_at
            self._let_through = self._since_refused / max(filled, 0.001)
            self._counted = self._counted or abs(self._let_through / before - 1) < CLOSE
        self._often = self._often + 1 if self._since_refused < OFTEN_REQUESTS else 0
        self._refused_at, self._since_refused = now, 0

    def resume(self, now: float, *, counted: bool, again: bool) -> None:
        """Find a pace after a refusal.

        Args:
            counted: it refused more requests of those in flight than it answered: it is their number that it minds.
            again: nothing was let through since the refusal before.
        """
        self._resumed_at = now
        self._counted = self._counted or counted or self._often >= OFTEN_TIMES
        if self._let_through is not None:
            rate = self._rate or self._let_through
            self._ceiling = min(rate, max(self._let_through, rate * (HALF if self._counted else NEARLY)))
            self._rate = self._ceiling * (HALF if again else 1.0)
        elif counted:
            self._rate = self._ceiling * NEARLY
        if self._rate is not None:
            self._rate = max(SLOWEST, self._rate)
            self._next_at = self._asked_at = now

    def _is_outdated(self, now: float) -> bool:
        if self._counted:
            return now - self._refused_at > OUTDATED_SECONDS
        return self._since_refused > OUTDATED_REQUESTS

    def _first_measured(self, in_flight: int) -> float:
        """The least limit under which all but the last requests could pass, as a burst and with time."""
        passed = list(self._recent)[: len(self._recent) - in_flight]
        return max(
            ((len(passed) - number) / (SAVED_SECONDS + passed[-1] - sent_at) for number, sent_at in enumerate(passed)),
            default=0.0,
        )
