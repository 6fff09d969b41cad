"""The sandbox's `GET /v1/occurrence/download/…`, answering as GBIF does: metadata, data sets, citation, file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from gbif_platform.sandbox.answers import JsonObject, Refusal, page, paging, timestamp
from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform.sandbox.records import Publisher

UNFINISHED = ("PREPARING", "RUNNING", "SUSPENDED")
STATUSES = (*UNFINISHED, "SUCCEEDED", "CANCELLED", "KILLED", "FAILED", "FILE_ERASED")
_WITH_DOI = ("SUCCEEDED", "FILE_ERASED")
_PRIVATE = ("creator", "notificationAddresses")  # shown in the owner's list only
_BY_NC = "http://creativecommons.org/licenses/by-nc/4.0/legalcode"


def _everything() -> JsonObject:
    """The request that a published data set would have answered."""
    families = sorted({str(species.family.key) for species in SPECIES})
    return {
        "predicate": {"type": "in", "key": "TAXON_KEY", "values": families, "matchCase": False},
        "sendNotification": False,
        "format": "DWCA",
        "type": "OCCURRENCE",
        "verbatimExtensions": [],
    }


@dataclass(eq=False)
class Download:
    """One download: its name, where its zip lies, how many records each data set gave, and how far it is.

    `held` is its status for as long as it is set; without it, the status advances by itself (see `Behaviour`).
    """

    identity: DownloadIdentity
    archive: Path
    records_by_publisher: Counter[Publisher]
    request: JsonObject = field(default_factory=_everything)
    licence: str = _BY_NC  # the most restrictive one among the occurrences
    owner: str = ""
    held: str = "SUCCEEDED"
    modified: datetime | None = None
    polls: int = 0

    @property
    def key(self) -> str:
        """Such as `0000001-260115090000000`."""
        return self.identity.key

    @property
    def doi(self) -> str:
        """Such as `10.15468/dl.sand01`."""
        return self.identity.doi

    def hold(self, status: str) -> None:
        """Have this status from now on."""
        self.held, self.modified = status, datetime.now(UTC)

    def status(self, behaviour: Behaviour) -> str:
        """The present status; a download that has SUCCEEDED stays so."""
        if not self.held:
            age = (datetime.now(UTC) - self.identity.created).total_seconds()
            if self.polls < behaviour.prepare_polls or age < behaviour.prepare_seconds:
                return "PREPARING"
            polls, seconds = behaviour.prepare_polls + behaviour.run_polls, behaviour.prepare_seconds
            if self.polls < polls or age < seconds + behaviour.run_seconds:
                return "RUNNING"
            self.hold("SUCCEEDED")
        return self.held

    def described(self, base_url: str, status: str, *, to_owner: bool = False) -> JsonObject:
        """The JSON of `GET /v1/occurrence/download/{key}`; no DOI, size and data sets before it is finished."""
        created, finished = self.identity.created, status in _WITH_DOI
        request = {name: value for name, value in self.request.items() if to_owner or name not in _PRIVATE}
        return {
            "key": self.key,
            **({"doi": self.doi} if finished else {}),
            "license": self.licence if finished else "unspecified",
            "request": request,
            "created": timestamp(created),
            "modified": timestamp(self.modified or created + timedelta(minutes=3)),
            "eraseAfter": timestamp(created + timedelta(days=182)),
            "status": status,
            "downloadLink": f"{base_url}/v1/occurrence/download/request/{self.key}.zip",
            "size": self.archive.stat().st_size if finished else 0,
            "totalRecords": self.records_by_publisher.total(),
            "numberDatasets": len(self.records_by_publisher) if finished else 0,
        }

    def datasets(self) -> list[JsonObject]:
        """The entries of `GET /v1/occurrence/download/{key}/datasets`."""
        return [
            {
                "downloadKey": self.key,
                "datasetKey": publisher.dataset_key,
                "datasetTitle": publisher.title,
                "datasetDOI": publisher.doi,
                "datasetCitation": publisher.citation,
                "numberRecords": count,
                "publishingCountryCode": publisher.country,
            }
            for publisher, count in self.records_by_publisher.items()
        ]


class ArchiveFile(web.FileResponse):
    """A zip, with ranges: aiohttp's file response honours Range, If-Range and ETag; `file` is what it sends."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, headers={"Content-Type": "application/zip"})
        self.file = file


class DownloadApi:
    """All downloads and the routes that answer for them, by key and by DOI."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._downloads: dict[str, Download] = {}

    def add(self, download: Download) -> None:
        """Answer for a download from now on."""
        self._downloads[download.key] = self._downloads[download.doi.lower()] = download

    def get(self, name: str) -> Download:
        """The download of a key or DOI; 404 for another."""
        download = self._downloads.get(name.lower())
        if download is None:
            raise Refusal(404, f"Entity not found for uri: /occurrence/download/{name}")
        return download

    def of_user(self, user: str) -> list[Download]:
        """A user's downloads, the latest first."""
        return sorted(self._of(user), key=lambda download: download.identity.created, reverse=True)

    def seen(self, download: Download) -> str:
        """The status for someone who asks; asking makes an unfinished download advance."""
        status = download.status(self._behaviour)
        download.polls += 1
        return status

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        root = "/v1/occurrence/download"
        names = ("/{key:[0-9]+-[0-9]+}", r"/{key:10\.[0-9]+/[^/]+}")
        answers = (("", self._describe), ("/datasets", self._datasets), ("/citation", self._citation))
        return [
            web.get(root + "/request/{key}.zip", self._redirect),
            web.get("/static/occurrence/download/{key}.zip", self._file),
            *(web.get(root + name + tail, answer) for name in names for tail, answer in answers),
        ]

    def _of(self, user: str) -> Iterator[Download]:
        return (each for name, each in list(self._downloads.items()) if name == each.key and each.owner == user)

    def _find(self, request: web.Request) -> Download:
        return self.get(request.match_info["key"])

    async def _describe(self, request: web.Request) -> web.Response:
        download = self._find(request)
        return web.json_response(download.described(str(request.url.origin()), self.seen(download)))

    async def _datasets(self, request: web.Request) -> web.Response:
        return web.json_response(page(self._find(request).datasets(), *paging(request)))

    async def _citation(self, request: web.Request) -> web.Response:
        return web.Response(text=self._find(request).identity.citation + "\n", content_type="application/json")

    async def _redirect(self, request: web.Request) -> web.Response:
        download = self._find(request)
        status = download.status(self._behaviour)
        if status == "FILE_ERASED":
            raise Refusal(410, f"The file of download {download.key} has been erased")
        if status != "SUCCEEDED":
            raise Refusal(404, f"Download {download.key} is not ready: its status is {status}")
        raise web.HTTPFound(f"/static/occurrence/download/{download.key}.zip")

    async def _file(self, request: web.Request) -> ArchiveFile:
        download = self._find(request)
        if download.status(self._behaviour) != "SUCCEEDED":
            raise Refusal(404, "Not Found")
        return ArchiveFile(download.archive)
