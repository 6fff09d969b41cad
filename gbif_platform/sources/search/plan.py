"""How a search is divided so that GBIF gives all of it: parts that are disjoint, complete, and small enough."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.client import PAGE_SIZE, SEARCH_LIMIT, GbifClient
from gbif_platform.sources.search.parts import Part

FIELDS = ("year", "month", "datasetKey", "country", "basisOfRecord", "speciesKey", "publishingCountry", "day")
"""What a search is divided by: the first that all of a part's occurrences have, else the first that some have. No
occurrence has two values of these."""
SECONDS_A_CALL = 2.0
"""A full page takes GBIF about that long; calls follow one another, as GBIF asks for."""
_MOST_VALUES = 50


class SearchTooLarge(PlatformError):
    """A search that belongs into a download."""


class SearchNotDivisible(PlatformError):
    """No field divides a search so that every occurrence is in exactly one part."""


@dataclass(frozen=True)
class Plan:
    """A search in parts.

    Attributes:
        total: occurrences of all parts together.
        limit: records that one part may have at most, GBIF's largest offset + limit.
        planning_calls: requests that it took to find the parts.
    """

    parts: tuple[Part, ...]
    total: int
    limit: int
    planning_calls: int

    @property
    def calls(self) -> int:
        """Requests that the search takes, those of the planning included."""
        return self.planning_calls + sum(pages(part.count, self.limit) for part in self.parts)


def pages(records: int, limit: int = SEARCH_LIMIT) -> int:
    """Pages that so many records take."""
    return math.ceil(records / min(PAGE_SIZE, limit))


async def plan(gbif: GbifClient, whole: Part, *, max_calls: int, limit: int = SEARCH_LIMIT) -> Plan:
    """Count a search, and divide it where it is above GBIF's limit.

    Args:
        whole: the search; its `count` is asked for.
        max_calls: requests that it may take, those of the planning included.
        limit: records that a part may have.

    Raises:
        SearchTooLarge: it would take more requests; the advice is a download.
        SearchNotDivisible: a part stays above the limit.
        PlatformError: it finds nothing.
    """
    before = gbif.calls
    total = await whole.counted(gbif)
    if not total:
        raise PlatformError(
            f"GBIF's search finds nothing for {_said(whole)}", "make it wider; names and keys belong to one checklist"
        )
    parts: list[Part] = []
    waiting = [Part(whole.query, total, whole.checklist_key, whole.empty)]
    while waiting:
        _check(whole, total, gbif.calls - before + pages(total, limit), max_calls)
        part = waiting.pop()
        if part.count <= limit:
            parts.append(part)
        else:
            waiting += reversed(await _divided(gbif, part, limit))
    found = Plan(tuple(parts), total, limit, gbif.calls - before)
    _check(whole, total, found.calls, max_calls)
    return found


def _check(whole: Part, total: int, calls: int, max_calls: int) -> None:
    if calls > max_calls:
        minutes = math.ceil(calls * SECONDS_A_CALL / 60)
        raise SearchTooLarge(
            f"the search finds {total:,} occurrences: at least {calls:,} calls, about {minutes:,} minutes one after "
            f"the other, above max_calls ({max_calls:,})",
            f"request a download: source: {{gbif_download: {{query: {_said(whole)}}}}}, narrow the search, or raise "
            "max_calls",
        )


def _said(part: Part) -> str:
    """A query as a dataset file says it, shortened."""
    shown = {
        name: [*value[:3], "…"] if isinstance(value, list) and len(value) > 3 else value
        for name, value in part.query.items()
    }
    return "{" + ", ".join(f"{name}: {str(value).replace(chr(39), '')}" for name, value in shown.items()) + "}"


async def _divided(gbif: GbifClient, part: Part, limit: int) -> list[Part]:
    """A part's parts; their counts sum to its own."""
    partial: dict[str, dict[str, int]] = {}
    for field in FIELDS:
        if field in part.fixed:
            continue
        counts = await part.facet(gbif, field)
        found = sum(counts.values())
        if found == part.count and len(counts) > 1:
            return list(_grouped(part, field, counts, limit))
        if 0 < found < part.count:
            partial[field] = counts
    for field, counts in partial.items():
        rest = part.without(field, await part.without(field, 0).counted(gbif))
        if rest.count + sum(counts.values()) == part.count:
            return [*_grouped(part, field, counts, limit), rest]
    raise SearchNotDivisible(
        f"{part.count:,} occurrences of {_said(part)} cannot be divided into parts of {limit:,}, and more than that "
        "GBIF's search does not give",
        "request a download: source: {gbif_download: {query: …}}",
    )


def _grouped(part: Part, field: str, counts: dict[str, int], limit: int) -> Iterator[Part]:
    """Neighbouring values together, as many as the limit allows."""
    values: list[str] = []
    held = 0
    for value, count in sorted(counts.items()):
        if values and (held + count > limit or len(values) == _MOST_VALUES):
            yield part.narrowed(field, values, held)
            values, held = [], 0
        values, held = [*values, value], held + count
    yield part.narrowed(field, values, held)
