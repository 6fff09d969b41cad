"""Where a picture is looked for: the smallest sufficient rendition, its URL, and last GBIF's cache."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import pytest

from gbif_platform.images import candidates
from gbif_platform.images.fetch import FetchOptions
from gbif_platform.images.plan import Wanted
from gbif_platform.images.renditions import Rendition
from gbif_platform.images.transform import Transform
from gbif_platform_tests.images.faulty_host import FaultyHost
from gbif_platform_tests.images.fetching import OPTIONS, fetch_all


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


@pytest.fixture
def offered(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Paths at which the host offers smaller sizes of anything, with the longer side's limit."""
    paths: dict[str, int | None] = {}
    monkeypatch.setattr(
        candidates,
        "renditions",
        lambda url, transform: [Rendition(path, host.url(path), longest) for path, longest in paths.items()],
    )
    return paths


def test_a_sufficient_rendition_is_taken_and_named(host: FaultyHost, offered: dict[str, int | None]) -> None:
    offered["sized/40"] = 40
    url = host.url("sized/200")
    result = fetch_all([url])[url]
    assert (result.status, result.rendition, result.fetched_url) == ("ok", "sized/40", host.url("sized/40"))
    assert (result.source_width, result.attempts) == (40, 1)
    assert host.targets() == ["sized/40"]


@pytest.mark.parametrize(("longest", "taken"), [(20, "sized/64"), (None, "sized/64"), (500, "sized/20")])
def test_a_rendition_that_was_scaled_below_the_target_is_passed_over(
    host: FaultyHost, offered: dict[str, int | None], longest: int | None, taken: str
) -> None:
    # With a limit of 500 a picture of 20 pixels is as large as there is.
    offered |= {"sized/20": longest, "sized/64": 64}
    url = host.url("sized/200")
    assert fetch_all([url])[url].rendition == taken


@pytest.mark.parametrize("missing", ["status/404", "status/403", "status/500", "page", "empty", "hang_up"])
def test_where_a_rendition_cannot_be_had_the_original_is_taken(
    host: FaultyHost, offered: dict[str, int | None], missing: str
) -> None:
    offered[missing] = 64
    url = host.url("good/1")
    result = fetch_all([url])[url]
    assert (result.status, result.rendition, result.fetched_url) == ("ok", None, None)
    assert result.attempts > 1


def test_the_result_of_a_picture_that_is_nowhere_is_that_of_its_url(
    host: FaultyHost, offered: dict[str, int | None]
) -> None:
    offered["status/403"] = 64
    url = host.url("status/404")
    result = fetch_all([url])[url]
    assert (result.status, result.reason, result.attempts) == ("failed", "http_404", 2)


def test_what_is_reserved_in_one_size_is_not_asked_for_in_another(
    host: FaultyHost, offered: dict[str, int | None]
) -> None:
    offered["robots/noai"] = 64
    url = host.url("good/1")
    result = fetch_all([url], OPTIONS.model_copy(update={"robots": frozenset({"noai"})}))[url]
    assert result.reason == "robots"
    assert host.targets() == ["robots/noai"]


def test_a_stored_picture_is_asked_at_its_url_only(host: FaultyHost, offered: dict[str, int | None]) -> None:
    offered["sized/40"] = 40
    result = fetch_all([Wanted("1", host.url("versioned"), etag='"v1"')])["1"]
    assert result.status == "unchanged"
    assert host.targets() == ["versioned"]


class Cache:
    """GBIF's cache, which has every picture that it is asked for in time."""

    def __init__(self, host: FaultyHost) -> None:
        self.host = host

    def options(self, **changes: object) -> FetchOptions:
        return OPTIONS.model_copy(update={"gbif_cache": self.host.url("cached"), "retries": 0, **changes})

    def address(self, url: str) -> str:
        return f"cached/occurrence/7/media/{hashlib.md5(url.encode()).hexdigest()}"


@pytest.fixture
def cache() -> Iterator[Cache]:
    with FaultyHost("127.0.0.2") as host:
        yield Cache(host)


@pytest.mark.parametrize("path", ["status/404", "status/500", "hang_up", "silent", "loop"])
def test_where_a_host_fails_gbif_has_a_copy(host: FaultyHost, cache: Cache, path: str) -> None:
    url = host.url(path)
    result = fetch_all([Wanted("1", url, gbif_id="7")], cache.options())["1"]
    assert (result.status, result.rendition, result.url) == ("ok", "gbif_cache", url)
    assert cache.host.targets() == [cache.address(url)]


@pytest.mark.parametrize("path", ["robots/noai", "status/410", "status/403", "page", "to/file:///etc/hostname"])
def test_what_is_kept_from_us_is_not_taken_from_the_cache(host: FaultyHost, cache: Cache, path: str) -> None:
    wanted = Wanted("1", host.url(path), gbif_id="7")
    assert fetch_all([wanted], cache.options(robots=frozenset({"noai"})))["1"].status != "ok"
    assert cache.host.seen == []


def test_pictures_without_an_occurrence_are_not_in_the_cache(host: FaultyHost, cache: Cache) -> None:
    assert fetch_all([Wanted("1", host.url("status/404"))], cache.options())["1"].reason == "http_404"
    assert cache.host.seen == []


def test_a_copy_that_is_missing_too_leaves_the_hosts_reason(host: FaultyHost) -> None:
    options = OPTIONS.model_copy(update={"gbif_cache": host.url("status/404"), "retries": 0})
    result = fetch_all([Wanted("1", host.url("status/500"), gbif_id="7")], options)["1"]
    assert (result.reason, result.attempts) == ("http_500", 2)


def test_the_cache_is_asked_for_one_picture_at_a_time(host: FaultyHost, cache: Cache) -> None:
    cache.host.delay = 0.05
    wanted = [Wanted(str(n), host.url(f"status/404?{n}"), gbif_id="7") for n in range(6)]
    assert {result.rendition for result in fetch_all(wanted, cache.options()).values()} == {"gbif_cache"}
    times = [seen.time for seen in cache.host.seen]
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(times))


def test_no_rendition_where_every_pixel_is_wanted() -> None:
    url = "https://inaturalist-open-data.s3.amazonaws.com/photos/1/original.jpg"
    assert len(candidates.candidates(Wanted("1", url), Transform())) > 1
    assert candidates.candidates(Wanted("1", url), Transform(resize="no")) == [candidates.Candidate(url)]


def test_where_a_rule_fails_at_a_url_the_url_itself_is_asked(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "renditions", lambda url, transform: [1 / 0])
    url = host.url("good/1")
    assert fetch_all([url])[url].status == "ok"


def test_a_stored_rendition_is_asked_for_changes_where_it_came_from(
    host: FaultyHost, offered: dict[str, int | None]
) -> None:
    offered |= {"sized/40": 40, "sized/64": 64}
    stored = Wanted("1", host.url("sized/200"), etag='"old"', rendition="sized/20", rendition_url=host.url("sized/20"))
    result = fetch_all([stored])["1"]
    assert (result.status, result.rendition, result.fetched_url) == ("ok", "sized/20", host.url("sized/20"))
    assert host.targets() == ["sized/20"]
