"""Names and values of search fields, in any spelling."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.errors import BadRequest, UnknownField
from gbif_platform.gbif.search_fields import _PARAMETERS, as_query, parameter, predicate_key

# NO may not come as a boolean, see test_norway
FIELDS = sorted(set(_PARAMETERS) - {"COUNTRY", "PUBLISHING_COUNTRY"})
VALUES = st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.floats(allow_nan=False))
QUERIES = st.dictionaries(st.sampled_from(FIELDS), st.one_of(st.none(), VALUES, st.lists(VALUES, max_size=5)))


@given(QUERIES, st.randoms(use_true_random=False))
def test_a_query_is_the_same_in_any_order_and_read_twice(query: dict[str, Any], rng: random.Random) -> None:
    once = as_query(query)
    names = list(query)
    rng.shuffle(names)
    shuffled = {
        name: rng.sample(query[name], len(query[name])) if isinstance(query[name], list) else query[name]
        for name in names
    }
    assert list(as_query(shuffled).items()) == list(once.items())
    assert as_query(once) == once


@given(st.sampled_from(FIELDS), st.sampled_from(["lower", "upper", "camel", "kebab"]))
def test_every_spelling_of_a_field_is_one_field(key: str, spelling: str) -> None:
    spelt = {
        "lower": key.lower(),
        "upper": key,
        "camel": _PARAMETERS[key],
        "kebab": key.lower().replace("_", "-"),
    }[spelling]
    assert predicate_key(spelt) == key
    assert parameter(spelt) == _PARAMETERS[key]


def test_gbifs_own_spellings() -> None:
    assert parameter("TAXON_KEY") == "taxonKey"
    assert parameter("recorded_by_id") == "recordedByID"
    assert parameter("gadmLevel0Gid") == "gadmLevel0Gid"
    assert predicate_key("iucnRedListCategory") == "IUCN_RED_LIST_CATEGORY"
    assert parameter("q") == "q"


@pytest.mark.parametrize(
    ("wrong", "right"), [("taxonKye", "taxonKey"), ("contry", "country"), ("mediatypes", "mediaType")]
)
def test_a_misspelt_field_is_refused_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(UnknownField, match=wrong) as refused:
        as_query({wrong: 1})
    assert right in refused.value.next_step


def test_what_has_no_resemblance_gets_an_address() -> None:
    with pytest.raises(UnknownField) as refused:
        parameter("zzzzzz")
    assert "gbif.org" in refused.value.next_step


def test_values_become_texts_and_lists_are_sets() -> None:
    query = as_query({"hasCoordinate": True, "year": 2003, "country": ["SE", "DK", "SE"], "depth": None})
    assert query == {"country": ["DK", "SE"], "hasCoordinate": "true", "year": "2003"}


def test_norway() -> None:
    assert as_query({"country": ["DK", "NO"]}) == {"country": ["DK", "NO"]}
    with pytest.raises(BadRequest, match="Norway"):
        as_query({"country": ["DK", False]})  # as YAML reads [DK, NO]


def test_one_field_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="taxonKey is given twice"):
        as_query({"taxonKey": 1, "TAXON_KEY": 2})
