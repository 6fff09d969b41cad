"""The label of an occurrence under every policy: by hand-made records, real archives, and the scenario's truth."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.spec import Taxonomy
from gbif_platform.curation.taxa import taxa
from gbif_platform.curation.taxonomy import UnknownLabel, binomial, labelling, trinomial
from gbif_platform.curation.vernacular_names import BadVernacularNames
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.terms import snake_case

COLUMNS = ("gbif_id", "scientific_name", "taxon_rank", "taxonomic_status", "taxon_key", "accepted_taxon_key",
           "accepted_scientific_name", "genus", "species", "species_key", "infraspecific_epithet")  # fmt: skip
Record = tuple[str | None, ...]
RECORDS: list[Record] = [
    ("1", "Cebuella pygmaea (Spix, 1823)", "SPECIES", "ACCEPTED", "10", "10", "Cebuella pygmaea (Spix, 1823)",
     "Cebuella", "Cebuella pygmaea", "10", None),
    ("2", "Cebuella pygmea (Spix, 1823)", "SPECIES", "SYNONYM", "11", "10", "Cebuella pygmaea (Spix, 1823)",
     "Cebuella", "Cebuella pygmaea", "10", None),
    ("3", "Cebuella pygmaea niveiventris Lönnberg, 1940", "SUBSPECIES", "ACCEPTED", "12", "12",
     "Cebuella pygmaea niveiventris Lönnberg, 1940", "Cebuella", "Cebuella pygmaea", "10", "niveiventris"),
    ("4", "Byrsocarpus coccineus Thonn.", "SPECIES", "SYNONYM", "20", "22", "Rourea coccinea subsp. coccinea",
     "Rourea", "Rourea coccinea", "21", None),
    ("5", "Larus argentatus smithsonianus Coues, 1862", "SUBSPECIES", "SYNONYM", "30", "31",
     "Larus smithsonianus Coues, 1862", "Larus", "Larus smithsonianus", "31", "smithsonianus"),
    ("6", "Mentha × piperita L.", "SPECIES", "ACCEPTED", "40", "40", "Mentha × piperita L.", "Mentha",
     "Mentha piperita", "40", None),
    ("7", "Saimiri Voigt, 1831", "GENUS", "ACCEPTED", "50", "50", "Saimiri Voigt, 1831", "Saimiri", None, None, None),
    ("8", "BOLD:AAF9225", "UNRANKED", "ACCEPTED", "60", "60", "BOLD:AAF9225", "Cebuella", "Cebuella pygmaea", "10",
     None),
]  # fmt: skip
DEFAULT = Taxonomy()
AS_IDENTIFIED = Taxonomy(synonyms="as_identified")
SPECIES = {row[0]: row[8] for row in RECORDS}


def labels(
    label: str, taxonomy: Taxonomy = DEFAULT, more: Sequence[Record] = (), drop: Sequence[str] = ()
) -> dict[str, str | None]:
    """Label by gbif id, of the occurrences that are not left out."""
    con = duckdb.connect()
    frame = pl.DataFrame([*RECORDS, *more], schema=dict.fromkeys(COLUMNS, pl.String), orient="row").drop(drop)
    con.register("occurrences", frame.to_arrow())
    return labelled(con, label, taxonomy)


def labelled(con: duckdb.DuckDBPyConnection, label: str, taxonomy: Taxonomy) -> dict[str, str | None]:
    found = labelling(con, con.sql("FROM occurrences"), label, taxonomy)
    out = " OR ".join(one.fails for one in found.conditions) or "false"
    return dict(con.sql(f"SELECT gbif_id, {found.sql} FROM occurrences o WHERE NOT ({out})").fetchall())


def test_by_default_a_label_species_is_the_accepted_species_or_none() -> None:
    assert labels("species") == SPECIES
    assert labels("http://rs.gbif.org/terms/1.0/speciesKey") == {row[0]: row[9] for row in RECORDS}


def test_blank_values_are_no_label() -> None:
    blank = ("9", *[" \t"] * 10)
    for label in ("species", "genus", "scientificName", "taxonKey"):
        assert labels(label, more=[blank])["9"] is None


def test_a_synonym_gets_the_accepted_name_or_its_own() -> None:
    assert labels("scientificName")["2"] == "Cebuella pygmaea (Spix, 1823)"
    assert labels("taxonKey")["2"] == "10"
    assert labels("species", AS_IDENTIFIED) == SPECIES | {
        "2": "Cebuella pygmea",
        "4": "Byrsocarpus coccineus",
        "5": "Larus argentatus",
    }
    assert labels("scientificName", AS_IDENTIFIED)["2"] == "Cebuella pygmea (Spix, 1823)"
    assert labels("taxonKey", AS_IDENTIFIED)["2"] == "11"
    assert labels("genus", AS_IDENTIFIED)["4"] == "Rourea"
    assert set(labels("species", Taxonomy(synonyms="leave_out"))) == {"1", "3", "6", "7", "8"}


def test_what_lies_below_the_species_is_rolled_up_to_the_very_label_of_its_species() -> None:
    assert {labels("scientificName")[gbif_id] for gbif_id in "1238"} == {"Cebuella pygmaea (Spix, 1823)"}
    assert {labels("taxonKey")[gbif_id] for gbif_id in "1238"} == {"10"}
    accepted = labels("acceptedScientificName")
    assert accepted["4"] == "Rourea coccinea"  # no record names the species with its author
    assert accepted["5"] == "Larus smithsonianus Coues, 1862"
    assert labels("acceptedTaxonKey")["4"] == "21"


def test_subspecies_are_labels_of_their_own_or_left_out() -> None:
    kept = labels("species", Taxonomy(subspecies="keep"))
    assert kept == SPECIES | {
        "3": "Cebuella pygmaea niveiventris",
        "4": "Rourea coccinea coccinea",  # its accepted name is a subspecies
    }
    both = labels("species", Taxonomy(subspecies="keep", synonyms="as_identified"))
    assert (both["4"], both["5"]) == ("Byrsocarpus coccineus", "Larus argentatus smithsonianus")
    assert labels("taxonKey", Taxonomy(subspecies="keep"))["3"] == "12"
    assert set(labels("species", Taxonomy(subspecies="leave_out"))) == {"1", "2", "5", "6", "7", "8"}


@pytest.mark.parametrize("name", ["Mentha ×piperita L.", "× Aus bus", "x Aus bus", "Anas acuta x Anas crecca"])
def test_hybrids_are_kept_or_left_out(name: str) -> None:
    assert "6" in labels("species")
    row: Record = ("9", name, "SPECIES", *RECORDS[0][3:])
    assert set(labels("species", Taxonomy(hybrids="leave_out"), [row])) == {"1", "2", "3", "4", "5", "7", "8"}
    row = ("9", "Salix alba", "NOTHOSUBSPECIES", *RECORDS[0][3:])
    assert "9" not in labels("species", Taxonomy(hybrids="leave_out"), [row])
    assert "9" not in labels("species", Taxonomy(subspecies="leave_out"), [row])
    no_hybrid = ("9", "Xerus maximus", *RECORDS[0][2:])
    assert "9" in labels("species", Taxonomy(hybrids="leave_out"), [no_hybrid])


def test_without_the_terms_the_default_does_what_it_can_and_a_policy_says_what_it_needs() -> None:
    known = tuple(name for name in COLUMNS if name not in ("gbif_id", "species"))
    assert labels("species", drop=known) == SPECIES
    assert labels("scientificName", drop=known[1:]) == {row[0]: row[1] for row in RECORDS}
    assert set(labels("species", Taxonomy(synonyms="leave_out"), drop=["taxonomic_status"])) == {
        "1",
        "3",
        "6",
        "7",
        "8",
    }
    for key, value, term in (
        ("synonyms", "leave_out", "taxonomicStatus"),
        ("synonyms", "as_identified", "taxonomicStatus"),
        ("subspecies", "keep", "taxonRank"),
        ("subspecies", "leave_out", "infraspecificEpithet"),
    ):
        with pytest.raises(PlatformError, match=f"taxonomy.{key}: {value} needs .*{term}"):
            labels("species", Taxonomy.model_validate({key: value}), drop=known)
    with pytest.raises(PlatformError, match=r"taxonomy\.hybrids"):
        labels("genus", Taxonomy(hybrids="leave_out"), drop=["species", "scientific_name"])
    with pytest.raises(UnknownLabel, match=r"there are: .*scientific_name"):
        labels("family")


WORD = st.text("abcdefghijklmnopqrstuvwxyzäëï-", min_size=3, max_size=12).filter(lambda word: word.strip("-") == word)
AUTHOR = st.sampled_from(["", "L.", "(Spix, 1823)", "Hook.f. ex Benth.", "(L.) DC. & Kük., 1901"])
MARKER = st.sampled_from(["", "subsp. ", "var. ", "f. "])
GAP = st.sampled_from([" ", "  ", " (Sub) "])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(WORD, WORD, WORD, AUTHOR, MARKER, GAP), min_size=1, max_size=30))
def test_names_are_taken_apart_whatever_the_author(parts: list[tuple[str, ...]]) -> None:
    rows = [
        (f"{genus.capitalize()}{gap}{epithet} {end}".strip(), f"{genus.capitalize()} {epithet}", third)
        for genus, epithet, name, author, marker, gap in parts
        for end, third in ((author, None), (f"{marker}{name} {author}", name))
    ]
    names = pl.DataFrame(rows, schema=["name", "two", "third"], orient="row").to_arrow()
    con = duckdb.connect()
    con.register("names", names)
    wrong = con.sql(f"""
        SELECT * FROM names WHERE {binomial("name")} IS DISTINCT FROM two
        OR {trinomial("name")} IS DISTINCT FROM two || ' ' || third""").fetchall()
    assert wrong == []


@pytest.fixture(scope="module")
def scenario(shared: Path) -> tuple[duckdb.DuckDBPyConnection, pl.DataFrame]:
    folder = shared / "scenario/dev"
    with zipfile.ZipFile(folder / "archive.zip") as archive:
        core = archive.read("occurrence.txt")
    rows = pl.read_csv(core, separator="\t", quote_char=None, infer_schema=False)
    con = duckdb.connect()
    con.register("occurrences", rows.rename(snake_case).to_arrow())
    return con, pl.read_csv(folder / "occurrences_truth.csv", infer_schema=False)


Scenario = tuple[duckdb.DuckDBPyConnection, pl.DataFrame]


def test_the_scenarios_labels_are_its_true_species(scenario: Scenario) -> None:
    con, truth = scenario
    assert labelled(con, "species", Taxonomy()) == dict(truth.select("gbifID", "species").iter_rows())


def test_the_scenarios_synonyms_and_subspecies_follow_each_policy(scenario: Scenario) -> None:
    con, truth = scenario
    species = dict(truth.select("gbifID", "species").iter_rows())
    trapped = {trap: set(rows["gbifID"]) for (trap,), rows in truth.group_by("trap")}
    kept = labelled(con, "species", Taxonomy(subspecies="keep"))
    assert {key for key in kept if kept[key] != species[key]} == trapped["subspecies"]
    assert all(kept[key] == f"{species[key]} {str(species[key]).split()[1]}" for key in trapped["subspecies"])
    left = labelled(con, "species", Taxonomy(subspecies="leave_out"))
    assert set(species) - set(left) == trapped["subspecies"]
    own = labelled(con, "species", Taxonomy(synonyms="as_identified"))
    other = {key for key in own if own[key] != species[key]}
    assert trapped["synonym"] < other
    assert {own[key] for key in other - trapped["synonym"]} == {"Cebuella pygmea", "Trachypithecus johnii"}
    assert not other & set(labelled(con, "species", Taxonomy(synonyms="leave_out")))
    assert labelled(con, "species", Taxonomy(hybrids="leave_out")) == species


def taxa_of(label: str, taxonomy: Taxonomy, media: list[str]) -> dict[str, dict[str, object]]:
    con = duckdb.connect()
    frame = pl.DataFrame(RECORDS, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")
    names = {"1": "pygmy marmoset", "2": "dwarf monkey", "6": "peppermint"}
    frame = frame.with_columns(vernacular_name=pl.col("gbif_id").replace_strict(names, default=None))
    con.register("o", frame.to_arrow())
    con.register("m", pl.DataFrame({"gbif_id": media}).to_arrow())
    rows = taxa(con, con.sql("FROM o"), con.sql("FROM m"), label=label, taxonomy=taxonomy, checklist_key="uuid")
    return {row["scientific_name"]: row for row in rows.iter_rows(named=True)}


def test_each_taxon_of_a_medium_has_a_row_with_the_decision_in_words() -> None:
    rows = taxa_of("species", Taxonomy(), ["1", "1", "2", "3", "6", "7", "8"])
    assert {name: (row["label"], row["decision"], row["media"]) for name, row in rows.items()} == {
        "Cebuella pygmaea (Spix, 1823)": ("Cebuella pygmaea", "as it is", 2),
        "Cebuella pygmea (Spix, 1823)": ("Cebuella pygmaea", "synonym of Cebuella pygmaea (Spix, 1823)", 1),
        "Cebuella pygmaea niveiventris Lönnberg, 1940": ("Cebuella pygmaea", "subspecies of Cebuella pygmaea", 1),
        "Mentha × piperita L.": ("Mentha piperita", "hybrid", 1),
        "Saimiri Voigt, 1831": (None, "identified to GENUS only: no label", 1),
        "BOLD:AAF9225": ("Cebuella pygmaea", "unranked, of Cebuella pygmaea", 1),
    }
    assert next(iter(rows)) == "Cebuella pygmaea (Spix, 1823)"
    assert {row["checklist_key"] for row in rows.values()} == {"uuid"}
    assert rows["Mentha × piperita L."]["hybrid"]
    assert rows["Mentha × piperita L."]["vernacular_name"] == "peppermint"


def test_what_is_left_out_has_no_label_and_a_label_that_is_no_taxon_has_none_at_all() -> None:
    rows = taxa_of("species", Taxonomy(synonyms="leave_out", hybrids="leave_out"), ["2", "6"])
    assert [(row["label"], row["decision"]) for row in rows.values()] == [
        (None, "left out: synonym"),
        (None, "left out: hybrid"),
    ]
    assert {(row["label"], row["decision"]) for row in taxa_of("taxonRank", Taxonomy(), ["1", "7"]).values()} == {
        (None, "as it is")
    }


def test_vernacular_names_come_from_the_users_file_first(tmp_path: Path) -> None:
    file = tmp_path / "names.csv"
    taxonomy = Taxonomy(vernacular_names=str(file))
    file.write_text(
        'vernacularName,scientificName,note\n"marmoset, pygmy",Cebuella pygmaea,\nmonkey,Saimiri  Voigt,x\n'
    )
    rows = taxa_of("species", taxonomy, ["1", "2", "6"])
    assert [row["vernacular_name"] for row in rows.values()] == ["marmoset, pygmy", "marmoset, pygmy", "peppermint"]
    for content, message in (
        ("scientificName\nAus bus\n", ":1: no column vernacularname"),
        ("scientificName,vernacularName\nAus bus,a,b\n", ":2: 3 values for 2 columns"),
        ("scientificName,vernacularName\n\nAus bus,\n", ":3: a row needs both"),
        ("scientificName,vernacularName\nAus bus,a\nAus bus,b\n", ":3: Aus bus is 'b' here and 'a' in line 2"),
        ('scientificName,vernacularName\nAus bus,"a\n', ":2: unexpected end of data"),
    ):
        file.write_text(content)
        with pytest.raises(BadVernacularNames, match=message):
            taxa_of("species", taxonomy, ["1"])
    file.write_bytes(b"scientificName,vernacularName\nAus bus,\xe9\n")
    with pytest.raises(BadVernacularNames, match=":2: not UTF-8"):
        taxa_of("species", taxonomy, ["1"])
    file.unlink()
    with pytest.raises(BadVernacularNames, match=r"taxonomy\.vernacular_names: cannot read"):
        taxa_of("species", taxonomy, ["1"])
