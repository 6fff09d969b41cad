"""Captions of each kind of row."""

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.exports.captions import CAPTIONS, with_captions, without_author
from gbif_platform.storage.tables import RANKS

PATH = "Animalia Chordata Aves Passeriformes Corvidae"
COLUMNS = (*RANKS, "scientific_name", "vernacular_name")
MAGPIE = dict(
    zip(COLUMNS, [*PATH.split(), "Pica", "Pica hudsonia", "Pica hudsonia (Sabine, 1823)", "magpie"], strict=True)
)


def captions(**changed: str | None) -> dict[str, str | None]:
    con = duckdb.connect()
    row = MAGPIE | changed
    rows = con.from_arrow(pl.DataFrame([row], schema=dict.fromkeys(COLUMNS, pl.String)).to_arrow())
    found = with_captions(con, rows).pl().row(0, named=True)
    assert {name: found.pop(name) for name in COLUMNS} == row
    assert tuple(found) == CAPTIONS
    return {name.removeprefix("caption_"): text for name, text in found.items()}


def test_a_species_with_a_common_name() -> None:
    assert captions() == {
        "scientific": "Pica hudsonia",
        "taxonomic": f"{PATH} Pica hudsonia",
        "common": "magpie",
        "scientific_common": "Pica hudsonia with common name magpie",
        "taxonomic_common": f"{PATH} Pica hudsonia with common name magpie",
    }


@pytest.mark.parametrize("missing", [None, "", " "])
def test_without_a_common_name_the_scientific_name_takes_its_place(missing: str | None) -> None:
    found = captions(vernacular_name=missing)
    assert found["common"] is None
    assert found["scientific_common"] == "Pica hudsonia with common name Pica hudsonia"
    assert found["taxonomic_common"] == f"{PATH} Pica hudsonia with common name Pica hudsonia"


@pytest.mark.parametrize(
    ("changed", "scientific", "taxonomic"),
    [
        ({"species": None, "scientific_name": "Pica Brisson, 1760"}, "Pica", f"{PATH} Pica"),
        ({"species": None, "scientific_name": None}, "Pica", f"{PATH} Pica"),
        ({"species": None, "genus": None, "scientific_name": "Corvidae Leach, 1820"}, "Corvidae", PATH),
        ({"species": None, "genus": None, "scientific_name": None}, "Corvidae", PATH),
        ({"scientific_name": "Pica hudsonia major L."}, "Pica hudsonia major", f"{PATH} Pica hudsonia major"),
        ({"phylum": None, "order": ""}, "Pica hudsonia", "Animalia Aves Corvidae Pica hudsonia"),
        ({"scientific_name": None, "genus": "PICA", "species": " PICA  HUDSONIA "}, "Pica hudsonia", None),
        ({"kingdom": "animalia"}, "Pica hudsonia", f"{PATH} Pica hudsonia"),
    ],
)
def test_the_row_s_own_taxon_ends_the_caption(
    changed: dict[str, str | None], scientific: str, taxonomic: str | None
) -> None:
    found = captions(**changed)
    assert found["scientific"] == scientific
    assert found["taxonomic"] == (taxonomic or f"{PATH} {scientific}")


def test_without_a_taxon_there_is_nothing_but_the_common_name() -> None:
    found = captions(**dict.fromkeys(RANKS), scientific_name=None)
    assert found.pop("common") == "magpie"
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("Rosa canina L.", "Rosa canina"),
        ("Rosa canina de Vries", "Rosa canina"),
        ("Rosa × alba L.", "Rosa × alba"),
        ("× Cuprocyparis leylandii (A.B.Jacks. & Dallim.) Farjon", "× Cuprocyparis leylandii"),
        ("Poa annua var. supina (Schrad.) Rchb.", "Poa annua var. supina"),
        ("Åkesia ångström-ii Öberg, 1901", "Åkesia ångström-ii"),
        ("Tobacco mosaic virus", "Tobacco mosaic virus"),
        ("BOLD:AAA1234", "BOLD:AAA1234"),
        (" ", None),
        (None, None),
    ],
)
def test_authors_are_left_out(name: str | None, bare: str | None) -> None:
    assert duckdb.execute(f"SELECT {without_author('$1::VARCHAR')}", [name]).fetchone() == (bare,)


@settings(max_examples=40, deadline=None)
@given(st.fixed_dictionaries({name: st.none() | st.text(max_size=12) for name in COLUMNS}))
def test_whatever_the_fields_hold_the_captions_agree_with_each_other(row: dict[str, str | None]) -> None:
    found = captions(**{name: text and text.replace("\0", "") for name, text in row.items()})
    name = found["scientific"]
    assert (name is None) == (found["taxonomic"] is None) == (found["scientific_common"] is None)
    if name is not None:
        ending = f" with common name {found['common'] or name}"
        assert found["taxonomic"].endswith(name)
        assert found["scientific_common"] == name + ending
        assert found["taxonomic_common"] == found["taxonomic"] + ending
