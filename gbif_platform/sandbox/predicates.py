"""GBIF's predicates: from their JSON (or the parameters of a search address) to a test of one occurrence."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gbif_platform.sandbox import parameters
from gbif_platform.sandbox.answers import JsonObject, Refusal
from gbif_platform.sandbox.geometry import near, within
from gbif_platform.sandbox.parameters import Kind, Parameter
from gbif_platform.sandbox.records import Occurrence
from gbif_platform.sandbox.taxonomy import BACKBONE

Test = Callable[[Occurrence], bool]
_MOST_ITEMS = 101_000
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "lessThan": lambda left, right: left < right,
    "lessThanOrEquals": lambda left, right: left <= right,
    "greaterThan": lambda left, right: left > right,
    "greaterThanOrEquals": lambda left, right: left >= right,
}


@dataclass(frozen=True)
class Predicate:
    """A checked predicate: its JSON as GBIF stores it (with `matchCase`), and the test that it means."""

    normal: JsonObject
    test: Test


def parse(predicate: object) -> Predicate:
    """Read a predicate; 400 for what GBIF would not accept, 413 for more than 101 000 values."""
    parsed = _parse(predicate)
    if (items := _items(parsed.normal)) > _MOST_ITEMS:
        raise Refusal(413, f"The predicate has {items} items; at most {_MOST_ITEMS} are possible")
    return parsed


def equals(parameter: Parameter, value: str, checklist: str = BACKBONE, *, match_case: bool = False) -> Test:
    """Whether any of a record's values is this one: dates by their given precision, texts without case by default."""
    parameter.check(value)
    if parameter.kind in (Kind.INTEGER, Kind.DECIMAL):
        number = float(value)
        return lambda occurrence: any(float(each) == number for each in parameter.of(occurrence))
    if parameter.kind is Kind.DATE:
        return lambda occurrence: any(each[: len(value)] == value for each in parameter.of(occurrence))
    folded = str if match_case else str.casefold
    wanted = folded(value)
    return lambda occurrence: any(folded(each) == wanted for each in parameter.of(occurrence, checklist))


def between(parameter: Parameter, low: str, high: str) -> Test:
    """Whether a value lies in a closed range; `*` leaves an end open."""
    tests = [
        compare(parameter, name, bound)
        for name, bound in (("greaterThanOrEquals", low), ("lessThanOrEquals", high))
        if bound not in ("*", "")
    ]
    return lambda occurrence: bool(parameter.of(occurrence)) and all(test(occurrence) for test in tests)


def compare(parameter: Parameter, name: str, value: str) -> Test:
    """`lessThan` and its like; a date is compared with the precision of the given one."""
    if not parameter.ordered:
        raise Refusal(400, f"Only comparable parameters are allowed in comparisons: {parameter.key}")
    parameter.check(value)
    holds = _COMPARISONS[name]
    if parameter.kind is Kind.DATE:
        return lambda occurrence: any(holds(each[: len(value)], value) for each in parameter.of(occurrence))
    return lambda occurrence: any(holds(float(each), float(value)) for each in parameter.of(occurrence))


def _parse(predicate: object) -> Predicate:
    if not isinstance(predicate, dict):
        raise Refusal(400, "JSON parse error: a predicate must be an object")
    kind = predicate.get("type")
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        known = ", ".join(_PARSERS)
        raise Refusal(400, f"JSON parse error: Could not resolve type id '{kind}' as a predicate: known are {known}")
    return parser(predicate)


def _parameter(predicate: JsonObject, field: str = "key") -> Parameter:
    name = predicate.get(field)
    parameter = parameters.find(name) if isinstance(name, str) else None
    if parameter is None:
        raise Refusal(400, f"JSON parse error: '{name}' is not a known search parameter")
    return parameter


def _value(value: object, parameter: Parameter) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or value == "":
        raise Refusal(400, f"<value> may not be null or empty for {parameter.key}")
    return str(value)


def _options(predicate: JsonObject) -> JsonObject:
    checklist = {"checklistKey": predicate["checklistKey"]} if predicate.get("checklistKey") else {}
    return {"matchCase": bool(predicate.get("matchCase", False)), **checklist}


def _equals(predicate: JsonObject) -> Predicate:
    parameter = _parameter(predicate)
    value = _value(predicate.get("value"), parameter)
    normal = {"type": "equals", "key": parameter.key, "value": value, **_options(predicate)}
    return Predicate(normal, _equal_any(parameter, [value], normal))


