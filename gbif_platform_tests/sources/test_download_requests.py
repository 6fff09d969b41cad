"""Requests of downloads, against the loopback GBIF: asked once, found again, followed to their end."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.checklists import BACKBONE, COL_XR
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.download import download
from gbif_platform.gbif.download_errors import DownloadErased, DownloadFailed
from gbif_platform.gbif.errors import BadRequest, NotAuthorised, Unreachable, WrongChecklist
from gbif_platform.gbif.predicates import InvalidPredicate, from_query
from gbif_platform.gbif.retry import Patience
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sources.download_requests import (
    REFUSED,
    WAITING,
    OtherDownload,
    Request,
    all_requests,
    open_requests,
    refresh,
    replay,
    request_body,
    request_download,
    wait,
)
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.tables import initialise

T = TypeVar("T")
ACCOUNT = Credentials("frog", "secret-word-4711", "frog@example.org")
POST = "/v1/occurrence/download/request"
BODY = request_body("frogs", from_query({"country": "DK"}))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(users={ACCOUNT.user: ACCOUNT.password}) as running:
        running.publish(SandboxDataset(size=24))
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def made_lake(home: Path) -> Iterator[Lake]:
    lake = Lake(f"sqlite:{home / 'catalog.sqlite'}", str(home / "data"))
    initialise(lake)
    yield lake
    lake.close()


@pytest.fixture
def lake(made_lake: Lake) -> Iterator[Lake]:
    """A lake without requests."""
    yield made_lake
    with made_lake.transaction("test", "clear") as con:
        con.execute("DELETE FROM lake.download_requests")


def asks(sandbox: Sandbox, action: Callable[[GbifClient], Awaitable[T]], account: Credentials = ACCOUNT) -> T:
    async def run() -> T:
        patience = Patience(attempts=2, first_wait_s=0.01)
        async with GbifClient(sandbox.url, user_agent="test", credentials=account, patience=patience) as gbif:
            return await action(gbif)

    return asyncio.run(run())


def ask(sandbox: Sandbox, lake: Lake, body: dict[str, Any] = BODY, account: Credentials = ACCOUNT) -> Request:
    dataset = body["machineDescription"]["gbif_platform"]["dataset"]
    return asks(sandbox, lambda gbif: request_download(gbif, lake, dataset, body, account, look_again_s=0.01), account)


def until_ready(sandbox: Sandbox, lake: Lake, request: Request, **kwargs: Any) -> Request:
    return asks(sandbox, lambda gbif: wait(gbif, lake, request, first_wait_s=0.01, credentials=ACCOUNT, **kwargs))


def posts(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in sandbox.requests if each.method == "POST" and each.path == POST]


def body_for(**query: Any) -> dict[str, Any]:
    return request_body("frogs", from_query(query))


# The wish -------------------------------------------------------------------------------------------------------------


def mark(body: dict[str, Any]) -> str:
    return str(body["machineDescription"]["gbif_platform"]["request"])


def test_equal_wishes_have_equal_hashes_and_others_have_not() -> None:
    same = [
        request_body("frogs", {"type": "equals", "key": "COUNTRY", "value": "DK", "matchCase": False}),
        request_body("toads", from_query({"COUNTRY": ["DK"]})),
        request_body("frogs", from_query({"country": "DK"}), description="for people"),
        request_body("frogs", from_query({"country": "DK"}), checklist_key=BACKBONE),
    ]
    assert {mark(body) for body in same} == {mark(BODY)}
    other = [
        request_body("frogs", from_query({"country": "SE"})),
        request_body("frogs", from_query({"country": "DK"}), tick="2026-11-01"),
        request_body("frogs", from_query({"country": "DK"}), checklist_key=COL_XR),
        request_body(
            "frogs", from_query({"country": "DK"}), verbatim_extensions=["http://rs.gbif.org/terms/1.0/Image"]
        ),
    ]
    assert len({mark(body) for body in [BODY, *other]}) == 5


def test_a_wish_that_gbif_cannot_fulfil_is_refused_before_it_is_asked() -> None:
    with pytest.raises(InvalidPredicate, match=r"predicate\.type"):
        request_body("frogs", {"type": "sql"})
    with pytest.raises(WrongChecklist):
        request_body("frogs", from_query({"taxonKey": 952}), checklist_key=COL_XR)


def test_the_checklist_reaches_gbif_in_the_request_and_in_the_predicate(sandbox: Sandbox, lake: Lake) -> None:
    ask(sandbox, lake, request_body("frogs", {"type": "isNotNull", "parameter": "TAXON_KEY"}, checklist_key=COL_XR))
    (sent,) = posts(sandbox)
    assert (sent["checklistKey"], sent["predicate"]["checklistKey"]) == (COL_XR, COL_XR)


# The life of a request ------------------------------------------------------------------------------------------------


def test_a_request_goes_its_way_to_a_file(sandbox: Sandbox, lake: Lake, tmp_path: Path) -> None:
    request = ask(sandbox, lake)
    assert request.is_open
    assert open_requests(lake, "frogs") == [request]
    seen: list[str] = []
    ready = until_ready(sandbox, lake, request, progress=lambda _done, _total, note: seen.append(note))
    assert (ready.status, ready.is_finished, ready.doi[:12]) == ("SUCCEEDED", True, "10.15468/dl.")
    assert all_requests(lake, "frogs") == [ready]
    assert not open_requests(lake, "frogs")
    assert seen[-1] == "seconds; GBIF: RUNNING"
    assert download(ready.doi, sandbox.url, tmp_path / "got", user_agent="test").datasets
    (sent,) = posts(sandbox)
    assert (sent["creator"], sent["notificationAddresses"], sent["format"]) == ("frog", ["frog@example.org"], "DWCA")


def test_no_mail_is_asked_for_without_an_address(sandbox: Sandbox, lake: Lake) -> None:
    ask(sandbox, lake, account=replace(ACCOUNT, email=""))
    (sent,) = posts(sandbox)
    assert sent["sendNotification"] is False
    assert "notificationAddresses" not in sent


def test_the_same_wish_is_asked_once_whether_it_runs_or_is_finished(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.reuse = False  # GBIF's own reuse must not be what makes this true
    first = ask(sandbox, lake)
    assert ask(sandbox, lake).key == first.key
    ready = until_ready(sandbox, lake, first)
    version = lake.version()
    assert ask(sandbox, lake) == ready
    assert lake.version() == version  # nothing new, nothing written
    toads = request_body("toads", from_query({"country": "DK"}))
    assert ask(sandbox, lake, toads).key == ready.key
    assert [request.dataset for request in all_requests(lake, "toads")] == ["toads"]
    assert len(posts(sandbox)) == 1


def test_a_lake_that_knows_nothing_finds_the_request_at_gbif(sandbox: Sandbox, lake: Lake, tmp_path: Path) -> None:
    sandbox.reuse = False
    first = ask(sandbox, lake)
    other = Lake(f"sqlite:{tmp_path / 'other.sqlite'}", str(tmp_path / "other"))
    initialise(other)
    assert ask(sandbox, other).key == first.key
    assert len(posts(sandbox)) == 1
    other.close()


def test_a_download_made_at_gbif_org_serves_a_first_request_and_no_refresh(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.reuse = False
    plain = {name: value for name, value in BODY.items() if name != "machineDescription"}
    key = asks(sandbox, lambda gbif: gbif.request_download(plain))
    assert ask(sandbox, lake).key == key
    tick = request_body("frogs", from_query({"country": "DK"}), tick="2026-11-01")
    assert ask(sandbox, lake, tick).key != key


@pytest.mark.parametrize("status", ["FILE_ERASED", "KILLED", "FAILED", "CANCELLED"])
def test_a_dead_download_is_asked_for_anew(sandbox: Sandbox, lake: Lake, status: str) -> None:
    first = ask(sandbox, lake)
    sandbox.set_status(first.key, status)
    second = ask(sandbox, lake)
    assert second.key != first.key
    assert second.is_open
    assert ask(sandbox, lake).key == second.key


def test_a_refresh_is_a_new_download_of_the_same_wish(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.reuse = False
    first = ask(sandbox, lake)
    ticked = request_body("frogs", from_query({"country": "DK"}), tick="2026-11-01")
    second = ask(sandbox, lake, ticked)
    assert second.key != first.key
    assert ask(sandbox, lake, ticked).key == second.key
    assert len(posts(sandbox)) == 2


def test_gbifs_own_reuse_is_trusted_where_it_is_the_same_and_not_where_it_is_not(sandbox: Sandbox, lake: Lake) -> None:
    first = ask(sandbox, lake)
    ticked = request_body("frogs", from_query({"country": "DK"}), tick="2026-11-01")
    assert ask(sandbox, lake, ticked).key == first.key
    other = request_body(
        "frogs", from_query({"country": "DK"}), verbatim_extensions=["http://rs.gbif.org/terms/1.0/Image"]
    )
    with pytest.raises(OtherDownload, match=first.key):
        ask(sandbox, lake, other)
    assert [request.key for request in all_requests(lake, "frogs")] == [first.key, first.key, ""]
    assert all_requests(lake, "frogs")[-1].status == REFUSED


# Limits and troubles --------------------------------------------------------------------------------------------------


def test_a_fourth_request_waits_for_one_of_the_three(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.prepare_polls = 10_000
    three = [ask(sandbox, lake, body_for(country=country)) for country in ("DK", "SE", "NO")]
    fourth = ask(sandbox, lake, body_for(country="FI"))
    assert (fourth.status, fourth.key, fourth.is_open) == (WAITING, "", True)
    assert fourth.reason == f"waits for {', '.join(sorted(request.key for request in three))}"
    assert len(posts(sandbox)) == 3
    assert fourth in open_requests(lake, "frogs")
    assert asks(sandbox, lambda gbif: refresh(gbif, lake, fourth)) == fourth
    sandbox.set_status(three[0].key, "SUCCEEDED")
    sandbox.prepare_polls = 1
    assert until_ready(sandbox, lake, fourth).is_finished


@pytest.mark.parametrize("status", [420, 429])
def test_gbifs_own_limit_is_a_wait_too(sandbox: Sandbox, lake: Lake, status: int) -> None:
    sandbox.fail_next(POST, status=status, times=2, text="too many simultaneous downloads")
    request = ask(sandbox, lake)
    assert request.status == WAITING
    assert "too many simultaneous" in request.reason
    assert ask(sandbox, lake).status == "PREPARING"


def test_a_request_whose_answer_was_lost_is_looked_for_before_it_is_repeated(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.reuse = False
    sandbox.truncate_next(POST)  # GBIF has accepted, but the key did not arrive
    assert ask(sandbox, lake).key
    assert len(posts(sandbox)) == 1


def test_a_request_that_never_arrived_is_repeated(sandbox: Sandbox, lake: Lake) -> None:
    sandbox.drop_next(POST)
    assert ask(sandbox, lake).key
    assert len(posts(sandbox)) == 2
    assert len(all_requests(lake, "frogs")) == 1


def test_a_predicate_that_gbif_refuses_shows_gbifs_words_and_the_place(sandbox: Sandbox, lake: Lake) -> None:
    body = body_for(country="DK", continent="ATLANTIS")
    sandbox.fail_next(POST, status=400, text="Cannot parse ATLANTIS into a known Continent")
    with pytest.raises(BadRequest) as caught:
        ask(sandbox, lake, body)
    assert "Cannot parse ATLANTIS into a known Continent (at predicate.predicates[0].value)" in caught.value.cause
    (row,) = all_requests(lake, "frogs")
    assert (row.status, row.reason) == (REFUSED, caught.value.cause)
    assert not open_requests(lake, "frogs")


def test_a_wrong_password_is_said_and_nothing_is_recorded(sandbox: Sandbox, lake: Lake) -> None:
    with pytest.raises(NotAuthorised, match="401"):
        ask(sandbox, lake, account=replace(ACCOUNT, password="wrong"))
    assert not all_requests(lake, "frogs")


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "CANCELLED"])
def test_waiting_ends_with_gbifs_status(sandbox: Sandbox, lake: Lake, status: str) -> None:
    request = ask(sandbox, lake)
    sandbox.set_status(request.key, status)
    with pytest.raises(DownloadFailed, match=status):
        until_ready(sandbox, lake, request)
    assert [row.status for row in all_requests(lake, "frogs")] == [status]


def test_waiting_outlasts_a_network_that_is_lost_for_a_while(sandbox: Sandbox, lake: Lake) -> None:
    request = ask(sandbox, lake)
    sandbox.fail_next(f"/v1/occurrence/download/{request.key}", status=503, times=7)
    seen: list[str] = []
    assert until_ready(sandbox, lake, request, progress=lambda _d, _t, note: seen.append(note)).is_finished
    assert sum("cannot be reached" in note for note in seen) == 3


def test_waiting_gives_up_when_gbif_stays_away(sandbox: Sandbox, lake: Lake) -> None:
    request = ask(sandbox, lake)
    sandbox.network_lost = True
    with pytest.raises(Unreachable):
        until_ready(sandbox, lake, request)
    assert open_requests(lake, "frogs") == [request]


# Replay ---------------------------------------------------------------------------------------------------------------


def test_an_erased_download_is_requested_anew_once(sandbox: Sandbox, lake: Lake) -> None:
    extensions = ["http://rs.gbif.org/terms/1.0/Image"]
    erased = until_ready(
        sandbox,
        lake,
        ask(sandbox, lake, request_body("frogs", from_query({"country": "DK"}), verbatim_extensions=extensions)),
    )
    sandbox.set_status(erased.key, "FILE_ERASED")
    sandbox.reuse = False
    first = asks(sandbox, lambda gbif: replay(gbif, lake, "frogs", f"https://doi.org/{erased.doi}", ACCOUNT))
    again = asks(sandbox, lambda gbif: replay(gbif, lake, "frogs", erased.key, ACCOUNT))
    assert again.key == first.key != erased.key
    before, after = posts(sandbox)
    for name in ("predicate", "format", "verbatimExtensions"):
        assert json.dumps(after[name]).replace(', "matchCase": false', "") == json.dumps(before[name])
    assert until_ready(sandbox, lake, first).doi != erased.doi
    with pytest.raises(DownloadErased):
        asks(sandbox, lambda gbif: wait(gbif, lake, erased))


def test_a_download_that_is_there_needs_no_replay(sandbox: Sandbox, lake: Lake) -> None:
    ready = until_ready(sandbox, lake, ask(sandbox, lake))
    with pytest.raises(PlatformError, match="not erased") as caught:
        asks(sandbox, lambda gbif: replay(gbif, lake, "frogs", ready.doi, ACCOUNT))
    assert f"gbif-platform snapshot add frogs {ready.doi}" in caught.value.next_step


# Secrets --------------------------------------------------------------------------------------------------------------


def test_the_account_is_nowhere_but_in_the_request(sandbox: Sandbox, lake: Lake, home: Path) -> None:
    said: list[str] = []
    ready = until_ready(sandbox, lake, ask(sandbox, lake), progress=lambda *step: said.append(str(step)))
    got = download(ready.key, sandbox.url, home / "got", user_agent="test")
    sandbox.fail_next(POST, status=400, text="no")
    for account in (ACCOUNT, replace(ACCOUNT, password="x" + ACCOUNT.password)):
        with pytest.raises((BadRequest, NotAuthorised)) as caught:
            ask(sandbox, lake, body_for(country="SE"), account)
        said += [str(caught.value), repr(caught.value)]
    said += [repr(ACCOUNT), repr(ready), repr(got), str(all_requests(lake, "frogs"))]
    said += [str(lake.frame("SELECT * FROM download_requests").to_dicts())]
    lake.close()
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert len(files) > 5
    token = ACCOUNT.authorization.removeprefix("Basic ")
    for secret in (ACCOUNT.password, token, "Authorization", "Basic "):
        assert not [text for text in said if secret in text]
        assert not [text for text in files if secret.encode() in text]
    assert not [text for text in [*said[:-5], *map(repr, files)] if ACCOUNT.email in text]
    assert [each for each in sandbox.requests if each.headers.get("Authorization") == ACCOUNT.authorization]
