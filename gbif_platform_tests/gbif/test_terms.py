import re

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.terms import TYPES, column_names, snake_case


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("http://rs.tdwg.org/dwc/terms/decimalLatitude", "decimal_latitude"),
        ("gbifID", "gbif_id"),
        ("occurrenceID", "occurrence_id"),
        ("class", "class"),
        ("level0Gid", "level0_gid"),
        ("iucnRedListCategory", "iucn_red_list_category"),
        ("DNASequence", "dna_sequence"),
        ("recordedByID", "recorded_by_id"),
        ("associatedOccurrenceIDs", "associated_occurrence_ids"),
        ("footprintWKT", "footprint_wkt"),
        ("accessURI", "access_uri"),
        ("coordinateUncertaintyInMeters", "coordinate_uncertainty_in_meters"),
        ("http://rs.tdwg.org/dwc/terms/", "terms"),
        ("dc:source", "source"),
        ("datasetkey", "dataset_key"),  # GBIF's older SIMPLE_CSV and its snapshots write all in lower case
        ("InstitutionCode", "institution_code"),
        ("学名", "column"),
    ],
)
def test_names_are_spelt_as_in_darwin_core(term: str, name: str) -> None:
    assert snake_case(term) == name


@given(st.text())
def test_any_text_becomes_a_plain_stable_name(text: str) -> None:
    name = snake_case(text)
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name)
    assert snake_case(name) == name


@given(st.lists(st.sampled_from(["http://a/type", "http://b#type", "c:type", "Type", "type", "http://a/b_type", "x"])))
def test_names_in_one_file_are_distinct_and_stay_in_order(terms: list[str]) -> None:
    names = column_names(terms, taken=["x"])
    assert len({*names, "x"}) == len(terms) + 1
    assert all(snake_case(term) in name for term, name in zip(terms, names, strict=True))


def test_the_later_of_two_equal_terms_is_prefixed_with_its_vocabulary() -> None:
    terms = ["http://purl.org/dc/terms/type", "http://purl.org/dc/elements/1.1/type", "http://example.org/terms/type"]
    assert column_names(terms) == ["type", "dc_type", "terms_type"]


def test_types_are_types_of_duckdb_and_keys_have_none() -> None:
    for name, duckdb_type in TYPES.items():
        duckdb.sql(f"SELECT NULL::{duckdb_type} AS {name}")
    assert not {"gbif_id", "taxon_key", "species_key", "dataset_key", "event_date"} & TYPES.keys()
