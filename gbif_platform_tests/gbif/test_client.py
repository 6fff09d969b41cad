"""The client against GBIF's recorded answers, and against what networks do."""

import asyncio
import dataclasses
import gzip
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.gbif.blocking import run_blocking
from gbif_platform.gbif.checklists import COL_XR
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.errors import (
    BadRequest,
    GbifError,
    NotAuthorised,
    NotFound,
    TooManyDownloads,
    UnknownField,
    Unreachable,
    WrongChecklist,
)
from gbif_platform.gbif.retry import Patience
from gbif_platform.retry_after import retry_after
from gbif_platform_tests.gbif.replay import DROP, Recording, Served, recordings, replaying, scripted

PASSWORD = "p@ss/wörd' 100%"
ACCOUNT = Credentials("frog", PASSWORD, "frog@example.org")
QUICK = Patience(attempts=4, first_wait_s=0.01)
EMPTY_PAGE: dict[str, Any] = {"offset": 0, "limit": 0, "endOfRecords": True, "count": 7, "results": [], "facets": []}
OK: tuple[int, Any, dict[str, str]] = (200, EMPTY_PAGE, {})


@pytest.fixture(scope="session")
def recorded(shared: Path) -> list[Recording]:
    return recordings(shared / "api" / "dev")


def client(served: Served, **options: Any) -> GbifClient:
    given: dict[str, Any] = {"user_agent": "test (+me@example.org)", "credentials": ACCOUNT}
    return GbifClient(served.url, **given | options)


def replayed(recorded: list[Recording], call: Callable[[GbifClient], Awaitable[Any]], **headers: str) -> Any:
    async def run() -> Any:
        async with replaying(recorded, **headers) as served, client(served) as gbif:
            return await call(gbif)

    return asyncio.run(run())


def asked(call: Callable[[GbifClient], Awaitable[Any]], *answers: Any, **options: Any) -> tuple[Any, Served]:
    """A call's result, or the GbifError that it raised, and what the server saw."""

    async def run() -> tuple[Any, Served]:
        async with scripted(*answers) as served, client(served, **{"patience": QUICK} | options) as gbif:
            try:
                return await call(gbif), served
            except GbifError as error:
                return error, served

    return asyncio.run(run())


# As recorded


def grouped(query: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in query:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def test_every_recorded_answer_is_read_or_becomes_a_typed_error(recorded: list[Recording]) -> None:
    assert len(recorded) >= 145
    errors = {400: BadRequest, 404: NotFound}

    async def run() -> None:
        async with replaying(recorded, retry_after="0") as served, client(served) as gbif:
            for one in recorded:
                if one.method != "GET" or one.status == 429:
                    continue
                if one.status == 200:
                    answer = await gbif._get(one.path, grouped(one.query))
                    # of what was polled, the recorded answers come in turn
                    assert answer == one.body or str(answer) == one.text or "wait_request" in one.file, one.file
                else:
                    with pytest.raises(errors[one.status]) as refused:
                        await gbif._get(one.path, grouped(one.query))
                    assert one.text in refused.value.cause, one.file
                    assert refused.value.next_step, one.file

    asyncio.run(run())


def test_every_recorded_search_gives_the_recorded_records(recorded: list[Recording]) -> None:
    searches = [one for one in recorded if one.path == "/v1/occurrence/search" and one.status == 200]
    assert len(searches) > 20

    async def run() -> None:
        for one in searches:
            query = grouped(one.query)
            wanted = {name: value for name, value in query.items() if name not in ("limit", "offset")}
            if not {"facet", "facetLimit"} & set(wanted):
                async with replaying([one]) as served, client(served) as gbif:
                    page = await gbif.search(wanted, limit=int(query["limit"]), offset=int(query["offset"]))
                    assert page == one.body, one.file
                    assert await gbif.count(wanted) == one.body["count"]

    asyncio.run(run())


def test_facets_as_recorded(recorded: list[Recording]) -> None:
    counts = replayed(recorded, lambda gbif: gbif.facet({"occurrence_status": "PRESENT"}, "country"))
    assert counts == {"US": 1254251672, "CA": 213827437}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"taxonKey": 3189815, "continent": "asia,oceania"}, "Cannot parse asia,oceania into a known Continent"),
        ({"decimalLatitude": 334}, "latitude must be between -90 and 90"),
        ({"taxonKey": 7595433, "depth": "5-10"}, "Invalid decimal range: 5-10"),
        ({"geometry": "POLYGON((30.1 10.1,40 40,20 40,10 20,30.1 a))"}, "Expected a number"),
    ],
)
def test_a_refused_search_shows_gbifs_own_words(recorded: list[Recording], query: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match="answered 400") as refused:
        replayed(recorded, lambda gbif: gbif.search({"occurrenceStatus": "PRESENT"} | query, limit=500))
    assert said in refused.value.cause
    assert refused.value.next_step


