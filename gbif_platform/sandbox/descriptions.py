"""The sandbox's `/v1/occurrence/download/describe/…`: which fields a download of a format has."""

from aiohttp import web

from gbif_platform.sandbox.answers import JsonObject, Refusal
from gbif_platform.sandbox.archive import MULTIMEDIA_COLUMNS, OCCURRENCE_COLUMNS, SIMPLE_COLUMNS, VERBATIM_COLUMNS

_DWC = "http://rs.tdwg.org/dwc/terms/"
_DATES = {"dateIdentified": "yyyy-MM-ddTHH:mm:ss", "lastInterpreted": "yyyy-MM-ddTHH:mm:ss.SSSZ"}
_TYPES = {
    **dict.fromkeys(("individualCount", "day", "month", "year", "taxonKey", "speciesKey"), "INT"),
    **dict.fromkeys(("decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters"), "DOUBLE"),
    **dict.fromkeys(("coordinatePrecision", "elevation", "elevationAccuracy", "depth", "depthAccuracy"), "DOUBLE"),
    **dict.fromkeys(("identifiedBy", "recordedBy", "typeStatus", "mediaType", "issue"), "ARRAY<STRING>"),
    **dict.fromkeys(_DATES, "DATE"),
    "establishmentMeans": "STRUCT<concept: STRING,lineage: ARRAY<STRING>>",
}
_REQUIRED = ("gbifID", "datasetKey")
# Terms of the simple formats that the archives do not have, or that are named after what they were taken from.
_OTHER_TERMS = {
    "verbatimScientificName": _DWC + "scientificName",
    "verbatimScientificNameAuthorship": _DWC + "scientificNameAuthorship",
    "publishingOrgKey": "http://rs.gbif.org/terms/internal/publishingOrgKey",
    **{
        name: f"http://rs.gbif.org/terms/1.0/{name}"
        for name in ("elevation", "elevationAccuracy", "depth", "depthAccuracy")
    },
}


def routes() -> list[web.RouteDef]:
    """What to add to the application."""
    return [web.get("/v1/occurrence/download/describe/{format}", _describe)]


async def _describe(request: web.Request) -> web.Response:
    described = {"simpleCsv": _simple_csv, "dwca": _dwca}.get(request.match_info["format"])
    if described is None:
        raise Refusal(404, f"Entity not found for uri: {request.path.removeprefix('/v1')}")
    return web.json_response(described())


def _simple_csv() -> JsonObject:
    terms = {term.rsplit("/", 1)[1]: term for term in OCCURRENCE_COLUMNS} | _OTHER_TERMS
    return {"fields": [_field(name, terms.get(name, _DWC + name)) for name in SIMPLE_COLUMNS]}


def _dwca() -> JsonObject:
    tables = {"interpreted": OCCURRENCE_COLUMNS, "multimedia": MULTIMEDIA_COLUMNS, "verbatim": VERBATIM_COLUMNS}
    return {
        name: {"fields": [_field(term.rsplit("/", 1)[1], term) for term in columns]} for name, columns in tables.items()
    }


def _field(name: str, term: str) -> JsonObject:
    kind = _TYPES.get(name, "STRING")
    delimiter = {"delimiter": ";"} if kind.startswith("ARRAY") else {}
    written = {"typeFormat": _DATES[name]} if name in _DATES else {}
    return {"name": name, "type": kind, **delimiter, **written, "term": term, "nullable": name not in _REQUIRED}
