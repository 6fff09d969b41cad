"""Step `occurrences` on archives of several kinds."""

from pathlib import Path

import pytest

from gbif_platform.dataset import parse_dataset
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.media_urls import NoMultimedia, media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Run
from gbif_platform_tests.gbif.archives import DWC, GBIF, OCCURRENCE, meta, pack, section

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: plants
  source: {{archive: {archive}, verbatim: {verbatim}}}
  label: species
"""
FIELDS = [GBIF + "gbifID", DWC + "decimalLatitude"]


def run_of(home: Path, archive: Path, *, verbatim: bool = False) -> Run:
    platform = Platform(Settings(home=home))
    dataset = parse_dataset(FILE.format(archive=archive, verbatim=str(verbatim).lower()), home / "plants.yaml")
    return Run(platform, dataset, add_snapshot(platform, dataset)[0])


def archive_with_verbatim(folder: Path) -> Path:
    descriptor = meta(
        section("core", "occurrence.txt", FIELDS), section("extension", "verbatim.txt", FIELDS, OCCURRENCE)
    )
    occurrence, verbatim = "x\n1\t55.5\n2\t\n", "x\n1\t55°30'\n2\n"
    files = {"meta.xml": descriptor, "occurrence.txt": occurrence, "verbatim.txt": verbatim}
    return pack(folder / "plants.zip", files)


def test_the_rows_as_published_are_kept_on_request(tmp_path: Path) -> None:
    archive = archive_with_verbatim(tmp_path)
    run = run_of(tmp_path, archive, verbatim=True)
    report = occurrences(run)
    lake = run.platform.lake
    kept = lake.frame("SELECT gbif_id, row_ref, decimal_latitude FROM verbatim")
    assert kept.rows() == [("1", "verbatim.txt:2", "55°30'")]
    assert report.numbers["verbatim_rows"] == 1
    assert lake.frame("SELECT row_ref, reason FROM quarantine").rows() == [("verbatim.txt:3", "wrong_field_count")]
    assert all(check.passed for check in report.checks)

    run = run_of(tmp_path, archive)
    occurrences(run)
    assert lake.frame("SELECT * FROM verbatim").is_empty()
    assert lake.frame("SELECT gbif_id FROM occurrences ORDER BY ALL").rows() == [("1",), ("2",)]


def test_a_simple_csv_has_occurrences_and_a_clear_word_that_it_has_no_media(shared: Path, tmp_path: Path) -> None:
    archive = shared / "archives/dev/gbif/2020-01_simplecsv_0011066-200127171203522.zip"
    run = run_of(tmp_path, archive)
    report = occurrences(run)
    assert all(check.passed for check in report.checks)
    assert run.platform.lake.frame("SELECT count(*) FROM occurrences").item() > 1000
    with pytest.raises(NoMultimedia, match="no pictures") as caught:
        media_urls(run)
    assert "SIMPLE_CSV has no media" in caught.value.next_step
