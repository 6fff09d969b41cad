"""What GBIF's name matching answers, read; recorded answers are read in test_client.py."""

from typing import Any

import pytest

from gbif_platform.gbif.checklists import BACKBONE
from gbif_platform.gbif.species import read_match_v1, read_match_v2


def answer(match_type: str = "EXACT", rank: str = "SPECIES", **more: Any) -> dict[str, Any]:
    usage = {"key": "9", "name": "Rana arvalis Nilsson, 1842", "rank": rank, "status": "ACCEPTED"}
    return {"usage": usage, "diagnostics": {"matchType": match_type, "confidence": 97}} | more


def accepted(rank: str) -> dict[str, Any]:
    return {"acceptedUsage": {"key": "7", "name": "Rana temporaria Linnaeus, 1758", "rank": rank}}


def test_an_exact_match() -> None:
    match = read_match_v2("Rana arvalis", answer(), BACKBONE)
    assert match.exact
    assert (match.usage_key, match.accepted_key, match.accepted_name) == ("9", "9", "Rana arvalis Nilsson, 1842")
    assert match.checklist_key == BACKBONE


def test_a_synonym_leads_to_its_accepted_taxon() -> None:
    match = read_match_v2("Rana arvalis", answer(**accepted("SPECIES")), BACKBONE)
    assert match.exact
    assert (match.usage_key, match.accepted_key) == ("9", "7")
    assert not match.widened


@pytest.mark.parametrize(
    ("rank", "to", "wider"),
    [
        ("SPECIES", "GENUS", True),
        ("SUBSPECIES", "SPECIES", True),
        ("GENUS", "GENUS", False),
        ("SPECIES", "SUBSPECIES", False),
        ("SPECIES", "UNRANKED", False),
    ],
)
def test_a_synonym_of_a_higher_rank_is_noticed(rank: str, to: str, wider: bool) -> None:
    assert read_match_v2("x", answer(rank=rank, **accepted(to)), BACKBONE).widened is wider


@pytest.mark.parametrize("kind", ["FUZZY", "HIGHERRANK", "AGGREGATE", "VARIANT", "NONE", "SOMETHING_NEW"])
def test_nothing_but_exact_is_exact(kind: str) -> None:
    assert not read_match_v2("x", answer(kind), BACKBONE).exact


@pytest.mark.parametrize("empty", [{}, {"usage": None, "diagnostics": None}, {"diagnostics": {"alternatives": None}}])
def test_no_match_is_a_match_of_nothing(empty: dict[str, Any]) -> None:
    match = read_match_v2("x", empty, BACKBONE)
    assert (match.match_type, match.usage_key, match.accepted_key, match.exact) == ("NONE", None, None, False)


def test_homonyms_are_listed() -> None:
    others = [{"usage": {"name": "Oenanthe Vieillot, 1816"}}, {"usage": {"name": "Oenanthe L."}}]
    said = {"diagnostics": {"matchType": "NONE", "note": "Multiple equal matches", "alternatives": others}}
    match = read_match_v2("Oenanthe", said, BACKBONE)
    assert match.alternatives == ("Oenanthe Vieillot, 1816", "Oenanthe L.")
    assert not match.exact


def test_the_flat_answer_of_version_1() -> None:
    flat = {"usageKey": 9, "acceptedUsageKey": 7, "scientificName": "Rana fusca", "species": "Rana temporaria",
            "rank": "SPECIES", "status": "SYNONYM", "matchType": "EXACT", "confidence": 98}  # fmt: skip
    match = read_match_v1("Rana fusca", flat, BACKBONE)
    assert (match.usage_key, match.accepted_key, match.accepted_name) == ("9", "7", "Rana temporaria")
    assert match.exact