def test_names_as_recorded(recorded: list[Recording]) -> None:
    v2 = replayed(recorded, lambda gbif: gbif.match("Helianthus annuus", taxonRank="species"))
    assert (v2.usage_key, v2.match_type, v2.confidence, v2.exact) == ("9206251", "EXACT", 99, True)
    v1 = replayed(recorded, lambda gbif: gbif.match("Helianthus annuus", version=1))
    assert (v1.usage_key, v1.match_type, v1.exact) == ("9206251", "EXACT", True)
    aves = replayed(recorded, lambda gbif: gbif.match("Aves", checklist_key=COL_XR))
    assert (aves.usage_key, aves.match_type, aves.checklist_key) == ("V2", "HIGHERRANK", COL_XR)
    assert not aves.exact
    genus = replayed(recorded, lambda gbif: gbif.match("Calopteryx splendens", kingdom="Plantae"))
    assert (genus.status, genus.usage_key, genus.accepted_key) == ("SYNONYM", "3234109", "7763613")
    nothing = replayed(recorded, lambda gbif: gbif.match("Aso", version=1))
    assert (nothing.match_type, nothing.usage_key, nothing.note) == (
        "NONE",
        None,
        "No match because of too little confidence",
    )


def test_a_download_from_request_to_citation_as_recorded(recorded: list[Recording]) -> None:
    request = next(one for one in recorded if one.file.endswith("rgbif__occ_download_wait_request__000__201.json"))

    async def life(gbif: GbifClient) -> list[str]:
        key = await gbif.request_download(request.sent)
        statuses = [(await gbif.download(key))["status"]]
        while statuses[-1] in ("PREPARING", "RUNNING"):
            statuses.append((await gbif.download(key))["status"])
        return [key, *dict.fromkeys(statuses)]

    assert replayed(recorded, life) == ["0026011-250827131500795", "PREPARING", "RUNNING", "SUCCEEDED"]
    citation = replayed(recorded, lambda gbif: gbif.download_citation("0235283-220831081235567"))
    assert citation == "GBIF.org (2 January 2023) GBIF Occurrence Download https://doi.org/10.15468/dl.29wbtx"


def test_every_recorded_download_request_gives_its_key(recorded: list[Recording]) -> None:
    requests = [one for one in recorded if one.path.endswith("/download/request")]
    assert len(requests) == 6
    for one in requests:
        key = replayed([one], lambda gbif, body=one.sent: gbif.request_download(body))  # type: ignore[misc]
        assert key == one.text


