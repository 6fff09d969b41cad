"""Where records lie, for the sandbox's searches: in WKT polygons (plane coordinates) or near a point."""

import math
import re
from collections.abc import Callable

from gbif_platform.sandbox.answers import Refusal
from gbif_platform.sandbox.records import Occurrence

Ring = list[tuple[float, float]]
_POLYGON = re.compile(r"\s*(MULTI)?POLYGON\s*\(", re.IGNORECASE)
_RING = re.compile(r"\(([^()]+)\)")
_DISTANCE = re.compile(r"([\d.]+)\s*(km|m|mi|ft)?")
_METRES = {None: 1.0, "m": 1.0, "km": 1000.0, "mi": 1609.344, "ft": 0.3048}
_EARTH_RADIUS = 6_371_008.8  # metres, the mean one


def within(text: str) -> Callable[[Occurrence], bool]:
    """Whether a record lies in a POLYGON or MULTIPOLYGON; 400 in GBIF's words for text that is none."""
    rings = _rings(text)
    # Even-odd: a ray to the right crosses the borders of all rings, holes included, an odd number of times.
    return lambda occurrence: sum(_crossings(*_place(occurrence), ring) for ring in rings) % 2 == 1


def near(latitude: str, longitude: str, distance: str) -> Callable[[Occurrence], bool]:
    """Whether a record lies within a distance such as `5km` (metres without a unit) of a point, on a sphere."""
    found = _DISTANCE.fullmatch(distance.strip())
    if found is None:
        raise Refusal(400, f"Cannot parse distance: {distance}")
    try:
        y, x = float(latitude), float(longitude)
    except ValueError:
        raise Refusal(400, f"Cannot parse point: {latitude},{longitude}") from None
    metres = float(found[1]) * _METRES[found[2]]
    return lambda occurrence: _metres_between((x, y), _place(occurrence)) <= metres


def _place(occurrence: Occurrence) -> tuple[float, float]:
    return float(occurrence.terms["decimalLongitude"]), float(occurrence.terms["decimalLatitude"])


def _rings(text: str) -> list[Ring]:
    if not _POLYGON.match(text):
        raise Refusal(400, f"Cannot parse simple WKT: {text}")
    if text.count("(") != text.count(")"):
        raise Refusal(400, f"Cannot parse simple WKT: {text} Expected [)] found EOF")
    try:
        rings = [[tuple(map(float, point.split())) for point in ring.split(",")] for ring in _RING.findall(text)]
        return [[(x, y) for x, y in ring] for ring in rings]
    except ValueError:
        raise Refusal(400, f"Cannot parse simple WKT: {text} Expected a number") from None


def _crossings(x: float, y: float, ring: Ring) -> int:
    return sum(
        (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1)
        for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True)
    )


def _metres_between(first: tuple[float, float], second: tuple[float, float]) -> float:
    """The haversine formula; points are (longitude, latitude) in degrees."""
    (x1, y1), (x2, y2) = (tuple(map(math.radians, point)) for point in (first, second))
    chord = math.sin((y2 - y1) / 2) ** 2 + math.cos(y1) * math.cos(y2) * math.sin((x2 - x1) / 2) ** 2
    return 2 * _EARTH_RADIUS * math.asin(math.sqrt(chord))
