"""The sandbox's `/v1/occurrence/search`: parameters, facets, pages and limits as GBIF has them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from gbif_platform.sandbox import parameters, predicates
from gbif_platform.sandbox.answers import JsonObject, Refusal, json_object
from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.geometry import near, within
from gbif_platform.sandbox.parameters import Parameter
from gbif_platform.sandbox.predicates import Test
from gbif_platform.sandbox.record_json import search_record
from gbif_platform.sandbox.records import Occurrence
from gbif_platform.sandbox.taxonomy import BACKBONE
from gbif_platform.sandbox.world import World

_MOST_ON_A_PAGE, _PAGE, _FACET_VALUES = 300, 20, 10


@dataclass(frozen=True)
class Facet:
    """Which values of a parameter are counted, and which part of the list is given."""

    parameter: Parameter
    limit: int = _FACET_VALUES
    offset: int = 0
    minimum: int = 1

    def counted(self, occurrences: Sequence[Occurrence], checklist: str) -> JsonObject:
        """One entry of `facets`: the commonest values first."""
        counts = Counter(value for each in occurrences for value in self.parameter.of(each, checklist))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        enough = [{"name": name, "count": count} for name, count in ranked if count >= self.minimum]
        return {"field": self.parameter.key, "counts": enough[self.offset : self.offset + self.limit]}


class SearchApi:
    """Searches over the world."""

    def __init__(self, world: World, behaviour: Behaviour) -> None:
        self._world, self._behaviour = world, behaviour

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/v1/occurrence/search", self._search),
            web.post("/v1/occurrence/search/predicate", self._search_predicate),
            web.get("/v1/occurrence/count", self._count),
            web.get("/v1/occurrence/{key:[0-9]+}", self._record),
        ]

    async def _search(self, request: web.Request) -> web.Response:
        query = request.query
        checklist = query.get("checklistKey") or BACKBONE
        tests = tests_of(query)
        facets = _facets(query)
        everywhere = query.get("facetMultiselect") == "true"
        counted = [
            facet.counted(self._matching({k: t for k, t in tests.items() if k != facet.parameter.name}), checklist)
            if everywhere
            else facet.counted(self._matching(tests), checklist)
            for facet in facets
        ]
        return self._answer(request, self._matching(tests), counted, *_page(query))

    async def _search_predicate(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        predicate = predicates.parse(body.get("predicate"))
        found = self._world.matching(predicate.test)
        asked = {name: str(value) for name, value in body.items() if name.startswith("facet")}
        facets = [
            facet.counted(found, body.get("checklistKey") or BACKBONE)
            for name in body.get("facets") or []
            if (facet := _facet(str(name), asked))
        ]
        return self._answer(request, found, facets, *_page(body))

    async def _count(self, request: web.Request) -> web.Response:
        return web.json_response(len(self._matching(tests_of(request.query))))

    async def _record(self, request: web.Request) -> web.Response:
        occurrence = self._world.get(int(request.match_info["key"]))
        if occurrence is None:
            raise Refusal(404, "")
        return web.json_response(search_record(occurrence, str(request.url.origin())))

    def _matching(self, tests: Mapping[str, Test]) -> list[Occurrence]:
        return self._world.matching(lambda occurrence: all(test(occurrence) for test in tests.values()))

    def _answer(
        self, request: web.Request, found: list[Occurrence], facets: list[JsonObject], offset: int, limit: int
    ) -> web.Response:
        most = self._behaviour.search_limit
        if offset + limit > most:
            raise Refusal(400, f"Max offset of {most} exceeded: {offset} + {limit}")
        base_url = str(request.url.origin())
        results = [search_record(occurrence, base_url) for occurrence in found[offset : offset + limit]]
        return web.json_response(
            {
                "offset": offset,
                "limit": limit,
                "endOfRecords": offset + limit >= len(found),
                "count": len(found),
                "results": results,
                "facets": facets,
            }
        )


def tests_of(query: MultiMapping[str]) -> dict[str, Test]:
    """One test for every known parameter of an address: its values are alternatives. Unknown ones are ignored."""
    checklist = query.get("checklistKey") or BACKBONE
    tests: dict[str, Test] = {}
    for name in dict.fromkeys(query):
        if special := _SPECIAL.get(name):
            tests[name] = _any([special(value) for value in query.getall(name)])
        elif parameter := parameters.find(name):
            tests[parameter.name] = _any([_alternative(parameter, value, checklist) for value in query.getall(name)])
    return tests


def _alternative(parameter: Parameter, value: str, checklist: str) -> Test:
    if value == "*":
        return lambda occurrence: bool(parameter.of(occurrence))
    low, comma, high = value.partition(",")
    if comma and parameter.ordered:
        return predicates.between(parameter, low, high)
    return predicates.equals(parameter, value, checklist)


def _near(value: str) -> Test:
    parts = value.split(",")
    if len(parts) != 3:
        raise Refusal(400, f"Cannot parse geoDistance: {value}")
    return near(*parts)


def _anywhere(value: str) -> Test:
    """`q`: the text in any term of the record."""
    wanted = value.casefold()
    return lambda occurrence: any(wanted in term.casefold() for term in occurrence.terms.values())


_SPECIAL: dict[str, Callable[[str], Test]] = {"geometry": within, "geoDistance": _near, "q": _anywhere}


def _any(tests: list[Test]) -> Test:
    return lambda occurrence: any(test(occurrence) for test in tests)


def _facets(query: MultiMapping[str]) -> list[Facet]:
    names = query.getall("facet", [])
    return [facet for name in dict.fromkeys(names) if (facet := _facet(name, query))]


def _facet(name: str, asked: Mapping[str, str]) -> Facet | None:
    """The facet of a parameter (None for an unknown one): `<name>.facetLimit` overrides `facetLimit`."""
    parameter = parameters.find(name)
    if parameter is None:
        return None
    limit, offset = (
        _whole(asked.get(f"{name}.{option}") or asked.get(option), default)
        for option, default in (("facetLimit", _FACET_VALUES), ("facetOffset", 0))
    )
    return Facet(parameter, limit, offset, _whole(asked.get("facetMincount"), 1))


def _page(asked: Mapping[str, Any]) -> tuple[int, int]:
    """Offset and limit, the limit clamped to 300; what is no number is ignored, as GBIF does."""
    return _whole(asked.get("offset"), 0), min(_whole(asked.get("limit"), _PAGE), _MOST_ON_A_PAGE)


def _whole(value: object, default: int) -> int:
    text = str(value)
    return int(text) if text.isdecimal() else default
