"""The sandbox's `/v1/occurrence/download/…`, answering as GBIF does: metadata, data sets, citation, file."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform.sandbox.records import Publisher

_BY_NC = "http://creativecommons.org/licenses/by-nc/4.0/legalcode"
_PAGE, _MOST_ON_A_PAGE = 20, 1000


@dataclass(frozen=True)
class Download:
    """One finished download: what it is called, where its zip lies, and how many records each data set gave."""

    identity: DownloadIdentity
    archive: Path
    records_by_publisher: Counter[Publisher]

    @property
    def key(self) -> str:
        """Such as `0000001-260115090000000`."""
        return self.identity.key

    @property
    def doi(self) -> str:
        """Such as `10.15468/dl.sand01`."""
        return self.identity.doi

    def described(self, base_url: str) -> dict[str, Any]:
        """The JSON of `GET /v1/occurrence/download/{key}`."""
        created = self.identity.created
        return {
            "key": self.key,
            "doi": self.doi,
            "license": _BY_NC,  # the most restrictive one among the occurrences
            "request": {
                "predicate": {
                    "type": "in",
                    "key": "TAXON_KEY",
                    "values": sorted({str(species.family.key) for species in SPECIES}),
                    "matchCase": False,
                },
                "sendNotification": False,
                "format": "DWCA",
                "type": "OCCURRENCE",
                "verbatimExtensions": [],
            },
            "created": _timestamp(created),
            "modified": _timestamp(created + timedelta(minutes=3)),
            "eraseAfter": _timestamp(created + timedelta(days=182)),
            "status": "SUCCEEDED",
            "downloadLink": f"{base_url}/v1/occurrence/download/request/{self.key}.zip",
            "size": self.archive.stat().st_size,
            "totalRecords": self.records_by_publisher.total(),
            "numberDatasets": len(self.records_by_publisher),
        }

    def datasets(self, offset: int, limit: int) -> dict[str, Any]:
        """One page of `GET /v1/occurrence/download/{key}/datasets`."""
        results = [
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
        return {
            "offset": offset,
            "limit": limit,
            "endOfRecords": offset + limit >= len(results),
            "count": len(results),
            "results": results[offset : offset + limit],
        }


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


class DownloadApi:
    """The published downloads and the routes that answer for them, by key and by DOI."""

    def __init__(self) -> None:
        self._downloads: dict[str, Download] = {}

    def add(self, download: Download) -> None:
        """Answer for a download from now on."""
        self._downloads[download.key] = self._downloads[download.doi.lower()] = download

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

    def _find(self, request: web.Request) -> Download:
        download = self._downloads.get(request.match_info["key"].lower())
        if download is None:
            raise web.HTTPNotFound(text=f"Entity not found for uri: {request.path.removeprefix('/v1')}")
        return download

    async def _describe(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).described(str(request.url.origin())))

    async def _datasets(self, request: web.Request) -> web.Response:
        download = self._find(request)
        try:
            offset, limit = (
                int(request.query.get(name, default)) for name, default in (("offset", 0), ("limit", _PAGE))
            )
        except ValueError as mistake:
            raise web.HTTPBadRequest(text=f"offset and limit are whole numbers: {mistake}") from None
        return web.json_response(download.datasets(max(0, offset), min(max(0, limit), _MOST_ON_A_PAGE)))

    async def _citation(self, request: web.Request) -> web.Response:
        return web.Response(text=self._find(request).identity.citation + "\n")

    async def _redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/static/occurrence/download/{self._find(request).key}.zip")

    async def _file(self, request: web.Request) -> web.FileResponse:
        """The zip from a static address; aiohttp's file response honours Range, If-Range and ETag."""
        return web.FileResponse(self._find(request).archive, headers={"Content-Type": "application/zip"})
