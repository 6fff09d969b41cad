"""Downloads that the platform asks GBIF for: each wish is asked once, found again, and followed to its end.

A wish is known by a hash, which stands in the lake's `download_requests` and in the request's `machineDescription` at
GBIF, so that it is found again on another machine and after a crash between the question and the answer.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.checklists import BACKBONE
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.download import EXECUTING, check_status, parse_reference
from gbif_platform.gbif.errors import BadRequest, GbifError, NotFound, TooManyDownloads, Unreachable
from gbif_platform.gbif.predicates import Predicate, check_predicate, normal_form, place_of, with_checklist
from gbif_platform.gbif.retry import Progress
from gbif_platform.settings import fingerprint
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.tables import put_rows

FORMAT = "DWCA"
"""The one format of GBIF's that holds media."""
WAITING = "WAITING"
"""Not asked yet: GBIF prepares as many downloads for the user as it allows."""
REFUSED = "REFUSED"
"""GBIF did not take the request; `reason` is its text."""
MOST_OPEN = 3
"""Unfinished downloads of one user, while GBIF has little to do (less, when it has much)."""
REMEMBERED = timedelta(days=183)
_REUSABLE = (*EXECUTING, "SUCCEEDED")
_OPEN = (WAITING, *EXECUTING)
_POST_TRIES = 3
_LONGEST_WAIT_S = 60.0
_UNREACHED_TRIES = 10
_NAME = "gbif_platform"
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "download_key": pl.String,
    "doi": pl.String,
    "status": pl.String,
    "reason": pl.String,
    "body": pl.String,
    "requested_at": pl.Datetime("us", "UTC"),
    "updated_at": pl.Datetime("us", "UTC"),
}

Body = dict[str, Any]


class OtherDownload(GbifError):
    """GBIF answered a request with a download of its own choice, which is not what was asked for."""


@dataclass(frozen=True)
class Request:
    """A row of the lake's `download_requests`.

    Attributes:
        request: hash of what is wanted.
        status: GBIF's, or WAITING, or REFUSED.
        key, doi: of the download; "" before GBIF has given them.
        reason: why it waits or was refused.
        body: what is asked for, without the account.
    """

    dataset: str
    request: str
    status: str
    body: Body = field(default_factory=dict)
    key: str = ""
    doi: str = ""
    reason: str = ""
    requested_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_open(self) -> bool:
        """Whether its status will still change."""
        return self.status in _OPEN

    @property
    def asked(self) -> str:
        """What the dataset file called the question; the download's key where it does not say."""
        return str(_mark(self.body).get("asked") or self.key)

    @property
    def is_finished(self) -> bool:
        """Whether there is a file."""
        return self.status == "SUCCEEDED"


# What is asked for


def request_body(
    dataset: str,
    predicate: Predicate,
    *,
    checklist_key: str | None = None,
    verbatim_extensions: Iterable[str] = (),
    tick: str = "",
    description: str = "",
    asked: str = "",
) -> Body:
    """The body of a download request, without the account; equal wishes have equal hashes.

    Args:
        checklist_key: taxonomy of the output's columns, and of the parts of the predicate that name none.
        verbatim_extensions: row types of extensions wanted as published.
        tick: "" for a dataset's first request; another one, such as an ISO date, asks for the same data anew.
        asked: what the dataset file called the question; the snapshot will bear it.

    Raises:
        InvalidPredicate, UnknownField, WrongChecklist
    """
    check_predicate(predicate, checklist_key)
    body: Body = {
        "sendNotification": False,
        "format": FORMAT,
        "predicate": with_checklist(predicate, checklist_key),
        "verbatimExtensions": sorted(set(verbatim_extensions)),
    }
    body |= {"checklistKey": checklist_key} if checklist_key else {}
    body |= {"description": description} if description else {}
    mark = {"request": fingerprint(json.dumps([*_content(body), tick], sort_keys=True)), "dataset": dataset}
    said = {name: value for name, value in (("tick", tick), ("asked", asked)) if value}
    return body | {"machineDescription": {_NAME: mark | said}}


def _content(request: Mapping[str, Any]) -> list[Any]:
    """What a request is for, in a form that compares; GBIF gives some things back in another spelling."""
    extensions = [re.sub("[^a-z]", "", str(name).lower().rpartition("/")[2]) for name in _list(request)]
    checklist = request.get("checklistKey") or BACKBONE
    return [normal_form(request.get("predicate")), request.get("format"), checklist, sorted(extensions)]


def _list(request: Mapping[str, Any]) -> list[Any]:
    return request.get("verbatimExtensions") or []


