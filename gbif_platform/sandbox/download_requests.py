"""The sandbox's `/v1/occurrence/download/request` and `…/user`: asking for, cancelling and listing downloads."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from gbif_platform.sandbox import predicates
from gbif_platform.sandbox.answers import JsonObject, Refusal, json_object, page, paging, signed_in
from gbif_platform.sandbox.archive import Selection, write_archive, write_simple_csv
from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.downloads import STATUSES, UNFINISHED, Download, DownloadApi
from gbif_platform.sandbox.predicates import Test
from gbif_platform.sandbox.records import Publisher
from gbif_platform.sandbox.world import World

FORMATS = ("DWCA", "SIMPLE_CSV")
_OTHER_FORMATS = (
    "SIMPLE_PARQUET", "SIMPLE_AVRO", "SIMPLE_WITH_VERBATIM_AVRO", "SPECIES_LIST", "SQL_TSV_ZIP", "MAP_OF_LIFE",
    "BIONOMIA", "FASTA_ARCHIVE",
)  # fmt: skip
_MOST_UNFINISHED = 3  # of one user, while GBIF has little to do
_REUSED_FOR = timedelta(hours=48)
_REUSABLE = (*UNFINISHED, "SUCCEEDED")
_LICENCES = ("CC0_1_0", "CC_BY_4_0", "CC_BY_NC_4_0")  # from the least to the most restrictive
_OPTIONAL = ("checklistKey", "description", "machineDescription")


@dataclass(frozen=True)
class Wish:
    """A checked request: its JSON as GBIF keeps it, and which records it is for."""

    request: JsonObject
    test: Test


class RequestApi:
    """Downloads that users ask for: exactly the world's records that satisfy the predicate at that moment.

    Args:
        downloads: where the new ones are added.
        world: the records.
        behaviour: users and speed.
        folder: where the archives are written; it exists.
        base_url: where the media are served.
    """

    def __init__(self, downloads: DownloadApi, world: World, behaviour: Behaviour, folder: Path, base_url: str) -> None:
        self._downloads, self._world, self._behaviour = downloads, world, behaviour
        self._folder, self._base_url = folder, base_url
        self._requested = 0

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        root = "/v1/occurrence/download"
        return [
            web.post(root + "/request", self._request),
            web.post(root + "/request/validate", self._validate),
            web.delete(root + "/request/{key}", self._cancel),
            web.get(root + "/user/{user}", self._list),
        ]

    async def _request(self, request: web.Request) -> web.Response:
        user = signed_in(request, self._behaviour.users)
        wish = accepted(await json_object(request), user)
        existing = self._reusable(wish, user) if self._behaviour.reuse else None
        key = existing.key if existing else self._start(wish, user).key
        # Recorded: the key is plain text although the header says JSON.
        return web.Response(status=201, text=key, content_type="application/json")

    async def _validate(self, request: web.Request) -> web.Response:
        user = signed_in(request, self._behaviour.users)
        return web.json_response(accepted(await json_object(request), user).request)

    async def _cancel(self, request: web.Request) -> web.Response:
        user = signed_in(request, self._behaviour.users)
        download = self._downloads.get(request.match_info["key"])
        if download.owner != user:
            raise Refusal(403, f"Download {download.key} belongs to another user")
        if download.status(self._behaviour) in UNFINISHED:
            download.hold("CANCELLED")
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        user = signed_in(request, self._behaviour.users)
        if request.match_info["user"] != user:
            raise Refusal(403, f"User {user} may not see the downloads of {request.match_info['user']}")
        statuses, since = _statuses(request), _since(request)
        seen = [(download, self._downloads.seen(download)) for download in self._downloads.of_user(user)]
        base_url = str(request.url.origin())
        listed = [
            download.described(base_url, status, to_owner=True)
            for download, status in seen
            if status in statuses and download.identity.created >= since
        ]
        return web.json_response(page(listed, *paging(request)))

    def _reusable(self, wish: Wish, user: str) -> Download | None:
        """The user's download of the same predicate and format within 48 hours; checklists are not compared."""
        oldest = datetime.now(UTC) - _REUSED_FOR
        return next(
            (
                download
                for download in self._downloads.of_user(user)
                if download.identity.created >= oldest
                and download.status(self._behaviour) in _REUSABLE
                and _compared(download.request) == _compared(wish.request)
            ),
            None,
        )

    def _start(self, wish: Wish, user: str) -> Download:
        unfinished = [d for d in self._downloads.of_user(user) if d.status(self._behaviour) in UNFINISHED]
        if len(unfinished) >= _MOST_UNFINISHED:
            raise Refusal(420, f"User {user} has too many simultaneous downloads: at most {_MOST_UNFINISHED}")
        self._requested += 1
        now = datetime.now(UTC)
        name = f"{self._requested:07d}-260115090000500", f"10.15468/dl.req{self._requested:03d}"
        identity = DownloadIdentity(*name, now.replace(microsecond=now.microsecond // 1000 * 1000))
        selection = Selection(tuple(sorted(self._world.matching(wish.test), key=lambda each: each.gbif_id)))
        archive = self._folder / f"{identity.key}.zip"
        if wish.request["format"] == "DWCA":
            write_archive(selection, archive, self._base_url, identity)
        else:
            write_simple_csv(selection, archive)
        publishers = selection.records_by_publisher()
        download = Download(
            identity, archive, publishers, wish.request, _strictest(list(publishers)), user, held="", modified=now
        )
        self._downloads.add(download)
        return download


def accepted(body: JsonObject, user: str) -> Wish:
    """Check a request's JSON: 400 for what GBIF cannot read or the sandbox cannot make, 403 for another creator."""
    if body.get("creator", user) != user:
        raise Refusal(403, f"User {user} may not request a download for {body['creator']}")
    wanted = body.get("format", "DWCA")
    if wanted in _OTHER_FORMATS or "sql" in body:
        raise Refusal(400, f"The sandbox makes {' and '.join(FORMATS)} downloads of predicates only, not {wanted}")
    if wanted not in FORMATS:
        known = ", ".join((*FORMATS, *_OTHER_FORMATS))
        raise Refusal(400, f"JSON parse error: Cannot deserialize DownloadFormat from '{wanted}': known are {known}")
    predicate = predicates.parse(body.get("predicate"))
    addresses = body.get("notificationAddresses") or body.get("notification_address") or []
    request: dict[str, Any] = {
        "predicate": predicate.normal,
        "creator": user,
        "notificationAddresses": addresses,
        "sendNotification": bool(body.get("sendNotification", False)),
        "format": wanted,
        "type": "OCCURRENCE",
        "verbatimExtensions": body.get("verbatimExtensions") or [],
        **{name: body[name] for name in _OPTIONAL if name in body},
    }
    return Wish(request, predicate.test)


def _compared(request: JsonObject) -> tuple[Any, Any]:
    return request["format"], _without_checklist(request["predicate"])


def _without_checklist(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without_checklist(value) for name, value in part.items() if name != "checklistKey"}
    return [_without_checklist(each) for each in part] if isinstance(part, list) else part


def _strictest(publishers: list[Publisher]) -> str:
    ranked = sorted(publishers, key=lambda publisher: _LICENCES.index(publisher.licence))
    return ranked[-1].licence_url if ranked else "unspecified"


def _statuses(request: web.Request) -> tuple[str, ...]:
    asked = tuple(each for value in request.query.getall("status", []) for each in value.split(","))
    for status in asked:
        if status not in STATUSES:
            raise Refusal(400, f"Cannot parse {status} into a known Status")
    return asked or STATUSES


def _since(request: web.Request) -> datetime:
    text = request.query.get("from") or "1970-01-01"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(400, f"Cannot parse date: {text}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
