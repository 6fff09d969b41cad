"""Taxon keys beside their checklist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.checklists import BACKBONE, COL_XR, TAXON_FIELDS, check_taxon_keys, checklist_key
from gbif_platform.gbif.errors import WrongChecklist

OTHER = "2d59e5db-57ad-41ff-97d6-11f5fb264527"
COL_KEYS = st.from_regex(r"\A[0-9A-Z]*[A-Z][0-9A-Z]*\Z")
FIELDS = st.sampled_from(sorted(TAXON_FIELDS))


def test_a_checklist_has_a_name_or_a_key() -> None:
    assert checklist_key("backbone") == BACKBONE
    assert checklist_key("COL-XR") == COL_XR
    assert checklist_key(OTHER.upper()) == OTHER
    assert checklist_key(None) is None


@pytest.mark.parametrize("wrong", ["", "colxr", "212", OTHER[:-1], f"{OTHER}/../x"])
def test_what_names_no_checklist_is_refused(wrong: str) -> None:
    with pytest.raises(WrongChecklist) as refused:
        checklist_key(wrong)
    assert "col-xr" in refused.value.next_step


@given(FIELDS, st.integers(min_value=0), st.booleans())
def test_a_number_is_no_key_of_col_xr(field: str, key: int, listed: bool) -> None:
    check_taxon_keys({field: [key] if listed else key}, None)
    check_taxon_keys({field: str(key)}, BACKBONE)
    check_taxon_keys({field: str(key)}, OTHER)  # of which we know nothing
    with pytest.raises(WrongChecklist, match=f"{field} {key} "):
        check_taxon_keys({field: ["39N5S", key] if listed else str(key)}, COL_XR)


@given(FIELDS, COL_KEYS)
def test_a_key_with_letters_is_none_of_the_backbone(field: str, key: str) -> None:
    check_taxon_keys({field: key}, COL_XR)
    for backbone in (None, BACKBONE):
        with pytest.raises(WrongChecklist) as refused:
            check_taxon_keys({field: key}, backbone)
        assert "col-xr" in refused.value.next_step


def test_other_fields_hold_what_they_like() -> None:
    check_taxon_keys({"datasetKey": "212", "catalogNumber": 212, "taxonId": "212"}, COL_XR)
