"""Download predicates: compiled from search fields, checked before GBIF sees them, compared by what they mean.

The forms and the limits of 101 000 values and 10 000 points: https://techdocs.gbif.org/en/data-use/api-downloads.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gbif_platform.gbif.checklists import BACKBONE, TAXON_FIELDS, check_taxon_keys
from gbif_platform.gbif.errors import BadRequest, UnknownField, WrongChecklist
from gbif_platform.gbif.search_fields import parameter, predicate_key

MOST_ITEMS = 101_000
MOST_POINTS = 10_000
_DEEPEST = 100
_COMPARISONS = ("greaterThan", "greaterThanOrEquals", "lessThan", "lessThanOrEquals")
_WITH_VALUE = ("equals", "like", *_COMPARISONS)
_NULLS = ("isNull", "isNotNull")
_VALUE_KEYS = frozenset({"type", "key", "value", "matchCase", "checklistKey"})
_KEYS = {
    **dict.fromkeys(_WITH_VALUE, _VALUE_KEYS),
    "in": frozenset({"type", "key", "values", "matchCase", "checklistKey"}),
    "and": frozenset({"type", "predicates"}),
    "or": frozenset({"type", "predicates"}),
    "not": frozenset({"type", "predicate"}),
    **dict.fromkeys(_NULLS, frozenset({"type", "parameter", "checklistKey"})),
    "within": frozenset({"type", "geometry"}),
    "geoDistance": frozenset({"type", "latitude", "longitude", "distance"}),
}
_TAXONOMIC = {predicate_key(name) for name in TAXON_FIELDS} | {
    "IUCN_RED_LIST_CATEGORY",
    "TAXONOMIC_ISSUE",
    "TAXONOMIC_STATUS",
}
_RANGED_KEYS = """
COORDINATE_UNCERTAINTY_IN_METERS DAY DECIMAL_LATITUDE DECIMAL_LONGITUDE DEPTH DISTANCE_FROM_CENTROID_IN_METERS
ELEVATION END_DAY_OF_YEAR EVENT_DATE GBIF_ID LAST_INTERPRETED MODIFIED MONTH ORGANISM_QUANTITY
RELATIVE_ORGANISM_QUANTITY SAMPLE_SIZE_VALUE START_DAY_OF_YEAR YEAR
"""
_RANGED = frozenset(_RANGED_KEYS.split())
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_LIMIT = re.compile(rf"\*|{_NUMBER}|\d{{4}}(?:-\d\d(?:-\d\d(?:T[\d:.]+(?:Z|[-+]\d\d:?\d\d)?)?)?)?")
_DISTANCE = re.compile(r"\d+(?:\.\d+)?\s*(?:mi|miles|yd|yards|ft|feet|in|inch|km|kilometers|m|meters|cm|mm|NM|nmi)?")
_POINT = re.compile(rf"{_NUMBER}\s+{_NUMBER}")
_SHAPE = re.compile(
    r"\s*(?:(?:MULTI)?(?:POINT|LINESTRING|POLYGON)|LINEARRING|GEOMETRYCOLLECTION)\s*\([^;]*\)\s*", re.IGNORECASE
)

Predicate = dict[str, Any]


class InvalidPredicate(BadRequest):
    """GBIF would refuse the predicate; the message names the place in it."""


# From search fields


def from_query(query: Mapping[str, Any], checklist_key: str | None = None) -> Predicate:
    """The predicate that selects what a search with these fields finds; equal queries give equal predicates.

    Args:
        query: values by search field, in any spelling: a list means any of its values, `"a,b"` a range of numbers or
            dates with `*` for an open end, `"*"` any value at all; `geometry` is WKT, `geoDistance` `"lat,lon,5km"`.
        checklist_key: taxonomy of the taxon keys (a UUID), written into each part that it concerns.

    Raises:
        UnknownField, InvalidPredicate, WrongChecklist
    """
    fields: dict[str, Any] = {}
    for name, value in query.items():
        if value is None:
            continue
        if (key := predicate_key(name)) in fields:
            raise InvalidPredicate(f"{parameter(name)} is given twice, once as {name!r}", "put both values in one list")
        fields[key] = value
    own = fields.pop("CHECKLIST_KEY", None)
    if own and checklist_key and str(own) != checklist_key:
        raise WrongChecklist(f"the query says checklistKey {own}, checklist_key {checklist_key}", "say it once")
    checklist = checklist_key or (str(own) if own else None)
    parts = [part for key in sorted(fields) for part in _field(key, fields[key])]
    if not parts:
        raise InvalidPredicate("nothing is selected: GBIF would send every occurrence", "give at least one field")
    predicate = parts[0] if len(parts) == 1 else {"type": "and", "predicates": parts}
    predicate = with_checklist(predicate, checklist)
    check_predicate(predicate)
    return predicate


def _field(key: str, value: Any) -> list[Predicate]:
    """The parts of an `and` that one field contributes."""
    if not isinstance(value, list | tuple | set | frozenset):
        return _one(key, _text(value))
    texts = sorted({_text(one) for one in value})
    if not texts:
        raise InvalidPredicate(f"{parameter(key)}: the list is empty", "leave the field out, or list its values")
    groups = [_one(key, text) for text in texts]
    plain = [group[0]["value"] for group in groups if group[0]["type"] == "equals"]
    if len(groups) == 1:
        return groups[0]
    if len(plain) == len(groups):
        return [{"type": "in", "key": key, "values": plain}]
    anyone = [group[0] if len(group) == 1 else {"type": "and", "predicates": group} for group in groups]
    return [{"type": "or", "predicates": anyone}]


def _one(key: str, text: str) -> list[Predicate]:
    if text == "*":
        return [{"type": "isNotNull", "parameter": key}]
    if key == "GEOMETRY":
        return [{"type": "within", "geometry": text}]
    if key == "GEO_DISTANCE":
        return [_geo_distance(text)]
    if key in _RANGED and "," in text:
        return _range(key, text)
    return [{"type": "equals", "key": key, "value": text}]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _range(key: str, text: str) -> list[Predicate]:
    low, _, high = (side.strip() for side in text.partition(","))
    if not (_LIMIT.fullmatch(low) and _LIMIT.fullmatch(high)):
        raise InvalidPredicate(
            f"{parameter(key)}: {text!r} is no range", "two numbers or dates, one of them may be *: '1990,*'"
        )
    limits = (("greaterThanOrEquals", low), ("lessThanOrEquals", high))
    parts = [{"type": kind, "key": key, "value": limit} for kind, limit in limits if limit != "*"]
    return parts or [{"type": "isNotNull", "parameter": key}]


def _geo_distance(text: str) -> Predicate:
    latitude, longitude, distance, *more = [*(side.strip() for side in text.split(",")), "", ""]
    if any(more[:-2]) or not distance:
        raise InvalidPredicate(f"geoDistance: {text!r} is no place with a distance", "latitude,longitude,distance")
    return {"type": "geoDistance", "latitude": latitude, "longitude": longitude, "distance": distance}


def with_checklist(predicate: Predicate, checklist_key: str | None) -> Predicate:
    """The predicate with the checklist in each taxonomic part that names none: GBIF reads such a part by its own."""
    if not checklist_key:
        return predicate
    changed = dict(predicate)
    for name in ("predicates", "predicate"):
        if isinstance(inner := changed.get(name), list):
            changed[name] = [with_checklist(one, checklist_key) if isinstance(one, dict) else one for one in inner]
        elif isinstance(inner, dict):
            changed[name] = with_checklist(inner, checklist_key)
    named = changed.get("key", changed.get("parameter"))
    if named in _TAXONOMIC and not changed.get("checklistKey"):
        changed["checklistKey"] = checklist_key
    return changed


# Checks


def check_predicate(predicate: object, checklist_key: str | None = None) -> None:
    """Refuse what GBIF would refuse, or what would match nothing in silence.

    Args:
        predicate: JSON, from anywhere.
        checklist_key: taxonomy of the parts that name none; None = the backbone.

    Raises:
        InvalidPredicate, UnknownField, WrongChecklist: with the place, such as `predicate.predicates[2].value`.
    """
    items = points = 0
    for place, part in _walk("predicate", predicate):
        kind = _kind(place, part)
        if unknown := sorted(set(part) - _KEYS[kind]):
            raise _wrong(f"{place}.{unknown[0]}", f"{kind} has no such key; it has {', '.join(sorted(_KEYS[kind]))}")
        if kind == "within":
            points += _check_geometry(f"{place}.geometry", part.get("geometry"))
        elif kind == "geoDistance":
            _check_distance(place, part)
        elif kind not in ("and", "or", "not"):
            items += _check_leaf(place, kind, part, checklist_key)
    if items > MOST_ITEMS:
        raise _wrong("predicate", f"{items:,} values; GBIF takes {MOST_ITEMS:,}", "make several downloads of it")
    if points > MOST_POINTS:
        raise _wrong("predicate", f"{points:,} polygon points; GBIF takes {MOST_POINTS:,}", "simplify the polygon")


def place_of(predicate: object, message: str) -> str | None:
    """Where in a predicate the thing is that GBIF's message quotes, None where that is not to be told."""
    found = ""
    best: str | None = None
    for place, part in _walk("predicate", predicate):
        for name, value in part.items() if isinstance(part, dict) else ():
            for at, text in _texts(f"{place}.{name}", value):
                # the longest quoted text is the most telling one
                if name != "type" and len(text) > len(found) and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", message):
                    found, best = text, at
    return best


