"""Each taxon check finds what it is for, tells it once, and lets sound names alone."""

import duckdb
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.taxon_checks import DESCRIPTIONS, taxon_problems
from gbif_platform.storage.tables import RANKS

MACAQUE = ("Animalia", "Chordata", "Mammalia", "Primates", "Cercopithecidae", "Macaca", "Macaca fuscata")
MARMOSET = ("Animalia", "Chordata", "Mammalia", "Primates", "Callitrichidae", "Cebuella", "Cebuella pygmaea")
OENANTHE = ("Animalia", "Chordata", "Aves", "Passeriformes", "Muscicapidae", "Oenanthe", "Oenanthe oenanthe")
DROPWORT = ("Plantae", "Tracheophyta", "Magnoliopsida", "Apiales", "Apiaceae", "Oenanthe", "Oenanthe crocata")
SCHEMA = ("label", "scientific_name", "taxon_rank", "taxon_key", *RANKS)
Row = dict[str, str | None]


def row(lineage: tuple[str | None, ...], **other: str | None) -> Row:
    """A medium of a species, labelled with it; `other` replaces columns."""
    name = lineage[-1]
    return dict(zip(SCHEMA, (name, f"{name} L.", "SPECIES", name, *lineage), strict=True)) | other


def problems(rows: list[Row], label: str = "species", taxa: list[Row] | None = None) -> dict[str, dict[str, str]]:
    """Problem by label by check, where there is any."""
    con = duckdb.connect()
    con.register("rows", pl.DataFrame(rows, schema=dict.fromkeys(SCHEMA, pl.String)).to_arrow())
    if taxa is not None:
        con.register("taxon_rows", pl.DataFrame(taxa).to_arrow())
    known = con.sql("FROM taxon_rows") if taxa is not None else None
    found = taxon_problems(con, con.sql("FROM rows"), label=label, taxa=known)
    assert list(found) == list(DESCRIPTIONS)
    assert all(frame.columns == ["label", "problem", "media"] for frame in found.values())
    return {check: dict(frame.select("label", "problem").iter_rows()) for check, frame in found.items() if len(frame)}


def test_sound_names_pass_at_every_label() -> None:
    rows = [row(MACAQUE), row(MACAQUE), row(MARMOSET), row(OENANTHE), row(MACAQUE, label=None)]
    assert problems(rows) == {}
    assert problems([]) == {}
    for place, rank in enumerate(RANKS):
        at_rank = [row(lineage, label=lineage[place]) for lineage in (MACAQUE, MARMOSET, OENANTHE)]
        assert problems(at_rank, rank) == {}
    assert problems([row(MACAQUE, label="4"), row(MARMOSET, label="5")], "speciesKey") == {}
    assert problems([row(MACAQUE, label="Macaca fuscata (Blyth, 1875)")], "scientificName") == {}
    assert problems([row(MACAQUE, label="adult"), row(MARMOSET, label="adult")], "lifeStage") == {}


def test_a_rank_that_others_have_is_missed() -> None:
    orphan = (*MARMOSET[:3], " ", None, *MARMOSET[5:])
    assert problems([row(MACAQUE), row(orphan)])["ranks_present"] == {"Cebuella pygmaea": "no order, family"}
    no_class = [(*lineage[:2], None, *lineage[3:]) for lineage in (MACAQUE, MARMOSET)]
    assert problems([row(lineage) for lineage in no_class]) == {}
    genus = row((*MARMOSET[:4], None, "Cebuella", None), label="Cebuella", taxon_rank="GENUS")
    found = problems([row(MACAQUE, label="Macaca"), genus], "genus")
    assert found["ranks_present"] == {"Cebuella": "no family"}


def test_homonyms_are_told_by_the_highest_name_in_two_lineages() -> None:
    found = problems([row(OENANTHE), row(DROPWORT), row(MACAQUE)])["one_lineage_per_name"]
    says = "Oenanthe lies in family Apiaceae and Muscicapidae"
    assert found == {"Oenanthe oenanthe": says, "Oenanthe crocata": says}
    both = [row(OENANTHE, label="Oenanthe"), row(DROPWORT, label="Oenanthe")]
    assert problems(both, "genus")["one_lineage_per_name"] == {"Oenanthe": says}
    moved = (*MACAQUE[:4], "Cebidae", *MACAQUE[5:])
    found = problems([row(MACAQUE), row(moved)])["one_lineage_per_name"]
    says = "Macaca lies in family Cebidae and Cercopithecidae"
    assert found == {"Macaca fuscata": says}
    bare = [(kingdom, *[None] * 5, "Aus bus") for kingdom in ("Animalia", "Plantae")]
    found = problems([row(lineage) for lineage in bare])["one_lineage_per_name"]
    assert found == {"Aus bus": "Aus bus lies in kingdom Animalia and Plantae"}