def _mark(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the platform wrote into a request's machineDescription, nothing where it did not make it."""
    said = request.get("machineDescription")
    mark = said.get(_NAME) if isinstance(said, dict) else None
    return mark if isinstance(mark, dict) else {}


def requested_for(request: Mapping[str, Any]) -> str | None:
    """The dataset that the platform made a request for; None of a request that somebody else made."""
    return _mark(request).get("dataset")


def _is_same(found: Mapping[str, Any], body: Body) -> bool:
    """Whether a download at GBIF is what `body` asks for; one that was made elsewhere may serve a first request."""
    request, wanted = found.get("request") or {}, _mark(body)
    mark = _mark(request)
    known = mark.get("request") == wanted["request"] if mark else not wanted.get("tick")
    return known and _content(request) == _content(body)


def _signed(body: Body, credentials: Credentials) -> Body:
    """The body as GBIF wants it; only this call ever sees the account."""
    address: Body = {"notificationAddresses": [credentials.email], "sendNotification": True}
    return body | {"creator": credentials.user} | (address if credentials.email else {})


# The life of a request


async def request_download(
    gbif: GbifClient,
    lake: Lake,
    dataset: str,
    body: Body,
    credentials: Credentials,
    *,
    look_again_s: float = 5.0,
) -> Request:
    """Ask for a download, unless it has been asked for: then the one that runs or is finished is taken.

    Args:
        body: from `request_body`.
        look_again_s: seconds before GBIF is asked whether a request whose connection broke has arrived.

    Returns:
        The request as the lake has it; its status is WAITING where the user has as many open ones as GBIF allows:
        call again later.

    Raises:
        BadRequest: GBIF refuses it; the message is GBIF's, with the place in the predicate where that is to be told.
        OtherDownload: GBIF answered with a download of another checklist or of other extensions.
        NotAuthorised, Unreachable
    """
    request = Request(dataset, str(_mark(body)["request"]), WAITING, body)
    if known := await _known_to_lake(gbif, lake, request):
        return known
    for is_last in [False] * (_POST_TRIES - 1) + [True]:
        since = (datetime.now(UTC) - REMEMBERED).date().isoformat()
        listed = await gbif.user_downloads(credentials.user, since=since, status=",".join(_REUSABLE))
        if found := next((one for one in listed if _is_same(one, body)), None):
            return _record(lake, _told(request, found))
        open_keys = [str(one.get("key")) for one in listed if one.get("status") in EXECUTING]
        if len(open_keys) >= MOST_OPEN:
            return _record(lake, replace(request, reason=f"waits for {', '.join(sorted(open_keys))}"))
        try:
            return await _ask(gbif, lake, request, credentials)
        except TooManyDownloads as error:
            return _record(lake, replace(request, reason=f"waits for GBIF: {error.cause}"))
        except Unreachable:  # whether it has arrived is to be seen among the user's downloads
            if is_last:
                raise
            await asyncio.sleep(look_again_s)
    raise AssertionError("the last try returns or raises")


async def _known_to_lake(gbif: GbifClient, lake: Lake, request: Request) -> Request | None:
    """A recorded download, also of another dataset, that GBIF still has."""
    rows = lake.frame(
        "SELECT DISTINCT download_key FROM download_requests WHERE request = ? AND list_contains(?, status) "
        "AND download_key IS NOT NULL ORDER BY download_key DESC",
        [request.request, list(_REUSABLE)],
    )
    for key in rows["download_key"]:
        try:
            found = await gbif.download(key)
        except NotFound:
            continue
        if found.get("status") in _REUSABLE:
            return _record(lake, _told(request, found))
    return None


async def _ask(gbif: GbifClient, lake: Lake, request: Request, credentials: Credentials) -> Request:
    try:
        key = await gbif.request_download(_signed(request.body, credentials))
    except BadRequest as error:
        place = place_of(request.body["predicate"], error.cause)
        cause = f"{error.cause} (at {place})" if place else error.cause
        _record(lake, replace(request, status=REFUSED, reason=cause))
        raise BadRequest(cause, error.next_step) from error
    asked = _record(lake, replace(request, status="PREPARING", key=key))
    try:
        found = await gbif.download(key)
    except NotFound:  # GBIF may need a moment until it knows its own key
        return asked
    if _is_same(found, request.body) or _content(found.get("request") or {}) == _content(request.body):
        return _record(lake, _told(asked, found))
    other = OtherDownload(
        f"GBIF answered with its download {key} of the same predicate, whose checklist or extensions are others",
        "ask again 48 hours after that one was requested: until then GBIF gives no new one",
    )
    _record(lake, replace(asked, status=REFUSED, key="", reason=other.cause))
    raise other


def _told(request: Request, metadata: Mapping[str, Any]) -> Request:
    """The request with what GBIF says of its download."""
    key, doi, status = (str(metadata.get(name) or "") for name in ("key", "doi", "status"))
    return replace(request, key=key or request.key, doi=doi or request.doi, status=status or request.status, reason="")


def _record(lake: Lake, request: Request) -> Request:
    """Write a request's row, unless the lake has it so."""
    before = _rows(lake, request.dataset, "AND request = ?", [request.request])
    if before:
        request = replace(request, requested_at=before[0].requested_at)
        if replace(request, updated_at=before[0].updated_at) == before[0]:
            return before[0]
    request = replace(request, updated_at=datetime.now(UTC))
    row = {
        "download_key": request.key or None,
        "doi": request.doi or None,
        "status": request.status,
        "reason": request.reason or None,
        "body": json.dumps(request.body, sort_keys=True),
        "requested_at": request.requested_at,
        "updated_at": request.updated_at,
    }
    keys = {"dataset": request.dataset, "request": request.request}
    frame = pl.DataFrame([row], schema=_SCHEMA)
    put_rows(lake, "download_requests", keys, frame, author=f"download request {request.dataset}")
    return request


def _rows(lake: Lake, dataset: str, condition: str = "", parameters: Iterable[Any] = ()) -> list[Request]:
    sql = f"SELECT * FROM download_requests WHERE dataset = ? {condition} ORDER BY requested_at, request"
    return [
        Request(
            dataset=row["dataset"],
            request=row["request"],
            status=row["status"],
            body=json.loads(row["body"]),
            key=row["download_key"] or "",
            doi=row["doi"] or "",
            reason=row["reason"] or "",
            requested_at=row["requested_at"].astimezone(UTC),
            updated_at=row["updated_at"].astimezone(UTC),
        )
        for row in lake.frame(sql, [dataset, *parameters]).iter_rows(named=True)
    ]


def all_requests(lake: Lake, dataset: str) -> list[Request]:
    """The requests of a dataset, oldest first."""
    return _rows(lake, dataset)


def open_requests(lake: Lake, dataset: str) -> list[Request]:
    """Those whose status will still change."""
    return [request for request in all_requests(lake, dataset) if request.is_open]


async def refresh(gbif: GbifClient, lake: Lake, request: Request) -> Request:
    """The request with the status that GBIF gives just now, recorded; one that waits to be asked stays as it is.

    Raises:
        NotFound, Unreachable
    """
    if not request.key:
        return request
    return _record(lake, _told(request, await gbif.download(request.key)))


async def wait(
    gbif: GbifClient,
    lake: Lake,
    request: Request,
    progress: Progress | None = None,
    *,
    credentials: Credentials | None = None,
    first_wait_s: float = 10.0,
) -> Request:
    """The request when its file is there; asked for in growing intervals, also while GBIF is away for minutes.

    Args:
        progress: called with the seconds so far, None, and what GBIF says.
        credentials: the account, where it waits to be asked; default = the environment's.
        first_wait_s: seconds until the first look, ten as GBIF's users do; they grow to a minute.

    Raises:
        DownloadFailed, DownloadErased: the end is another one.
        Unreachable: GBIF has not answered for about ten minutes.
    """
    start, pause, unreached = time.monotonic(), first_wait_s, 0
    while True:
        says = request.reason or request.status
        try:
            request = await step(gbif, lake, request, credentials)
            unreached, says = 0, request.reason or request.status
        except Unreachable as error:
            unreached, says = unreached + 1, error.cause
            if unreached >= _UNREACHED_TRIES:
                raise
        if not request.is_open:
            check_status(request.doi or request.key, request.status)
            return request
        if progress:
            progress(round(time.monotonic() - start), None, f"seconds; GBIF: {says}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, max(_LONGEST_WAIT_S, first_wait_s))


async def step(gbif: GbifClient, lake: Lake, request: Request, credentials: Credentials | None = None) -> Request:
    """The request as it stands now: asked where it waited to be asked, else with GBIF's status.

    Raises:
        GbifError
    """
    if request.status == WAITING:
        account = credentials or Credentials.from_environment()
        return await request_download(gbif, lake, request.dataset, request.body, account)
    return await refresh(gbif, lake, request)


async def replay(gbif: GbifClient, lake: Lake, dataset: str, reference: str, credentials: Credentials) -> Request:
    """Ask anew for what an erased download held; called again, it finds the request that it made.

    Args:
        reference: DOI, DOI URL, portal URL or key of the download.

    Raises:
        PlatformError: the download still has its file, or names no predicate.
        InvalidReference, InvalidPredicate, NotFound, BadRequest, NotAuthorised, Unreachable
    """
    ref = parse_reference(reference)
    metadata = await gbif.download(str(ref))
    if metadata.get("status") in _REUSABLE:
        raise PlatformError(
            f"download {ref} is not erased (status {metadata['status']})", f"gbif-platform snapshot add {dataset} {ref}"
        )
    said = metadata.get("request") or {}
    if not said.get("predicate"):
        raise PlatformError(f"the request of download {ref} names no predicate", "request it anew at gbif.org")
    body = request_body(
        dataset,
        said["predicate"],
        checklist_key=said.get("checklistKey"),
        verbatim_extensions=_list(said),
        tick=f"replay of {metadata.get('key')}",
        description=f"Replay of {metadata.get('doi') or metadata.get('key')}",
    )
    return await request_download(gbif, lake, dataset, body, credentials)