def _texts(place: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        yield from ((f"{place}[{index}]", one) for index, one in enumerate(value) if isinstance(one, str))


def _walk(place: str, predicate: object, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Each predicate in a predicate, with its place; the outer ones first."""
    yield place, predicate
    if depth > _DEEPEST:
        raise _wrong(place, f"predicates nested more than {_DEEPEST} deep")
    if not isinstance(predicate, dict):
        return
    if predicate.get("type") == "not":
        yield from _walk(f"{place}.predicate", predicate.get("predicate"), depth + 1)
    elif predicate.get("type") in ("and", "or"):
        inner = predicate.get("predicates")
        if not isinstance(inner, list) or not inner:
            raise _wrong(f"{place}.predicates", "a list with at least one predicate is expected")
        for index, one in enumerate(inner):
            yield from _walk(f"{place}.predicates[{index}]", one, depth + 1)


def _wrong(place: str, expected: str, next_step: str = "correct the predicate there") -> InvalidPredicate:
    return InvalidPredicate(f"{place}: {expected}", next_step)


def _kind(place: str, part: object) -> str:
    if not isinstance(part, dict):
        raise _wrong(place, f"an object with a type is expected (found {str(part)[:80]!r})")
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise _wrong(f"{place}.type", f"{kind!r} is no kind of predicate", f"GBIF knows {', '.join(_KEYS)}")
    return kind


def _check_leaf(place: str, kind: str, part: Predicate, checklist_key: str | None) -> int:
    """Field, values and checklist of one part; returns the number of its values."""
    name = "parameter" if kind in _NULLS else "key"
    field = part.get(name)
    if not isinstance(field, str):
        raise _wrong(f"{place}.{name}", "the name of a search field is expected, such as TAXON_KEY")
    try:
        known = predicate_key(field)
    except UnknownField as error:
        raise UnknownField(f"{place}.{name}: {error.cause}", error.next_step) from error
    if known != field:
        raise _wrong(f"{place}.{name}", f"GBIF spells {field!r} {known}", f"write {known}")
    if kind in _NULLS:
        return 1
    values = part.get("values") if kind == "in" else [part.get("value")]
    if not isinstance(values, list) or not values:
        raise _wrong(f"{place}.values", "a list with at least one value is expected")
    for index, value in enumerate(values):
        if not isinstance(value, str | int | float) or value == "":
            at = f"{place}.values[{index}]" if kind == "in" else f"{place}.value"
            raise _wrong(at, f"a text or a number is expected (found {str(value)[:80]!r})")
    try:
        texts = [str(value) for value in values]
        check_taxon_keys({parameter(field): texts}, part.get("checklistKey") or checklist_key)
    except WrongChecklist as error:
        raise WrongChecklist(f"{place}: {error.cause}", error.next_step) from error
    return len(values)


def _check_geometry(place: str, geometry: object) -> int:
    """Returns the number of points."""
    if not isinstance(geometry, str) or not _SHAPE.fullmatch(geometry):
        raise _wrong(place, f"WKT is expected, such as POLYGON ((…)) (found {str(geometry)[:80]!r})")
    if geometry.count("(") != geometry.count(")"):
        raise _wrong(place, "the parentheses do not match")
    points = len(_POINT.findall(geometry))
    if not points:
        raise _wrong(place, "there are no points 'longitude latitude' in it")
    return points


def _check_distance(place: str, part: Predicate) -> None:
    for name, most in (("latitude", 90), ("longitude", 180)):
        text = str(part.get(name))
        if not re.fullmatch(_NUMBER, text) or abs(float(text)) > most:
            raise _wrong(f"{place}.{name}", f"a number between -{most} and {most} is expected (found {text[:80]!r})")
    if not _DISTANCE.fullmatch(str(part.get("distance"))):
        raise _wrong(f"{place}.distance", f"a distance like 5km is expected (found {str(part.get('distance'))[:80]!r})")


# Comparison


def normal_form(predicate: Any) -> Any:
    """The predicate as it compares: without the defaults that GBIF adds, values as texts, alternatives in one order."""
    if not isinstance(predicate, dict):
        return predicate
    kept = {name: value for name, value in predicate.items() if value is not None and value is not False}
    if kept.get("checklistKey") == BACKBONE:
        del kept["checklistKey"]
    if isinstance(kept.get("values"), list):
        kept["values"] = sorted({_text(value) for value in kept["values"]})
    if "value" in predicate:
        kept["value"] = _text(predicate["value"])
    if "predicate" in kept:
        kept["predicate"] = normal_form(kept["predicate"])
    if isinstance(kept.get("predicates"), list):
        kept["predicates"] = sorted(
            map(normal_form, kept["predicates"]), key=lambda one: json.dumps(one, sort_keys=True)
        )
    return kept
