"""The sandbox's `species/match`, version 1 (flat) and 2 (usage, classification, diagnostics), over its checklists."""

from dataclasses import dataclass

from aiohttp import web

from gbif_platform.sandbox.answers import JsonObject
from gbif_platform.sandbox.record_json import lineage_json, usage_json
from gbif_platform.sandbox.taxonomy import BACKBONE, CHECKLISTS, USAGES, Usage

_IDENTIFIERS = ("usageKey", "taxonID", "taxonConceptID", "scientificNameID")
_LITTLE_CONFIDENCE = "No match because of too little confidence"


@dataclass(frozen=True)
class Match:
    """What a name was found to be; `usage` is None for matchType NONE."""

    match_type: str
    confidence: int
    usage: Usage | None = None
    note: str = ""


def routes() -> list[web.RouteDef]:
    """What to add to the application."""
    return [web.get("/v1/species/match", _match_v1), web.get("/v2/species/match", _match_v2)]


def match(name: str, kingdom: str = "", *, strict: bool = False) -> Match:
    """Find a scientific name: exactly, one letter off, or (unless `strict`) by its genus alone."""
    found = _find(" ".join(_canonical(name)), strict=strict)
    if found.usage and kingdom and found.usage.lineage[0].name.lower() != kingdom.lower():
        return Match("NONE", 99, note=_LITTLE_CONFIDENCE)
    return found


def _canonical(name: str) -> list[str]:
    """A name's own words in lower case: the first one, and an epithet that follows it in lower case."""
    words = name.split()[:2]
    return [word.lower() for position, word in enumerate(words) if position == 0 or word.islower()]


def _find(canonical: str, *, strict: bool) -> Match:
    if usage := USAGES.get(canonical):
        return Match("EXACT", 99, usage)
    close = [usage for known, usage in USAGES.items() if one_letter_off(canonical, known)]
    if len(close) > 1:
        return Match("NONE", 99, note="Multiple equal matches")
    if close:
        return Match("FUZZY", 94, close[0])
    genus = USAGES.get(canonical.split()[0]) if " " in canonical else None
    if genus and not strict:
        return Match("HIGHERRANK", 94, genus)
    return Match("NONE", 100, note=_LITTLE_CONFIDENCE)


def one_letter_off(first: str, second: str) -> bool:
    """Whether one letter changed, added or left out makes one of the other."""
    if first == second or abs(len(first) - len(second)) > 1:
        return False
    short, long = sorted((first, second), key=len)
    same = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return short[same + (len(short) == len(long)) :] == long[same + 1 :]


async def _match_v1(request: web.Request) -> web.Response:
    """The flat answer; it knows the backbone only."""
    query = request.query
    name = query.get("name") or query.get("scientificName") or ""
    found = match(name, query.get("kingdom", ""), strict=query.get("strict", "").lower() == "true")
    note = {"note": found.note} if found.note else {}
    described = _flat(found.usage) if found.usage else {}
    synonym = bool(found.usage and found.usage.accepted)
    return web.json_response(
        {**described, "confidence": found.confidence, **note, "matchType": found.match_type, "synonym": synonym}
    )


def _flat(usage: Usage) -> JsonObject:
    ranks = {each.rank.lower(): each for each in usage.lineage}
    accepted = {"acceptedUsageKey": int(usage.accepted.backbone_key)} if usage.accepted else {}
    return {
        "usageKey": int(usage.backbone_key),
        **accepted,
        "scientificName": usage.scientific_name,
        "canonicalName": usage.name,
        "rank": usage.rank,
        "status": "SYNONYM" if usage.accepted else "ACCEPTED",
        **{rank: each.name for rank, each in ranks.items()},
        **{f"{rank}Key": int(each.backbone_key) for rank, each in ranks.items()},
    }


async def _match_v2(request: web.Request) -> web.Response:
    """Identifiers win over the name; an unknown checklist matches nothing."""
    query = request.query
    checklist = query.get("checklistKey") or BACKBONE
    strict = query.get("strict", "").lower() == "true"
    name = query.get("scientificName") or query.get("name") or ""
    identified = next((usage for each in _IDENTIFIERS if (usage := _identified(query.get(each, ""), checklist))), None)
    if checklist not in CHECKLISTS:
        found = Match("NONE", 100)
    elif identified:
        found = Match("EXACT", 100, identified)
    else:
        found = match(name, query.get("kingdom", ""), strict=strict)
    return web.json_response(_structured(found, checklist))


def _identified(identifier: str, checklist: str) -> Usage | None:
    """The usage of a key of this checklist, or of an old backbone key written `gbif:<key>`."""
    old = identifier.removeprefix("gbif:") if identifier.startswith("gbif:") else None
    return next(
        (usage for usage in USAGES.values() if identifier == usage.key(checklist) or old == usage.backbone_key), None
    )


def _structured(found: Match, checklist: str) -> JsonObject:
    note = {"note": found.note} if found.note else {}
    diagnostics = {"matchType": found.match_type, "confidence": found.confidence, **note, "timeTaken": 0}
    usage = found.usage
    if usage is None:
        return {"diagnostics": {**diagnostics, "issues": []}, "synonym": False}
    accepted = {"acceptedUsage": _accepted(usage.accepted, checklist)} if usage.accepted else {}
    return {
        "usage": {**_named(usage, checklist), "status": "SYNONYM" if usage.accepted else "ACCEPTED"},
        **accepted,
        "classification": lineage_json(usage, checklist),
        "diagnostics": diagnostics,
        "synonym": usage.accepted is not None,
    }


def _named(usage: Usage, checklist: str) -> JsonObject:
    return {**usage_json(usage, checklist), "canonicalName": usage.name, "type": "SCIENTIFIC"}


def _accepted(usage: Usage, checklist: str) -> JsonObject:
    """An accepted usage as recorded: it has neither a status nor a nomenclatural code."""
    return {name: value for name, value in _named(usage, checklist).items() if name != "code"}