def _in(predicate: JsonObject) -> Predicate:
    parameter, values = _parameter(predicate), predicate.get("values")
    if not isinstance(values, list) or not values:
        raise Refusal(400, f"<values> may not be null or empty for {parameter.key}")
    texts = [_value(value, parameter) for value in values]
    normal = {"type": "in", "key": parameter.key, "values": texts, **_options(predicate)}
    return Predicate(normal, _equal_any(parameter, texts, normal))


def _equal_any(parameter: Parameter, values: list[str], normal: JsonObject) -> Test:
    checklist = normal.get("checklistKey", BACKBONE)
    tests = [equals(parameter, value, checklist, match_case=normal["matchCase"]) for value in values]
    return lambda occurrence: any(test(occurrence) for test in tests)


def _compound(predicate: JsonObject) -> Predicate:
    parts = predicate.get("predicates")
    if not isinstance(parts, list) or not parts:
        raise Refusal(400, f"<predicates> may not be null or empty in <{predicate['type']}>")
    parsed = [_parse(part) for part in parts]
    join = all if predicate["type"] == "and" else any
    normal = {"type": predicate["type"], "predicates": [part.normal for part in parsed]}
    return Predicate(normal, lambda occurrence: join(part.test(occurrence) for part in parsed))


def _not(predicate: JsonObject) -> Predicate:
    part = _parse(predicate.get("predicate"))
    return Predicate({"type": "not", "predicate": part.normal}, lambda occurrence: not part.test(occurrence))


def _comparison(predicate: JsonObject) -> Predicate:
    parameter = _parameter(predicate)
    value = _value(predicate.get("value"), parameter)
    normal = {"type": predicate["type"], "key": parameter.key, "value": value, **_options(predicate)}
    return Predicate(normal, compare(parameter, predicate["type"], value))


def _like(predicate: JsonObject) -> Predicate:
    parameter = _parameter(predicate)
    value = _value(predicate.get("value"), parameter)
    if parameter.kind is not Kind.TEXT:
        raise Refusal(400, f"Like predicates are only allowed for texts: {parameter.key}")
    pattern = re.escape(value).replace(r"\*", ".*").replace(r"\?", ".")
    options = _options(predicate)
    matches = re.compile(pattern, re.NOFLAG if options["matchCase"] else re.IGNORECASE).fullmatch
    normal = {"type": "like", "key": parameter.key, "value": value, **options}
    return Predicate(normal, lambda occurrence: any(matches(each) for each in parameter.of(occurrence)))


def _is_null(predicate: JsonObject) -> Predicate:
    parameter = _parameter(predicate, "parameter")
    empty = predicate["type"] == "isNull"
    checklist = {"checklistKey": predicate["checklistKey"]} if predicate.get("checklistKey") else {}
    normal = {"type": predicate["type"], "parameter": parameter.key, **checklist}
    return Predicate(normal, lambda occurrence: (not parameter.of(occurrence)) is empty)


def _within(predicate: JsonObject) -> Predicate:
    geometry = predicate.get("geometry")
    if not isinstance(geometry, str):
        raise Refusal(400, "<geometry> may not be null")
    return Predicate({"type": "within", "geometry": geometry}, within(geometry))


def _geo_distance(predicate: JsonObject) -> Predicate:
    latitude, longitude, distance = (str(predicate.get(name)) for name in ("latitude", "longitude", "distance"))
    normal = {"type": "geoDistance", "latitude": latitude, "longitude": longitude, "distance": distance}
    return Predicate(normal, near(latitude, longitude, distance))


_PARSERS: dict[str, Callable[[JsonObject], Predicate]] = {
    "equals": _equals,
    "in": _in,
    "and": _compound,
    "or": _compound,
    "not": _not,
    **dict.fromkeys(_COMPARISONS, _comparison),
    "like": _like,
    "isNull": _is_null,
    "isNotNull": _is_null,
    "within": _within,
    "geoDistance": _geo_distance,
}


def _items(normal: JsonObject) -> int:
    parts: Iterable[JsonObject] = normal.get("predicates") or ([normal["predicate"]] if "predicate" in normal else [])
    return len(normal.get("values", ())) + sum(_items(part) for part in parts) + ("value" in normal)
