"""The sandbox's name matching: every match type, synonyms, both checklists, in the shapes of recorded answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.sandbox import Sandbox
from gbif_platform.sandbox.matching import match, one_letter_off
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform.sandbox.taxonomy import BACKBONE, COL_XR, USAGES
from gbif_platform_tests.sandbox.calls import assert_shape, get, recorded

MATCHES = [
    ("Demoptera ocellata", "EXACT", 99_000_100),
    ("demoptera ocellata", "EXACT", 99_000_100),
    ("Demoptera ocellata Sandbox, 2026", "EXACT", 99_000_100),
    ("Demoptera argus", "EXACT", 99_000_201),
    ("Loopbackiidae", "EXACT", 99_000_002),
    ("Demoptera ocelata", "FUZZY", 99_000_100),
    ("Demoptera mirabilis", "HIGHERRANK", 99_000_011),
    ("Danaus plexippus", "NONE", None),
    ("", "NONE", None),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def v1(sandbox: Sandbox, **parameters: object) -> Any:
    return get(f"{sandbox.url}/v1/species/match", parameters).json


def v2(sandbox: Sandbox, **parameters: object) -> Any:
    return get(f"{sandbox.url}/v2/species/match", parameters).json


@pytest.mark.parametrize(("name", "match_type", "key"), MATCHES)
def test_both_versions_agree(sandbox: Sandbox, name: str, match_type: str, key: int | None) -> None:
    flat, structured = v1(sandbox, name=name), v2(sandbox, scientificName=name)
    assert (flat["matchType"], flat.get("usageKey")) == (match_type, key)
    assert structured["diagnostics"]["matchType"] == match_type
    assert structured.get("usage", {}).get("key") == (str(key) if key else None)


def test_answers_have_the_recorded_shapes(sandbox: Sandbox, shared: Path) -> None:
    flat_examples = recorded(shared, "species", "pygbif__name_backbone_*")
    structured_examples = recorded(shared, "species", "rgbif__name_backbone__*")
    structured_examples += [
        other for each in structured_examples for other in each["diagnostics"].get("alternatives", ())
    ]
    for name, _, _ in MATCHES:
        flat = v1(sandbox, name=name)
        flat.pop("acceptedUsageKey", None)  # no synonym was recorded in version 1
        assert_shape(flat, flat_examples)
        for checklist in (BACKBONE, COL_XR):
            assert_shape(v2(sandbox, scientificName=name, checklistKey=checklist), structured_examples)
    assert v1(sandbox, name=SPECIES[0].name).keys() == flat_examples[0].keys()


def test_a_synonym_leads_to_its_accepted_name(sandbox: Sandbox) -> None:
    flat = v1(sandbox, name="Demoptera argus")
    assert (flat["status"], flat["synonym"]) == ("SYNONYM", True)
    assert flat["acceptedUsageKey"] == flat["speciesKey"] == SPECIES[0].key
    structured = v2(sandbox, scientificName="Demoptera argus", checklistKey=COL_XR)
    assert structured["synonym"] is True
    accepted = USAGES["demoptera ocellata"].key(COL_XR)
    assert structured["acceptedUsage"]["key"] == structured["classification"][-1]["key"] == accepted


def test_col_xr_keys_are_short_texts_and_differ() -> None:
    keys = [usage.key(COL_XR) for usage in USAGES.values()]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 5 and not key.isdecimal() for key in keys)


def test_identifiers_win_over_names(sandbox: Sandbox) -> None:
    found = v2(sandbox, scientificNameID=f"gbif:{SPECIES[2].key}", scientificName="Nobody", checklistKey=COL_XR)
    assert found["usage"]["canonicalName"] == SPECIES[2].name
    found = v2(sandbox, taxonID=found["usage"]["key"], checklistKey=COL_XR)
    assert found["usage"]["canonicalName"] == SPECIES[2].name
    assert v2(sandbox, scientificName=SPECIES[2].name, checklistKey="nonsense")["diagnostics"]["matchType"] == "NONE"


def test_strict_and_kingdom_narrow(sandbox: Sandbox) -> None:
    assert v1(sandbox, name="Demoptera mirabilis", strict="true")["matchType"] == "NONE"
    denied = v1(sandbox, name=SPECIES[0].name, kingdom="Plantae")
    assert (denied["matchType"], denied["note"]) == ("NONE", "No match because of too little confidence")


@given(word=st.text("abcdef", min_size=1, max_size=8), place=st.integers(0, 7), letter=st.sampled_from("xyz"))
def test_one_letter_changed_added_or_left_out(word: str, place: int, letter: str) -> None:
    place %= len(word)
    for other in (word[:place] + letter + word[place:], word[:place] + letter + word[place + 1 :]):
        assert one_letter_off(word, other)
        assert one_letter_off(other, word)
    assert not one_letter_off(word, word)
    assert not one_letter_off(word, word + "xx")


@given(st.text(max_size=40))
def test_any_text_is_answered(name: str) -> None:
    assert match(name).match_type in ("EXACT", "FUZZY", "HIGHERRANK", "NONE")
