"""Predicates: what our filters mean to GBIF, and what is refused before GBIF sees it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.checklists import BACKBONE, COL_XR
from gbif_platform.gbif.errors import UnknownField, WrongChecklist
from gbif_platform.gbif.predicates import InvalidPredicate, check_predicate, from_query, normal_form, place_of


def leaf(key: str = "TAXON_KEY", value: Any = "1", **more: Any) -> dict[str, Any]:
    return {"type": "equals", "key": key, "value": value, **more}


@pytest.mark.parametrize(
    ("query", "predicate"),
    [
        ({"taxonKey": 212}, leaf(value="212")),
        ({"taxon_key": [212]}, leaf(value="212")),
        ({"TAXON_KEY": [359, 212]}, {"type": "in", "key": "TAXON_KEY", "values": ["212", "359"]}),
        ({"hasCoordinate": True}, leaf("HAS_COORDINATE", "true")),
        ({"mediaType": "*"}, {"type": "isNotNull", "parameter": "MEDIA_TYPE"}),
        ({"year": "1990,*"}, {"type": "greaterThanOrEquals", "key": "YEAR", "value": "1990"}),
        ({"depth": "*,-5.5"}, {"type": "lessThanOrEquals", "key": "DEPTH", "value": "-5.5"}),
        ({"recordedBy": "Onym, Ann"}, leaf("RECORDED_BY", "Onym, Ann")),
        ({"geometry": "POLYGON((0 0,1 0,1 1,0 0))"}, {"type": "within", "geometry": "POLYGON((0 0,1 0,1 1,0 0))"}),
        (
            {"geoDistance": "55.6, -12.5,5km"},
            {"type": "geoDistance", "latitude": "55.6", "longitude": "-12.5", "distance": "5km"},
        ),
        (
            {"year": "1990,2000", "country": "DK"},
            {
                "type": "and",
                "predicates": [
                    leaf("COUNTRY", "DK"),
                    {"type": "greaterThanOrEquals", "key": "YEAR", "value": "1990"},
                    {"type": "lessThanOrEquals", "key": "YEAR", "value": "2000"},
                ],
            },
        ),
        (
            {"year": ["2005", "1990,2000"]},
            {
                "type": "or",
                "predicates": [
                    {
                        "type": "and",
                        "predicates": [
                            {"type": "greaterThanOrEquals", "key": "YEAR", "value": "1990"},
                            {"type": "lessThanOrEquals", "key": "YEAR", "value": "2000"},
                        ],
                    },
                    leaf("YEAR", "2005"),
                ],
            },
        ),
    ],
)
def test_each_kind_of_filter_becomes_its_predicate(query: dict[str, Any], predicate: dict[str, Any]) -> None:
    assert from_query(query) == predicate


def test_the_checklist_stands_in_each_taxonomic_part() -> None:
    parts = from_query({"taxonKey": ["6W3C4"], "country": "DK", "taxonomicStatus": "ACCEPTED"}, COL_XR)["predicates"]
    assert {part["key"]: part.get("checklistKey") for part in parts} == {
        "COUNTRY": None,
        "TAXONOMIC_STATUS": COL_XR,
        "TAXON_KEY": COL_XR,
    }
    assert from_query({"taxonKey": "6W3C4", "checklistKey": COL_XR}) == leaf(value="6W3C4", checklistKey=COL_XR)


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ({"taxonkeys": 1}, UnknownField, "taxonKey"),
        ({"q": "frog"}, UnknownField, "'q'"),
        ({}, InvalidPredicate, "every occurrence"),
        ({"country": []}, InvalidPredicate, "country"),
        ({"country": ""}, InvalidPredicate, r"predicate\.value"),
        ({"year": "1990,soon"}, InvalidPredicate, "year"),
        ({"country": "DK", "COUNTRY": "SE"}, InvalidPredicate, "twice"),
        ({"geometry": "POLYGON((0 0,1 0"}, InvalidPredicate, r"predicate\.geometry"),
        ({"geoDistance": "95,0,5km"}, InvalidPredicate, "latitude"),
        ({"geoDistance": "5,0"}, InvalidPredicate, "geoDistance"),
        ({"geoDistance": "5,0,1km,7"}, InvalidPredicate, "geoDistance"),
        ({"taxonKey": "6W3C4"}, WrongChecklist, "6W3C4"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(query: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        from_query(query)


def test_numeric_keys_with_col_xr_are_refused_with_their_place() -> None:
    wanted = {"type": "and", "predicates": [leaf("COUNTRY", "DK"), leaf(value="212")]}
    check_predicate(wanted, BACKBONE)
    with pytest.raises(WrongChecklist, match=r"predicate\.predicates\[1\]"):
        check_predicate(wanted, COL_XR)
    mixed = {"type": "or", "predicates": [leaf(value="212", checklistKey=BACKBONE), leaf(value="6W3C4")]}
    check_predicate(mixed, COL_XR)


@pytest.mark.parametrize(
    ("predicate", "place"),
    [
        ([], "predicate:"),
        ({"type": "equal"}, r"predicate\.type"),
        ({"type": "and", "predicates": []}, r"predicate\.predicates"),
        ({"type": "not", "predicate": {"type": "or", "predicates": [7]}}, r"predicate\.predicate\.predicates\[0\]"),
        (leaf("country", "DK"), r"predicate\.key.*COUNTRY"),
        (leaf("COUNTRY", None), r"predicate\.value"),
        (leaf("COUNTRY", "DK", valeu=1), r"predicate\.valeu"),
        ({"type": "in", "key": "COUNTRY", "values": ["DK", {}]}, r"predicate\.values\[1\]"),
        ({"type": "isNull", "key": "COUNTRY"}, r"predicate\.key"),
        ({"type": "within", "geometry": "POLYGON((0 0,1 0)"}, r"predicate\.geometry"),
    ],
)
def test_a_wrong_shape_is_named_by_its_place(predicate: Any, place: str) -> None:
    with pytest.raises(InvalidPredicate, match=place):
        check_predicate(predicate)


def test_gbifs_limits_are_known_before_it_is_asked() -> None:
    check_predicate({"type": "in", "key": "TAXON_KEY", "values": list(range(101_000))})
    with pytest.raises(InvalidPredicate, match="101,001"):
        check_predicate({"type": "in", "key": "TAXON_KEY", "values": list(range(101_001))})
    with pytest.raises(InvalidPredicate, match="10,001 polygon"):
        check_predicate({"type": "within", "geometry": f"POLYGON (({', '.join(['1.5 -2'] * 10_001)}))"})


def test_endless_nesting_is_refused() -> None:
    deep: dict[str, Any] = leaf()
    for _ in range(500):
        deep = {"type": "not", "predicate": deep}
    with pytest.raises(InvalidPredicate, match="deep"):
        check_predicate(deep)


def test_what_gbif_has_accepted_passes(shared: Path) -> None:
    requests = [
        json.loads(file.read_text())["response"]["body"]
        for file in sorted((shared / "api/dev/download_lifecycle").glob("rgbif__occ_download_[1-4]__001*"))
    ]
    assert len(requests) == 4
    for said in requests:
        check_predicate(said["request"]["predicate"], said["request"].get("checklistKey"))


def test_the_place_that_gbif_complains_about() -> None:
    wanted = {
        "type": "and",
        "predicates": [
            leaf("COUNTRY", "DK"),
            {"type": "in", "key": "CONTINENT", "values": ["EUROPE", "asia"]},
            leaf("YEAR", "D"),
        ],
    }
    assert place_of(wanted, "Cannot parse asia into a known Continent") == "predicate.predicates[1].values[1]"
    assert place_of(wanted, "Something else") is None


# Properties -----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=8).filter(
    lambda text: text.strip() and text != "*"
)
VALUES = st.one_of(TEXT, st.integers(), st.booleans(), st.lists(st.one_of(TEXT, st.integers()), min_size=1, max_size=4))
QUERIES = st.dictionaries(
    st.sampled_from(["country", "recordedBy", "locality", "sex", "stateProvince", "occurrenceId"]), VALUES, min_size=1
)


@given(QUERIES, st.randoms(use_true_random=False))
def test_the_order_and_the_spelling_of_fields_do_not_matter(query: dict[str, Any], rng: Any) -> None:
    items = list(query.items())
    rng.shuffle(items)
    spelt = {rng.choice([name, name.upper(), name.lower()]): value for name, value in items}
    predicate = from_query(query)
    assert json.dumps(from_query(spelt)) == json.dumps(predicate)
    check_predicate(predicate)


@given(QUERIES)
def test_the_defaults_that_gbif_adds_do_not_change_what_it_means(query: dict[str, Any]) -> None:
    predicate = from_query(query)

    def as_gbif_says(part: dict[str, Any]) -> dict[str, Any]:
        if "predicates" in part:
            return {**part, "predicates": [as_gbif_says(one) for one in reversed(part["predicates"])]}
        return {**part, "matchCase": False, "checklistKey": None}

    assert normal_form(as_gbif_says(predicate)) == normal_form(predicate)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["and", "in"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "key", "value", "values", "predicate", "predicates", "geometry"]), inner
        ),
    ),
)


@given(JSON)
def test_any_json_is_a_predicate_or_refused(predicate: Any) -> None:
    try:
        check_predicate(predicate)
    except (InvalidPredicate, UnknownField, WrongChecklist):
        return
    normal_form(predicate)
