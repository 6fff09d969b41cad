"""Every fault a host can show: one typed result, never a hang, and the neighbours come all the same."""

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gbif_platform.images import addresses
from gbif_platform.images.fetch import fetch
from gbif_platform.images.manners import learn
from gbif_platform.images.plan import Wanted
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.schedule import MOST_KNOWN
from gbif_platform.images.transform import Transform
from gbif_platform.retry_after import LONGEST_PAUSE, retry_after
from gbif_platform_tests.images.faulty_host import Bucket, FaultyHost, picture
from gbif_platform_tests.images.fetching import OPTIONS, fetch_all, run


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


FAULTS = [
    ("status/404", "failed", "http_404", 1),
    ("status/403", "failed", "http_403", 1),
    ("status/410", "failed", "http_410", 1),
    ("status/429", "failed", "http_429", 3),
    ("status/500", "failed", "http_500", 3),
    ("status/503", "failed", "http_503", 3),
    ("busy_nonsense", "failed", "http_429", 3),
    ("status/206", "failed", "http_206", 1),
    ("status/204", "refused", "empty_body", 1),
    ("drip", "failed", "timeout", 1),
    ("drip_headers", "failed", "timeout", 1),
    ("silent", "failed", "timeout", 1),
    ("stall", "failed", "timeout", 1),
    ("reset", "failed", "connection_reset", 3),
    ("hang_up", "failed", "connection_reset", 3),
    ("cut", "failed", "truncated_transfer", 3),
    ("cut_chunks", "failed", "truncated_transfer", 3),
    ("garbage", "failed", "bad_response", 3),
    ("zip_cut", "failed", "truncated_transfer", 3),
    ("zip_wrong", "failed", "bad_encoding", 3),
    ("longer", "failed", "bad_response", 3),
    ("brotli", "failed", "bad_encoding", 3),
    ("loop", "failed", "redirect_loop", 1),
    ("hops/6", "failed", "too_many_redirects", 1),
    ("nowhere", "failed", "bad_redirect", 1),
    ("to/file:///etc/hostname", "refused", "unsupported_scheme", 1),
    ("to/http://[::1", "failed", "bad_redirect", 1),
    ("half", "refused", "truncated_image", 1),
    ("endless", "refused", "too_many_bytes", 1),
    ("announced", "refused", "too_many_bytes", 1),
    ("zip_bomb", "refused", "too_many_bytes", 1),
    ("page", "refused", "html_page", 1),
    ("empty", "refused", "empty_body", 1),
    ("noise", "refused", "not_an_image", 1),
]