def test_cancelled_listed_and_credited_as_recorded(recorded: list[Recording]) -> None:
    assert replayed(recorded, lambda gbif: gbif.cancel_download("0040513-240906103802322")) is None
    mine = replayed(recorded, lambda gbif: gbif.user_downloads("<gbif_user>", at_most=5))
    assert [one["status"] for one in mine[:2]] == ["CANCELLED", "CANCELLED"]
    assert len(mine) == 5
    (page,) = [one for one in recorded if one.path.endswith("/datasets") and "/download/" in one.path]
    last = dataclasses.replace(page, body=page.body | {"endOfRecords": True})
    datasets = replayed([last], lambda gbif: gbif.download_datasets("0003983-140910143529206"))
    assert datasets == page.body["results"]
    assert all(one["datasetKey"] and one["numberRecords"] for one in datasets)


def test_a_derived_dataset_gets_its_doi(recorded: list[Recording]) -> None:
    one = next(one for one in recorded if one.path == "/v1/derivedDataset")
    answer = replayed(recorded, lambda gbif: gbif.register_derived_dataset(one.sent))
    assert answer["doi"] == "10.15468/dd.cam6mk"
    assert "Derived dataset GBIF.org" in answer["citation"]


def test_the_recorded_429_is_waited_out_as_long_as_it_says(recorded: list[Recording]) -> None:
    query = {"occurrenceStatus": "PRESENT", "speciesKey": 7412043}
    (refusal,) = [one for one in recorded if one.status == 429]
    assert refusal.headers["retry-after"] == "3"
    started = time.monotonic()
    page = replayed(recorded, lambda gbif: gbif.search(query, limit=2), retry_after="1")
    assert time.monotonic() - started >= 1.0
    (after,) = [one for one in recorded if one.file.endswith("rgbif__occ_search_speciesKey__002__200.json")]
    assert page == after.body


def test_a_429_that_stays_ends_with_gbifs_advice(recorded: list[Recording]) -> None:
    (refusal,) = [one for one in recorded if one.status == 429]
    query = {"occurrenceStatus": "PRESENT", "speciesKey": 7412043}
    with pytest.raises(Unreachable, match="request a download through the website"):
        replayed([refusal], lambda gbif: gbif.search(query, limit=2), retry_after="0")


# What is sent


def test_a_list_is_sent_as_a_repeated_parameter_in_gbifs_spelling() -> None:
    query = {"taxon_key": [5, 212], "COUNTRY": ("SE", "DK"), "has_coordinate": True, "year": "2000,2003"}
    answer, served = asked(lambda gbif: gbif.count(query), OK)
    assert answer == 7
    sent = served.requests[0]
    assert sorted(sent.query) == sorted(
        [
            ("country", "DK"),
            ("country", "SE"),
            ("hasCoordinate", "true"),
            ("limit", "0"),
            ("offset", "0"),
            ("taxonKey", "212"),
            ("taxonKey", "5"),
            ("year", "2000,2003"),
        ]
    )
    assert sent.headers["User-Agent"] == "test (+me@example.org)"
    assert "Authorization" not in sent.headers


def test_facets_are_read_to_their_end() -> None:
    def page(first: int, size: int) -> Any:
        counts = [{"name": str(number), "count": 1} for number in range(first, first + size)]
        return 200, EMPTY_PAGE | {"facets": [{"field": "YEAR", "counts": counts}]}, {}

    counts, served = asked(lambda gbif: gbif.facet({}, "year"), page(0, 1000), page(1000, 12))
    assert len(counts) == 1012
    assert [dict(one.query)["facetOffset"] for one in served.requests] == ["0", "1000"]


def test_a_long_list_is_read_to_its_end() -> None:
    pages: list[Any] = [
        (200, {"endOfRecords": last, "results": [{"key": name} for name in names]}, {})
        for names, last in ((["a", "b"], False), (["c"], True))
    ]
    found, served = asked(lambda gbif: gbif.user_downloads("frog", since="2026-01-01", status="SUCCEEDED"), *pages)
    assert [one["key"] for one in found] == ["a", "b", "c"]
    assert [dict(one.query)["offset"] for one in served.requests] == ["0", "2"]
    assert dict(served.requests[0].query)["from"] == "2026-01-01"
    assert served.requests[0].headers["Authorization"] == ACCOUNT.authorization