def test_untidy_names_are_told_with_what_is_wrong() -> None:
    untidy = {
        "macaca fuscata": "starts in lower case",
        "Macaca Fuscata": "epithet in capitals",
        "MACACA FUSCATA": "in capitals",
        "Macaca  fuscata": "stray blank",
        "Macaca fus\u200bcata": "control character",
        "Macaca cf. fuscata": "not a definite name",
        "Macaca sp.": "not a definite name",
        "Macaca fuscata?": "not a definite name",
    }
    found = problems([row(MARMOSET), *(row(MACAQUE, label=label) for label in untidy)])["names_tidy"]
    assert set(found) == set(untidy)
    assert all(f"{label}: {problem}" in found[label] for label, problem in untidy.items())
    found = problems([row(MACAQUE), row(MACAQUE, label="Macaca Fuscata")])["names_tidy"]
    assert "also spelt Macaca Fuscata, Macaca fuscata" in found["Macaca fuscata"]
    lower = (*MACAQUE[:4], "cercopithecidae", *MACAQUE[5:])
    assert problems([row(lower)])["names_tidy"] == {"Macaca fuscata": "cercopithecidae: starts in lower case"}
    sound = ("Mentha ×piperita", "× Aus bus", "Coccinella 7-punctata", "Rosa spinosissima")
    assert problems([row((*MACAQUE[:5], "Rosa", name)) for name in sound]) == {}


def test_a_synonym_that_counts_as_another_label_is_left_over() -> None:
    taxon: Row = {
        "scientific_name": "Cebuella pygmea (Spix, 1823)", "accepted_scientific_name": "Cebuella pygmaea (Spix, 1823)",
        "taxon_key": "11", "accepted_taxon_key": "10", "taxonomic_status": "SYNONYM", "species": "Cebuella pygmaea",
        "label": "Cebuella pygmaea",
    }  # fmt: skip
    left_over = row((*MARMOSET[:6], "Cebuella pygmea"))
    rows = [row(MARMOSET), left_over, row(MACAQUE)]
    says = {"Cebuella pygmea": "synonym of Cebuella pygmaea (Spix, 1823)"}
    assert problems(rows, taxa=[taxon]) == {"no_synonyms_left": says}
    assert problems(rows) == {}
    assert problems(rows, taxa=[taxon | {"label": "Cebuella pygmea"}]) == {}  # as identified: so it was asked for
    assert problems(rows, taxa=[taxon | {"taxonomic_status": "ACCEPTED"}]) == {}


def test_labels_of_several_ranks_are_told() -> None:
    genus = row((*MACAQUE[:6], None), label="Macaca L.", scientific_name="Macaca L.", taxon_rank="GENUS")
    rows = [row(lineage, label=f"{lineage[-1]} L.") for lineage in (MACAQUE, MARMOSET, OENANTHE)]
    found = problems([*rows, genus], "scientificName")
    assert found == {"one_rank": {"Macaca L.": "GENUS, while 3 labels are SPECIES"}}
    trinomial = row(MACAQUE, label="Macaca fuscata yakui", scientific_name="Macaca fuscata yakui Kuroda, 1941",
                    taxon_rank="SUBSPECIES")  # fmt: skip
    rows = [row(MACAQUE), row(MARMOSET), trinomial]
    assert problems(rows)["one_rank"] == {"Macaca fuscata yakui": "SUBSPECIES, while 2 labels are SPECIES"}
    assert problems([row(MACAQUE), trinomial | {"label": "Macaca fuscata"}]) == {}  # rolled up


def test_media_are_counted_and_several_problems_are_one_row() -> None:
    con = duckdb.connect()
    bad = (*MACAQUE[:4], "cebidae", "macaca", MACAQUE[6])
    con.register("rows", pl.DataFrame([row(bad), row(bad), row(MARMOSET)]).to_arrow())
    found = taxon_problems(con, con.sql("FROM rows"), label="species")["names_tidy"]
    says = "cebidae: starts in lower case; macaca: starts in lower case"
    assert found.rows() == [("Macaca fuscata", says, 2)]


TEXT = st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["Aus", "Aus bus", "aus", "SPECIES", "GENUS", "Bus"]))


@settings(max_examples=8, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys(SCHEMA, TEXT)), max_size=8), st.sampled_from([*RANKS, "taxonKey"]))
def test_whatever_stands_in_a_catalogue_each_label_at_fault_is_one_of_its_labels(rows: list[Row], label: str) -> None:
    found = problems(rows, label, taxa=[dict.fromkeys(_TAXA) | {"label": "x"}])
    labels = {row["label"] for row in rows} - {None}
    assert all(set(faults) <= labels for faults in found.values())


_TAXA = (
    "scientific_name",
    "accepted_scientific_name",
    "taxon_key",
    "accepted_taxon_key",
    "taxonomic_status",
    "species",
)
