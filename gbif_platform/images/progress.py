"""How far a fetching run is: counts, rates, and what a person reads of them."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gbif_platform.images.fetch import FetchResult

RECENT_SECONDS = 10.0
REASONS_TOLD = 3


class _Moment(NamedTuple):
    seconds: float
    done: int
    ok: int
    bytes_received: int


@dataclass
class FetchProgress:
    """Where a run stands.

    Attributes:
        total: URLs planned.
        ok, failed, refused, unchanged: URLs done, by status; unchanged ones are stored already.
        reasons: how many of the failed and refused there are, by reason.
        bytes_received, bytes_stored: of bodies and of the pictures made from them.
        shards: keys of the shards committed, originals' included.
        seconds: since the start.
        trouble: why the run waits, e.g. for the object store; empty while it goes on.
    """

    total: int
    ok: int = 0
    failed: int = 0
    refused: int = 0
    unchanged: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    bytes_received: int = 0
    bytes_stored: int = 0
    shards: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trouble: str = ""
    _moments: deque[_Moment] = field(default_factory=lambda: deque([_Moment(0.0, 0, 0, 0)]), repr=False)

    @property
    def done(self) -> int:
        """URLs with a result."""
        return self.ok + self.failed + self.refused + self.unchanged

    @property
    def images_per_second(self) -> float:
        """Pictures stored per second since the start."""
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def recent_images_per_second(self) -> float:
        """Pictures stored per second of late."""
        return self._recent(self.ok - self._moments[0].ok)

    @property
    def recent_bytes_per_second(self) -> float:
        """Bytes of bodies received per second of late."""
        return self._recent(self.bytes_received - self._moments[0].bytes_received)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of late, whatever becomes of the URLs; None while nothing comes."""
        pace = self._recent(self.done - self._moments[0].done)
        return (self.total - self.done) / pace if pace else None

    @property
    def numbers(self) -> dict[str, float]:
        """What a chart shows of it; without `seconds_left` while that is unknown."""
        numbers: dict[str, float] = {
            "images_per_second": self.recent_images_per_second,
            "bytes_per_second": self.recent_bytes_per_second,
            "done": self.done,
            "failed": self.failed + self.refused,
        }
        left = self.seconds_left
        return numbers if left is None else numbers | {"seconds_left": left}

    @property
    def note(self) -> str:
        """On one line, what a narrow terminal may cut last: `381 pictures/s · 120 MB/s · 1:42 left · 96 http_404`."""
        return " · ".join(filter(None, self._notes()))

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} · {self.note}"

    def count(self, result: FetchResult) -> None:
        """Add one result."""
        setattr(self, result.status, getattr(self, result.status) + 1)
        if result.reason:
            self.reasons[result.reason] += 1
        self.bytes_received += result.source_bytes or 0
        self.bytes_stored += len(result.data or b"")

    def at(self, seconds: float) -> None:
        """Note the time since the start; the rates of late are measured between such moments."""
        self.seconds = seconds
        self._moments.append(_Moment(seconds, self.done, self.ok, self.bytes_received))
        while len(self._moments) > 2 and self._moments[1].seconds <= seconds - RECENT_SECONDS:
            self._moments.popleft()

    def _recent(self, count: int) -> float:
        span = self.seconds - self._moments[0].seconds
        return count / span if span > 0 else 0.0

    def _notes(self) -> Iterator[str]:
        yield self.trouble
        yield f"{self.recent_images_per_second:,.0f} pictures/s"
        yield _rate(self.recent_bytes_per_second)
        left = self.seconds_left
        yield f"{_clock(left)} left" if left is not None and self.done < self.total else ""
        yield f"{self.unchanged:,} unchanged" if self.unchanged else ""
        yield ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common(REASONS_TOLD))


class FetchSummary(FetchProgress):
    """How a run ended; every planned URL is counted."""


def _rate(bytes_per_second: float) -> str:
    if bytes_per_second < 1e6:
        return f"{bytes_per_second / 1e3:.0f} kB/s"
    return f"{bytes_per_second / 1e6:.{0 if bytes_per_second >= 1e7 else 1}f} MB/s"


def _clock(seconds: float) -> str:
    """`1:42`, or `3:07:12` past an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