def test_a_key_cannot_leave_its_place_in_the_address() -> None:
    _, served = asked(lambda gbif: gbif.download("abc?status=SUCCEEDED#x"), OK)
    assert served.requests[0].path == "/v1/occurrence/download/abc?status=SUCCEEDED#x"
    assert served.requests[0].query == []


@pytest.mark.parametrize(
    ("query", "checklist", "error", "hint"),
    [
        ({"taxonKey": 2435099}, COL_XR, WrongChecklist, "names"),
        ({"taxonKey": "V2"}, None, WrongChecklist, "checklist_key"),
        ({"checklistKey": COL_XR, "species_key": ["39N5S", "212"]}, None, WrongChecklist, "COL XR"),
        ({"taxonKye": 212}, None, UnknownField, "taxonKey"),
        ({"country": False}, None, BadRequest, '"NO"'),
        ({"taxonKey": 1, "taxon_key": 2}, None, BadRequest, "list"),
    ],
)
def test_what_would_match_nothing_or_everything_is_never_asked(
    query: dict[str, Any], checklist: str | None, error: type[GbifError], hint: str
) -> None:
    raised, served = asked(lambda gbif: gbif.search(query, checklist_key=checklist), OK)
    assert type(raised) is error
    assert hint in raised.next_step
    assert served.requests == []


# What networks do


