"""What GBIF's name matching answers, in one form for its two versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXACT = "EXACT"
_RANKS = (
    "DOMAIN",
    "KINGDOM",
    "PHYLUM",
    "CLASS",
    "ORDER",
    "FAMILY",
    "GENUS",
    "SPECIES",
    "SUBSPECIES",
    "VARIETY",
    "FORM",
)
"""From the highest; ranks that are not among them are not compared."""


@dataclass(frozen=True)
class Match:
    """One name as GBIF reads it; keys are text and belong to `checklist_key`.

    Attributes:
        match_type: EXACT, FUZZY, HIGHERRANK, AGGREGATE, VARIANT, NONE or what else GBIF comes to say.
        usage_key, usage_name, rank, status: of the name itself; None where nothing matches.
        accepted_key, accepted_name, accepted_rank: of the taxon that it is a synonym of, else those of the name.
        confidence: 0 to 100, as GBIF counts it.
        alternatives: names of other candidates, where GBIF lists them.
    """

    name: str
    checklist_key: str
    match_type: str
    usage_key: str | None = None
    usage_name: str | None = None
    rank: str | None = None
    status: str | None = None
    accepted_key: str | None = None
    accepted_name: str | None = None
    confidence: int | None = None
    note: str = ""
    alternatives: tuple[str, ...] = ()
    accepted_rank: str | None = None

    @property
    def widened(self) -> bool:
        """Whether the accepted taxon is of a higher rank than the name, and holds more than was named."""
        ranks = (self.accepted_rank, self.rank)
        return all(rank in _RANKS for rank in ranks) and _RANKS.index(str(ranks[0])) < _RANKS.index(str(ranks[1]))

    @property
    def exact(self) -> bool:
        """Whether it may be taken without a person's review."""
        return self.match_type == EXACT and self.accepted_key is not None


def read_match_v1(name: str, answer: Mapping[str, Any], checklist: str) -> Match:
    """From the flat answer of `/v1/species/match`."""
    key = _text(answer.get("usageKey"))
    return Match(
        name,
        checklist,
        str(answer.get("matchType", "NONE")),
        key,
        answer.get("scientificName"),
        answer.get("rank"),
        answer.get("status"),
        _text(answer.get("acceptedUsageKey")) or key,
        answer.get("species") if answer.get("acceptedUsageKey") else answer.get("scientificName"),
        answer.get("confidence"),
        answer.get("note", ""),
        tuple(str(other.get("scientificName")) for other in answer.get("alternatives", [])),
    )


def read_match_v2(name: str, answer: Mapping[str, Any], checklist: str) -> Match:
    """From the nested answer of `/v2/species/match`."""
    usage = answer.get("usage") or {}
    accepted = answer.get("acceptedUsage") or usage
    diagnostics = answer.get("diagnostics") or {}
    others = diagnostics.get("alternatives") or []
    return Match(
        name,
        checklist,
        str(diagnostics.get("matchType", "NONE")),
        _text(usage.get("key")),
        usage.get("name"),
        usage.get("rank"),
        usage.get("status"),
        _text(accepted.get("key")),
        accepted.get("name"),
        diagnostics.get("confidence"),
        diagnostics.get("note") or "",
        tuple(str((other.get("usage") or {}).get("name")) for other in others),
        accepted.get("rank"),
    )


def _text(key: object) -> str | None:
    return None if key is None else str(key)
