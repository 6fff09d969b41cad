"""Manners, against simulated hosts in simulated time: limits are found and kept to, the dead are left alone."""

import heapq
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.images.hosts import Host
from gbif_platform.images.manners import learn


class Limited:
    """A host that lets `rate` requests a second through, of which `burst` may be saved up."""

    def __init__(self, rate: float, burst: int, retry_after: float | None) -> None:
        self.rate, self.burst, self.retry_after = rate, burst, retry_after
        self._tokens, self._at = float(burst), 0.0

    def answer(self, now: float) -> tuple[str, float | None]:
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return "http_429", self.retry_after
        self._tokens -= 1
        return "", None


def ask_often(server: Limited, pictures: int, latency: float, per_host: int = 16) -> tuple[float, int, list[float]]:
    """Fetch so many pictures; returns the seconds, how many answers were 429, and when requests left."""
    host, now, left, refused = Host("h", per_host), 0.0, pictures, 0
    flying: list[tuple[float, float, str, float | None]] = []
    sent: list[float] = []
    while left or flying:
        assert now < 10_000
        at = host.free_at(now) if left else None
        if at is not None and (not flying or at <= flying[0][0]):
            now = max(now, at)
            host.asked(now)
            sent.append(now)
            left -= 1
            heapq.heappush(flying, (now + latency, now, *server.answer(now + latency / 2)))
            continue
        now, sent_at, reason, pause = heapq.heappop(flying)
        host.in_flight -= 1
        refused += bool(reason)
        left += bool(reason)
        told(host, reason, now, sent_at, pause)
        assert host.closed_until is None
    return now, refused, sent


def told(host: Host, reason: str, now: float, sent_at: float, pause: float | None = None, url: str = "u") -> None:
    learn(host, reason, "", url_id=url, pause=pause, sent_at=sent_at, now=now, backoff=1.0, max_pause=120)


@pytest.mark.parametrize("latency", [0.002, 0.01, 0.02, 0.05])
def test_a_limited_host_gives_all_its_pictures_with_hardly_a_refusal(latency: float) -> None:
    # 20 s is what the host needs.
    seconds, refused, _ = ask_often(Limited(50, 50, retry_after=2), 1000, latency)
    assert seconds < 23
    assert refused <= 10


@settings(max_examples=25, deadline=None)
@given(
    rate=st.floats(2, 100),
    saved=st.floats(0.2, 3),
    latency=st.floats(0.002, 0.3),
    retry_after=st.sampled_from([None, 1.0, 5.0]),
)
def test_any_limit_is_found_and_kept_to(rate: float, saved: float, latency: float, retry_after: float | None) -> None:
    server = Limited(rate, max(1, int(rate * saved)), retry_after)
    pictures = int(rate * 120)  # two minutes' worth
    seconds, refused, _ = ask_often(server, pictures, latency)
    assert seconds < max(pictures / rate, pictures * latency / 16) * 2 + 60
    assert refused <= 30 + pictures * 0.02


def test_no_request_leaves_before_retry_after_has_passed() -> None:
    _, _, sent = ask_often(Limited(10, 10, retry_after=7), 100, latency=0.01)
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert max(gaps) >= 7
    assert max(gaps) < 7.5


def test_the_window_starts_narrow_and_widens_with_success() -> None:
    host = Host("h", 16)
    widths = []
    for at in range(500):
        while host.free_at(at) is not None:
            host.asked(at)
        widths.append(host.in_flight)
        host.in_flight = 0
        host.answered(at, at)
    assert widths[0] == 4
    assert widths[30] == 5
    assert widths[-1] == 16


def test_answers_to_one_burst_are_one_refusal() -> None:
    host = Host("h", 16)
    for at in range(4):
        host.asked(at / 100)
    for at in range(4):
        told(host, "http_429", 1 + at / 100, sent_at=at / 100, pause=1)
    assert host.refusals == 1


def test_a_single_bare_503_is_no_refusal_and_two_in_a_row_are() -> None:
    host = Host("h", 16)
    told(host, "http_503", 1, sent_at=0)
    assert host.refusals == 0
    told(host, "http_503", 2, sent_at=1)
    assert host.refusals == 1


def test_a_host_that_refuses_everything_is_closed_for_an_hour() -> None:
    host, now = Host("h", 16), 0.0
    for _ in range(8):
        now = host.free_at(now) or now
        host.asked(now)
        host.in_flight -= 1
        told(host, "http_429", now + 0.1, sent_at=now)
        now += 0.1
    assert host.closed_until is not None
    assert now > 60


def probe(host: Host, now: float, url: str, reason: str) -> float:
    """One request as soon as one may leave; returns when it ended."""
    at = host.free_at(now)
    assert at is not None
    sent_at = max(now, at)
    host.asked(sent_at)
    host.in_flight -= 1
    told(host, reason, sent_at + 0.1, sent_at, url=url)
    return sent_at + 0.1


def test_a_dead_host_is_probed_twice_and_given_up() -> None:
    host, now, ended = Host("h", 16), 0.0, []
    for number in range(7):
        assert not host.down
        now = probe(host, now, str(number), "connection_refused")
        ended.append(now)
    assert host.down == "connection_refused: "
    assert host.free_at(now) == now  # its URLs come out, to be counted
    waits = [round(later - earlier - 0.1, 6) for earlier, later in pairwise(ended)]
    assert waits == [0, 0, 0, 0, 2, 10]


def test_a_host_that_comes_back_is_asked_as_before() -> None:
    host, now = Host("h", 16), 0.0
    for number in range(6):
        now = probe(host, now, str(number), "connection_refused")
    now = probe(host, now, "6", "")
    for _ in range(4):
        assert host.free_at(now) == now
        host.asked(now)
    assert host.free_at(now) is None
    assert not host.down


def test_one_bad_url_asked_again_and_again_is_no_dead_host() -> None:
    host, now = Host("h", 16), 0.0
    for _ in range(10):
        now = probe(host, now, "the same", "http_500")
    assert host.free_at(now) == now


def test_a_time_out_counts_against_the_host_only_when_it_answers_nobody() -> None:
    alive, dead = Host("h", 16), Host("h", 16)
    for number in range(5):
        alive.asked(0.0)
        dead.asked(0.0)
        alive.answered(1.0, 0.0)
        told(alive, "timeout", 15.0, sent_at=0.0, url=str(number))
        told(dead, "timeout", 15.0, sent_at=0.0, url=str(number))
    alive.in_flight = dead.in_flight = 0
    assert alive.free_at(15.0) == 15.0
    assert dead.free_at(15.0) == 17.0


@pytest.mark.parametrize(("usual", "exception"), [(0.2, True), (4.0, False)])
def test_a_request_that_waits_is_an_exception_only_at_a_quick_host(usual: float, exception: bool) -> None:
    host = Host("h", 16)
    for second in range(100):
        host.answered(second, second - usual)
    assert host.is_quick_with_others(sent_at=96) is exception
    assert not host.is_quick_with_others(sent_at=99)