def from_now(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [408, 420, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(status: int) -> None:
    answer, served = asked(lambda gbif: gbif.count({}), (status, "busy", {}), OK)
    assert answer == 7
    assert len(served.requests) == 2


def test_retry_after_may_be_a_date() -> None:
    started = time.monotonic()
    answer, _ = asked(lambda gbif: gbif.count({}), (503, "", {"Retry-After": from_now(2)}), OK)
    assert answer == 7
    assert time.monotonic() - started > 0.9
    assert asked(lambda gbif: gbif.count({}), (503, "", {"Retry-After": from_now(-3600)}), OK)[0] == 7
    assert asked(lambda gbif: gbif.count({}), (503, "", {"Retry-After": "soon"}), OK)[0] == 7


@pytest.mark.parametrize("header", ["²", "soon", "Fri, 21 Nov 2025 00:00:00 +99999999999999999999"])
def test_a_retry_after_that_says_nothing_is_none(header: str) -> None:
    assert retry_after(header) is None


def test_a_dropped_connection_is_tried_again_and_then_given_up() -> None:
    answer, served = asked(lambda gbif: gbif.count({}), DROP, DROP, OK)
    assert (answer, len(served.requests)) == (7, 3)
    error, served = asked(lambda gbif: gbif.count({}), DROP)
    assert type(error) is Unreachable
    assert "cannot be reached" in error.cause
    assert len(served.requests) >= QUICK.attempts  # aiohttp repeats one on a connection that was kept alive


def test_what_gbif_refuses_for_good_is_asked_once() -> None:
    for status, kind in (
        (400, BadRequest),
        (401, NotAuthorised),
        (403, NotAuthorised),
        (404, NotFound),
        (410, NotFound),
    ):
        error, served = asked(lambda gbif: gbif.count({}), (status, "GBIF's own words", {}))
        assert type(error) is kind
        assert "GBIF's own words" in error.cause
        assert len(served.requests) == 1


def test_a_request_for_a_download_is_not_repeated_when_the_connection_broke() -> None:
    error, served = asked(lambda gbif: gbif.request_download({"format": "DWCA"}), DROP, (201, "0000001-1", {}))
    assert type(error) is Unreachable
    assert len(served.requests) == 1


def test_a_request_for_a_download_is_repeated_when_gbif_declined() -> None:
    key, served = asked(lambda gbif: gbif.request_download({}), (503, "maintenance", {}), (201, "0000001-1\n", {}))
    assert key == "0000001-1"
    assert len(served.requests) == 2


def test_a_request_for_a_download_is_repeated_when_nobody_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def run() -> int:
        patience = Patience(attempts=30, first_wait_s=0.02)
        async with GbifClient(
            f"http://127.0.0.1:{port}", user_agent="x", credentials=ACCOUNT, patience=patience
        ) as gbif:
            waiting = asyncio.create_task(gbif.request_download({}))
            while gbif.calls < 2:  # noqa: ASYNC110 - the client has no event for a try
                await asyncio.sleep(0.01)

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\nContent-Type: text/plain\r\n\r\n0000001-1")
                await writer.drain()
                writer.close()

            async with await asyncio.start_server(answer, "127.0.0.1", port):
                assert await waiting == "0000001-1"
            return gbif.calls

    assert asyncio.run(run()) >= 3


@pytest.mark.parametrize("status", [420, 429])
def test_too_many_downloads_is_an_error_of_its_own(status: int) -> None:
    error, _ = asked(lambda gbif: gbif.request_download({}), (status, "You have 3 downloads already", {}))
    assert type(error) is TooManyDownloads
    assert "You have 3 downloads already" in error.cause


@pytest.mark.parametrize("body", ["<html>Please log in to the hotel's network</html>", "null", "[]"])
def test_an_answer_that_is_not_gbifs_is_a_typed_error(body: str) -> None:
    for call in (
        lambda gbif: gbif.count({}),
        lambda gbif: gbif.match("Rana"),
        lambda gbif: gbif.download("x"),
        lambda gbif: gbif.user_downloads("frog"),
    ):
        error, _ = asked(call, (200, body, {}))
        assert type(error) is Unreachable
        assert error.next_step


def test_an_answer_without_end_is_refused_also_when_it_is_packed() -> None:
    bomb = gzip.compress(b" " * (70 * 1024**2), 9)
    error, served = asked(lambda gbif: gbif.count({}), (200, bomb, {"Content-Encoding": "gzip"}))
    assert type(error) is Unreachable
    assert "64 MiB" in error.cause
    assert len(served.requests) == 1


# The account, and the event loop


def test_the_password_is_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    error, served = asked(lambda gbif: gbif.user_downloads("frog"), (401, "Unauthorized", {}))
    assert type(error) is NotAuthorised
    assert served.requests[0].headers["Authorization"].startswith("Basic ")
    token = served.requests[0].headers["Authorization"].removeprefix("Basic ")
    for text in (repr(ACCOUNT), str(error), repr(error), repr(error.__cause__), repr(vars(error))):
        assert PASSWORD not in text
        assert token not in text
    monkeypatch.setenv("GBIF_USER", "frog")
    monkeypatch.delenv("GBIF_PWD", raising=False)
    missing, served = asked(lambda gbif: gbif.user_downloads("frog"), OK, credentials=None)
    assert type(missing) is NotAuthorised
    assert "GBIF_PWD" in missing.cause
    assert served.requests == []


def test_it_works_inside_a_running_event_loop() -> None:
    async def notebook() -> int:
        async with scripted(OK) as served:

            async def count() -> int:
                async with client(served) as gbif:
                    return await gbif.count({})

            blocking = await asyncio.to_thread(run_blocking, count())
            assert blocking == 7
            return await count()

    assert asyncio.run(notebook()) == 7


def test_blocking_calls_work_where_a_loop_runs_already() -> None:
    async def seven() -> int:
        await asyncio.sleep(0)
        return 7

    async def cell() -> int:
        return run_blocking(seven())

    assert asyncio.run(cell()) == run_blocking(seven()) == 7


def test_the_password_is_not_sent_unencrypted() -> None:
    async def ask() -> None:
        async with GbifClient("http://api.gbif.example", user_agent="test", credentials=ACCOUNT) as gbif:
            await gbif.user_downloads("frog")

    with pytest.raises(NotAuthorised, match="not encrypted") as error:
        asyncio.run(ask())
    assert PASSWORD not in str(error.value)
