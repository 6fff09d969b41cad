"""The sandbox's `/v1/derivedDataset`: registering what was kept of downloads, with a DOI of its own."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from gbif_platform.sandbox.answers import JsonObject, Refusal, json_object, page, paging, signed_in
from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.records import PUBLISHERS

_OPTIONAL = ("description", "originalDownloadDOI", "registrationDate")


@dataclass(frozen=True)
class Derived:
    """One registered derived data set: its JSON, and the records kept of each data set."""

    described: JsonObject
    related: Mapping[str, int]

    def datasets(self) -> list[JsonObject]:
        """The entries of `…/datasets`."""
        known = {name: publisher for publisher in PUBLISHERS for name in (publisher.dataset_key, publisher.doi)}
        return [
            {"derivedDatasetDOI": self.described["doi"], "numberRecords": count, **_named(name, known.get(name))}
            for name, count in self.related.items()
        ]


class DerivedApi:
    """Registers derived data sets and answers for them."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._derived: dict[str, Derived] = {}

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        root = "/v1/derivedDataset"
        doi = root + r"/{doi:10\.[0-9]+/[^/]+}"
        return [
            web.post(root, self._register),
            web.get(doi, self._describe),
            web.get(doi + "/datasets", self._datasets),
            web.get(doi + "/citation", self._citation),
        ]

    async def _register(self, request: web.Request) -> web.Response:
        user = signed_in(request, self._behaviour.users)
        body = await (_parts(request) if request.content_type == "multipart/form-data" else json_object(request))
        related = _checked(body)
        doi = f"10.15468/dd.sand{len(self._derived) + 1:02d}"
        described = {
            "doi": doi,
            "citation": _citation(body["title"], doi),
            "title": body["title"],
            "sourceUrl": body["sourceUrl"],
            **{name: body[name] for name in _OPTIONAL if name in body},
            "createdBy": user,
            "modifiedBy": user,
        }
        self._derived[doi] = Derived(described, related)
        return web.json_response(described, status=201)

    async def _describe(self, request: web.Request) -> web.Response:
        return web.json_response(self._find(request).described)

    async def _datasets(self, request: web.Request) -> web.Response:
        return web.json_response(page(self._find(request).datasets(), *paging(request)))

    async def _citation(self, request: web.Request) -> web.Response:
        return web.Response(text=self._find(request).described["citation"])

    def _find(self, request: web.Request) -> Derived:
        doi = request.match_info["doi"].lower()
        if doi not in self._derived:
            raise Refusal(404, f"Entity not found for uri: /derivedDataset/{doi}")
        return self._derived[doi]


def _citation(title: str, doi: str) -> str:
    today = datetime.now(UTC)
    return f"Derived dataset GBIF.org ({today.day} {today:%B %Y}) {title} https://doi.org/{doi}"


def _named(name: str, publisher: Any) -> JsonObject:
    """What is known of a related data set; only its key or DOI if it is none of the sandbox's."""
    if publisher is None:
        return {"datasetDOI" if name.startswith("10.") else "datasetKey": name}
    return {
        "datasetKey": publisher.dataset_key,
        "datasetDOI": publisher.doi,
        "datasetTitle": publisher.title,
        "citation": publisher.citation,
    }


def _checked(body: JsonObject) -> dict[str, int]:
    """The related data sets; 400 unless title, a web address and positive counts are there."""
    for name in ("title", "sourceUrl", "relatedDatasets"):
        if not body.get(name):
            raise Refusal(400, f"{name} may not be null or empty")
    if urlsplit(str(body["sourceUrl"])).scheme not in ("http", "https"):
        raise Refusal(400, f"sourceUrl is not a valid URL: {body['sourceUrl']}")
    related = body["relatedDatasets"]
    if not isinstance(related, dict):
        raise Refusal(400, "relatedDatasets must be an object of dataset keys or DOIs and counts")
    for name, count in related.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise Refusal(400, f"The number of records of {name} must be a positive whole number, not {count}")
    return related


async def _parts(request: web.Request) -> JsonObject:
    """The multipart form: `derivedDataset` is JSON, `relatedDatasets` lines of `key,count` without a header."""
    header = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    form = BytesParser(policy=HTTP).parsebytes(header + await request.read())
    parts = {
        part.get_param("name", header="content-disposition"): _text(part)
        for part in form.iter_parts()
        if isinstance(part, EmailMessage)
    }
    try:
        body = json.loads(parts["derivedDataset"])
        rows = [row for row in csv.reader(StringIO(parts["relatedDatasets"])) if row]
        return {**body, "relatedDatasets": {key.strip(): int(count) for key, count in rows}}
    except (KeyError, ValueError, TypeError) as mistake:
        raise Refusal(400, f"Cannot read the parts derivedDataset and relatedDatasets: {mistake}") from None


def _text(part: EmailMessage) -> str:
    content = part.get_payload(decode=True)
    return content.decode(errors="replace") if isinstance(content, bytes) else ""