@pytest.mark.parametrize(("path", "status", "reason", "attempts"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_typed_and_its_neighbours_come(
    host: FaultyHost, path: str, status: str, reason: str, attempts: int
) -> None:
    neighbours = [host.url(f"good/{number}") for number in (1, 2, 3)]
    results = fetch_all([neighbours[0], host.url(path), *neighbours[1:]])
    bad = results.pop(host.url(path))
    assert (bad.status, bad.reason, bad.attempts) == (status, reason, attempts)
    if path not in ("loop", "hops/6", "hang_up"):  # aiohttp itself asks again where a kept connection turns out dead
        assert host.targets().count(path) == attempts
    assert {url: result.source_sha256 for url, result in results.items()} == {
        url: sha256(picture(number)).hexdigest() for number, url in enumerate(neighbours, 1)
    }


@pytest.mark.parametrize("path", ["flaky", "zipped", "hops/1", "hops/5"])
def test_troubles_that_end_well(host: FaultyHost, path: str) -> None:
    result = fetch_all([host.url(path)])[host.url(path)]
    assert result.status == "ok"
    assert result.http_status == 200
    assert result.attempts == (2 if path == "flaky" else 1)
    expected = picture({"zipped": 7, "hops/1": 1, "hops/5": 1}.get(path, 0))
    assert result.source_sha256 == sha256(expected).hexdigest()
    assert result.source_bytes == len(expected)
    assert (result.source_width, result.source_height, result.source_format) == (64, 64, "jpeg")
    assert (result.width, result.height, result.frames) == (32, 32, 1)


def test_when_to_ask_again_depends_on_the_reason(host: FaultyHost) -> None:
    results = fetch_all([host.url(path) for path in ("status/404", "status/410", "status/500", "page")])
    waits = {
        result.url.rpartition("/")[2]: result.retry_at
        and round((result.retry_at - result.fetched_at) / timedelta(hours=1))
        for result in results.values()
    }
    assert waits == {"404": 30 * 24, "410": None, "500": 1, "page": 30 * 24}


def test_an_html_page_names_its_title_and_its_hash(host: FaultyHost) -> None:
    result = fetch_all([host.url("page")])[host.url("page")]
    assert result.detail == "Terms of use"
    assert result.source_sha256


@pytest.mark.parametrize(("path", "at_least"), [("busy_seconds", 1.0), ("busy_date", 1.0)])
def test_retry_after_pauses_the_whole_host_and_no_other(host: FaultyHost, path: str, at_least: float) -> None:
    with FaultyHost() as other:
        urls = [host.url(path), *(host.url(f"good/{n}") for n in range(3)), *(other.url(f"good/{n}") for n in range(3))]
        results = fetch_all(urls, OPTIONS.model_copy(update={"per_host": 1}))
        assert {result.status for result in results.values()} == {"ok"}
        first, *later = host.seen
        assert first.target == f"/{path}"
        assert all(seen.time - first.time >= at_least for seen in later)
        assert max(seen.time for seen in other.seen) < min(seen.time for seen in later)


@pytest.mark.parametrize(
    ("path", "pause"), [("closed_for_hours", timedelta(hours=2)), ("closed_for_ever", timedelta(days=365))]
)
def test_a_host_that_asks_for_long_is_left_alone_and_no_other(host: FaultyHost, path: str, pause: timedelta) -> None:
    options = OPTIONS.model_copy(update={"per_host": 1})
    with FaultyHost() as other:
        others = [other.url(f"good/{n}") for n in range(3)]
        results = fetch_all([host.url(path), *(host.url(f"good/{n}") for n in range(20)), *others], options)
    assert [results.pop(url).status for url in others] == ["ok"] * 3
    assert host.targets() == [path]
    assert sorted({result.reason for result in results.values()}) == ["host_busy", "http_429"]
    for result in results.values():
        assert result.retry_at is not None
        assert timedelta(0) <= pause - (result.retry_at - result.fetched_at) < timedelta(minutes=5)


@given(
    st.text(max_size=40)
    | st.from_regex(r"\A(Fri, )?\d{1,2} Dec \d{1,5} \d{1,3}:\d\d(:\d\d)? ([+-]\d{1,30}|GMT|EST)\Z")
    | st.from_regex(r"\A\d{1,400}\Z")
)
@example("9" * 5000)
@example("Fri, 31 Dec 9999 23:59:59 -1200")
@example("Fri, 31 Dec 2027 23:59:59 +99999999999999999999")
def test_no_retry_after_is_too_hostile(header: str) -> None:
    pause = retry_after(header)
    assert pause is None or 0 <= pause <= LONGEST_PAUSE


def test_a_host_that_is_slow_to_begin_gets_its_share_of_a_longer_deadline() -> None:
    assert FetchOptions().patience == 15
    assert FetchOptions(deadline=120).patience == 60
    assert FetchOptions(deadline=120, stall_timeout=20).patience == 20


@pytest.mark.parametrize(
    ("path", "limit"),
    [("silent", "no byte for 0.8 s"), ("stall", "no byte for 0.8 s"), ("drip", "not complete after 1.5 s")],
)
def test_a_time_out_names_the_limit_that_was_met(host: FaultyHost, path: str, limit: str) -> None:
    assert fetch_all([host.url(path)])[host.url(path)].detail == limit


def test_a_fault_in_settling_a_picture_costs_that_picture(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = host.url("status/404")

    def learn_badly(*given: Any, **named: Any) -> None:
        if named["url_id"] == bad:
            raise OverflowError("date value out of range")
        learn(*given, **named)

    monkeypatch.setattr("gbif_platform.images.fetch.learn", learn_badly)
    good = [host.url(f"good/{n}") for n in range(20)]
    results = fetch_all([*good[:10], bad, *good[10:]], OPTIONS.model_copy(update={"per_host": 2}))
    assert (results[bad].status, results[bad].reason) == ("failed", "internal_error")
    assert "date value out of range" in results[bad].detail
    assert {results[url].status for url in good} == {"ok"}


def test_a_slow_host_does_not_hold_up_the_others(host: FaultyHost) -> None:
    options = OPTIONS.model_copy(update={"concurrency": 6, "per_host": 2, "retries": 0})
    with FaultyHost() as other:
        started = time.monotonic()
        fetch_all([*(host.url(f"silent/{n}") for n in range(4)), *(other.url(f"good/{n}") for n in range(40))], options)
        # Two rounds of 0.8 s at the slow host; the other one is done before the last of them begins.
        assert max(seen.time for seen in other.seen) < max(seen.time for seen in host.seen)
        assert time.monotonic() - started > 1.6


def test_pictures_that_hang_take_one_time_out_together_and_hold_up_no_other(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gbif_platform.images.asker.HANGING_SECONDS", 0.2)
    options = OPTIONS.model_copy(update={"stall_timeout": 2, "deadline": 3, "per_host": 4, "concurrency": 16})
    urls = [host.url(f"silent/{n}") if n % 10 == 5 else host.url(f"good/{n}") for n in range(120)]
    started = time.monotonic()
    results = fetch_all(urls, options)
    assert time.monotonic() - started < 4 * 2  # 12 of them hang for 2 s each
    hung = [result for result in results.values() if result.status != "ok"]
    assert [(result.reason, result.attempts) for result in hung] == [("timeout", 1)] * 12


def test_the_last_silent_pictures_are_left_to_a_later_run_which_waits_for_them(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gbif_platform.images.asker.HANGING_SECONDS", 0.2)
    monkeypatch.setattr("gbif_platform.images.fetch.STRAGGLER_SECONDS", 0.5)
    monkeypatch.setattr("gbif_platform.images.fetch.STRAGGLER_ANSWERS", 30)
    options = OPTIONS.model_copy(update={"stall_timeout": 20, "deadline": 30})
    silent = [host.url(f"silent/{n}") for n in range(3)]
    started = time.monotonic()
    results = fetch_all([*silent, *(host.url(f"good/{n}") for n in range(40))], options)
    assert time.monotonic() - started < 15, "it does not wait for their time-out"
    hung = [results[url] for url in silent]
    assert [(result.status, result.reason) for result in hung] == [("failed", "timeout")] * 3
    assert all(result.retry_at is not None for result in hung)
    started = time.monotonic()
    fetch_all(silent, options.model_copy(update={"stall_timeout": 3, "retries": 0}))
    assert time.monotonic() - started >= 3, "by themselves they have all the time that options allow"


def test_a_host_that_counts_requests_gets_what_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(rate=40, burst=40)
    with FaultyHost(bucket=bucket) as host:
        results = fetch_all([host.url(f"good/{n}") for n in range(150)], OPTIONS.model_copy(update={"per_host": 16}))
    assert {result.status for result in results.values()} == {"ok"}
    assert len(bucket.refusals) <= 10


def test_the_urls_of_a_dead_host_wait_and_then_end_unasked(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gbif_platform.images.hosts.PROBES_AFTER", (0.5, 1.5))
    dead = [f"http://127.0.0.1:1/{n}" for n in range(40)]
    alive = [host.url(f"good/{n}") for n in range(40)]
    started = time.monotonic()
    results = fetch_all([url for pair in zip(dead, alive, strict=True) for url in pair])
    assert time.monotonic() - started > 2  # two waits before single probes
    assert all(results[url].status == "ok" for url in alive)
    given_up = [result.fetched_at for result in results.values() if result.reason == "host_down"]
    assert max(results[url].fetched_at for url in alive) < min(given_up)
    reasons = Counter(results[url].reason for url in dead)
    assert reasons["host_down"] >= 30
    assert set(reasons) <= {"host_down", "connection_refused"}
    down = next(result for result in results.values() if result.reason == "host_down")
    assert "connection_refused" in down.detail
    assert down.retry_at is not None
    assert abs(down.retry_at - down.fetched_at - timedelta(hours=1)) < timedelta(seconds=1)


ROBOTS = frozenset({"noai", "noimageai", "noindex", "noml", "tdm-reservation"})


@pytest.mark.parametrize(
    ("path", "directive"),
    [
        ("robots/noai", "noai"),
        ("robots/max-snippet:-1,%20noai", "noai"),
        ("robots/none", "none"),
        ("robots/NoML", "noml"),
        ("reserved", "tdm-reservation"),
    ],
)
def test_what_a_host_reserves_is_not_taken_nor_read(host: FaultyHost, path: str, directive: str) -> None:
    urls = [host.url(path), host.url(f"to/{host.url(path)}")]
    for result in fetch_all(urls, OPTIONS.model_copy(update={"robots": ROBOTS})).values():
        assert (result.status, result.reason, result.detail) == ("refused", "robots", directive)
        assert result.source_bytes is None


def test_directives_that_are_not_heeded_or_not_for_us_change_nothing(host: FaultyHost) -> None:
    assert fetch_all([host.url("reserved")])[host.url("reserved")].status == "ok"


def test_whether_a_picture_has_changed(host: FaultyHost) -> None:
    url = host.url("versioned")
    first = fetch_all([url])[url]
    assert (first.etag, first.last_modified) == ('"v1"', "Thu, 01 Oct 2026 10:00:00 GMT")
    known = [Wanted("tag", url, etag=first.etag), Wanted("date", url, last_modified=first.last_modified)]
    results = fetch_all([*known, Wanted("other", url, etag='"v0"')])
    assert {url_id: result.status for url_id, result in results.items()} == {
        "tag": "unchanged", "date": "unchanged", "other": "ok",
    }  # fmt: skip
    assert results["tag"].http_status == 304


def test_originals_come_as_they_were_served(host: FaultyHost) -> None:
    url = host.url("good/1")
    assert fetch_all([url])[url].original is None
    kept = fetch_all([url], transform=Transform(size=32, keep_original=True))[url]
    assert kept.original == picture(1)
    assert kept.data != kept.original


def test_per_host_limit_holds(host: FaultyHost) -> None:
    options = OPTIONS.model_copy(update={"per_host": 2, "stall_timeout": 0.3, "retries": 0})
    fetch_all([host.url(f"silent/{n}") for n in range(4)], options)
    times = [seen.time - host.seen[0].time for seen in host.seen]
    assert times[1] < 0.25 < times[2]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/hostname", "unsupported_scheme"),
        ("ftp://127.0.0.1/a.jpg", "unsupported_scheme"),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "unsupported_scheme"),
        ("urn:catalog:LMNH:12345", "unsupported_scheme"),
        ("www.example.invalid/photo.jpg", "unsupported_scheme"),
        ("", "unsupported_scheme"),
        ("http:///photo.jpg", "invalid_url"),
        ("http://[::1/photo.jpg", "invalid_url"),
        ("http://127.0.0.1:1/photo.jpg", "connection_refused"),
        ("http://nowhere.invalid/photo.jpg", "host_not_found"),
    ],
)
def test_urls_that_lead_nowhere(url: str, reason: str) -> None:
    assert fetch_all([url])[url].reason == reason


@pytest.fixture
def only_this_host_is_public(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> FaultyHost:
    """Lets the test's own host pass for a public one, so that redirects from it can be followed."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == host.address or real(address))
    return host


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://[::1]:80/", "http://[::ffff:10.0.0.1]/"]
)
def test_redirects_to_addresses_that_are_not_public(only_this_host_is_public: FaultyHost, target: str) -> None:
    url = only_this_host_is_public.url(f"to/{target}")
    result = fetch_all([url], OPTIONS.model_copy(update={"allow_private": False}))[url]
    assert (result.status, result.reason, result.attempts) == ("refused", "forbidden_address", 1)


def test_private_machines_are_never_reached(
    only_this_host_is_public: FaultyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS.model_copy(update={"allow_private": False})
    with FaultyHost("127.0.0.2") as inside:
        hop = only_this_host_is_public.url(f"to/{inside.url('good/1')}")
        named = f"http://localhost.localdomain.test:{inside.port}/good/1"
        monkeypatch.setattr("socket.getaddrinfo", resolving({"localhost.localdomain.test": "127.0.0.2"}))
        results = fetch_all([hop, inside.url("good/1"), named], options)
        assert {result.reason for result in results.values()} == {"forbidden_address"}
        assert inside.seen == []


def resolving(names: dict[str, str]) -> Callable[..., Any]:
    """A look-up as a hostile name server would answer it."""
    real = socket.getaddrinfo
    return lambda host, *args, **kwargs: real(names.get(host, host), *args, **kwargs)


def test_the_host_sees_what_a_browser_would_send(host: FaultyHost) -> None:
    fetch_all([host.url("good/1?a b=ö&c=%2F%c3"), host.url("status/404?x=照片|")], OPTIONS)
    assert sorted(host.targets()) == ["good/1?a%20b=%C3%B6&c=%2F%c3", "status/404?x=%E7%85%A7%E7%89%87%7C"]


def test_we_say_who_we_are(host: FaultyHost) -> None:
    fetch_all([host.url("good/1")], OPTIONS.model_copy(update={"contact": "https://example.org/bot"}))
    headers = host.seen[0].headers
    assert headers["User-Agent"].startswith("gbif-platform/")
    assert headers["User-Agent"].endswith("(+https://example.org/bot)")
    assert headers["Accept-Encoding"] == "identity"


def test_the_plan_is_read_lazily_and_leaving_early_ends_everything(host: FaultyHost) -> None:
    read = 0

    def endless_plan() -> Iterator[tuple[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield str(read), host.url(f"good/{read % 5}")

    async def take_five() -> None:
        async with aclosing(fetch(endless_plan(), OPTIONS)) as results:
            for _ in range(5):
                assert (await anext(results)).status == "ok"

    run(take_five())
    assert read <= MOST_KNOWN + 200


def test_an_error_of_the_plan_is_the_callers(host: FaultyHost) -> None:
    def broken_plan() -> Iterator[tuple[str, str]]:
        yield "1", host.url("good/1")
        raise LookupError("the table went away")

    async def consume() -> None:
        async with aclosing(fetch(broken_plan(), OPTIONS)) as results:
            async for _ in results:
                pass

    with pytest.raises(LookupError, match="the table went away"):
        run(consume())


def test_a_fault_of_ours_is_counted_and_logged(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gbif_platform.images.asker.transform_image", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.ERROR):
        result = fetch_all([host.url("good/1")])[host.url("good/1")]
    assert (result.status, result.reason) == ("failed", "internal_error")
    assert "ZeroDivisionError" in result.detail
    assert "ZeroDivisionError" in caplog.text
