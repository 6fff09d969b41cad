"""The sandbox's `/v1/dataset/{key}`: title, DOI, licence and citation of its constituent data sets."""

from aiohttp import web

from gbif_platform.sandbox.answers import JsonObject, Refusal
from gbif_platform.sandbox.records import PUBLISHERS, Publisher

_CHANGED = "2026-01-10T08:00:00.000+00:00"


def routes() -> list[web.RouteDef]:
    """What to add to the application."""
    return [web.get("/v1/dataset/{key}", _dataset)]


async def _dataset(request: web.Request) -> web.Response:
    key = request.match_info["key"].lower()
    publisher = next((each for each in PUBLISHERS if each.dataset_key == key), None)
    if publisher is None:
        raise Refusal(404, f"Entity not found for uri: /dataset/{key}")
    return web.json_response(_described(publisher))


def _described(publisher: Publisher) -> JsonObject:
    return {
        "key": publisher.dataset_key,
        "publishingOrganizationKey": publisher.organisation_key,
        "doi": publisher.doi,
        "external": False,
        "numConstituents": 0,
        "type": "OCCURRENCE",
        "title": publisher.title,
        "description": "Invented records of invented insects, for trying things out.",
        "language": "eng",
        "citation": {"text": publisher.citation, "citationProvidedBySource": False},
        "lockedForAutoUpdate": False,
        "created": _CHANGED,
        "modified": _CHANGED,
        "license": publisher.licence_url,
    }
