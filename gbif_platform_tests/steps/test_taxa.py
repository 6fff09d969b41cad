"""Step `taxa` over the scenario's archive, and over what the sandbox's downloads say of their checklist."""

import json
from pathlib import Path

import polars as pl
import pytest

from gbif_platform.dataset import parse_dataset
from gbif_platform.gbif.checklists import COL_XR
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import Snapshot, add_snapshot, find_snapshot, record
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.taxa import checklist_of, taxa

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: monkeys
  source: {source}
  label: {label}
  taxonomy: {taxonomy}
"""


def dataset_run(run: Run, **changes: str) -> Run:
    """The same run with other words in the dataset file."""
    said = {"source": json.dumps({"archive": run.dataset.source.archive}), "label": "species", "taxonomy": "{}"}
    home = run.platform.settings.home
    return Run(run.platform, parse_dataset(FILE.format(**said | changes), home / "monkeys.yaml"), run.snapshot)


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("home")
    platform = Platform(Settings(home=home))
    source = json.dumps({"archive": str(shared / "scenario/dev/archive.zip")})
    dataset = parse_dataset(FILE.format(source=source, label="species", taxonomy="{}"), home / "monkeys.yaml")
    made = Run(platform, dataset, add_snapshot(platform, dataset)[0])
    occurrences(made)
    media_urls(made)
    return made


def checks(report: Report) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


def test_the_scenarios_taxa_are_listed_with_their_labels(run: Run, shared: Path) -> None:
    report = taxa(run)
    assert all(check.passed for check in report.checks), report.checks
    truth = pl.read_csv(shared / "scenario/dev/occurrences_truth.csv", infer_schema=False)
    shown = run.platform.lake.frame(
        "SELECT gbif_id, o.species FROM occurrences o SEMI JOIN media_urls USING (dataset, snapshot, gbif_id)"
    ).join(truth, left_on="gbif_id", right_on="gbifID", suffix="_true")
    assert report.numbers["labels"] == shown["species_true"].drop_nulls().n_unique()
    rows = run.platform.lake.frame("SELECT * FROM taxa")
    assert int(rows["media"].sum()) == run.count("media_urls")
    assert int(rows["occurrences"].sum()) == len(shown)
    unlabelled = rows.filter(pl.col("label").is_null())
    assert int(unlabelled["occurrences"].sum()) == shown.filter(pl.col("trap") == "genus only").height
    assert unlabelled["decision"].unique().to_list() == ["identified to GENUS only: no label"]
    assert report.numbers["without_label"] == len(unlabelled)
    assert report.numbers["synonyms"] > 0
    assert report.numbers["subspecies"] == rows.filter(pl.col("decision").str.starts_with("subspecies of")).height > 0
    lineage = report.tables["lineage"].filter(pl.col("label") == "Semnopithecus johnii").row(0, named=True)
    assert (lineage["genus"], lineage["species"]) == ("Semnopithecus", "Semnopithecus johnii")
    assert [name for name in report.pictures if name.startswith("media_by_")]
    assert report.texts["checklist"] == "GBIF's default at the time"


def test_nothing_is_written_again_until_a_policy_the_label_or_the_names_file_changes(run: Run) -> None:
    taxa(run)
    assert not taxa(run).written
    names = run.platform.settings.home / "names.csv"
    names.write_text("scientificName,vernacularName\nMacaca fuscata,snow monkey\n")
    with_names = dataset_run(run, taxonomy="{vernacular_names: names.csv}")
    assert taxa(with_names).written
    assert not taxa(with_names).written
    lake = run.platform.lake
    given = lake.frame("SELECT DISTINCT species FROM taxa WHERE vernacular_name = 'snow monkey'")
    assert given["species"].to_list() == ["Macaca fuscata"]
    names.write_text("scientificName,vernacularName\nMacaca fuscata,Japanese macaque\n")
    assert taxa(with_names).written
    kept = taxa(dataset_run(run, taxonomy="{subspecies: keep, synonyms: leave_out}"))
    assert kept.written
    decisions = lake.frame("SELECT decision, label FROM taxa WHERE taxonomic_status = 'SYNONYM'")
    assert set(decisions.iter_rows()) == {("left out: synonym", None)}


def test_it_warns_where_most_media_have_no_label(run: Run) -> None:
    missing = checks(taxa(dataset_run(run, label="infraspecificEpithet")))["labels_present"]
    assert missing.passed
    assert "no taxon" in missing.description
    lake = run.platform.lake
    with lake.transaction("test", "no names") as con:
        con.execute("UPDATE lake.taxa SET label = NULL")
    warned = checks(taxa(dataset_run(run)))["labels_present"]
    assert warned.passed  # written anew, as the label was another one
    with lake.transaction("test", "no names") as con:
        con.execute("UPDATE lake.taxa SET label = NULL")
    report = taxa(dataset_run(run))
    warned = checks(report)["labels_present"]
    assert not warned.passed
    assert warned.only_warn
    assert "lineage" not in report.tables


def test_the_checklist_is_the_requests_then_the_dataset_files(run: Run) -> None:
    source = "{gbif_download: {doi: 10.15468/dl.abcdef, checklist_key: col-xr}}"
    asked = dataset_run(run, source=source)
    assert checklist_of(asked) == COL_XR
    metadata = json.dumps({"request": {"checklistKey": "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"}})
    known = find_snapshot(run.platform, run.dataset, run.snapshot)
    platform = run.platform
    record(platform, Snapshot("monkeys", "other", known.kind, known.reference, known.archive, metadata=metadata))
    assert checklist_of(Run(platform, asked.dataset, "other")) == "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"
    assert checklist_of(run) == ""
