"""Step `splits` on snapshots that went through the real steps: rows, report, checks, growth, refusals."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gbif_platform.curation.spec import Split
from gbif_platform.dataset import Dataset, parse_dataset
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Report, Run
from gbif_platform.steps.splits import expected_subsets, splits
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome, Stage

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: any}}
  images: {{size: 32}}
"""
FIRST, GREW = "10.15468/dl.sand01", "10.15468/dl.sand02"
RULE = {
    "subsets": {"train": 0.7, "validation": 0.15, "test": 0.15, "train_small": {"of": "train", "fraction": 0.5}},
    "group_by": ["occurrence", "observer_day", "url", "duplicate", "near_duplicate"],
    "min_per_label": {"test": 1},
}


class World:
    """Two snapshots of which the pictures have arrived; the second one is larger, and has lost some records."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.platform = Platform(Settings(home=home, allow_private_hosts=True, fetch_retries=0))
        self.dataset: Dataset = parse_dataset(FILE.format(endpoint=sandbox.url), home / "insects.yaml")
        first = SandboxDataset(size=60, troubles=0)
        for state in (first, replace(first, grow=0.2, remove=0.1)):
            sandbox.publish(state)
        for snapshot in (FIRST, GREW):
            add_snapshot(self.platform, self.dataset, snapshot)
            for step in (occurrences, media_urls, balanced_samples, downloaded_images, duplicate_images):
                step(self.at(snapshot))

    def at(self, snapshot: str, **split: Any) -> Run:
        settings = Split.model_validate(RULE | split)
        return Run(self.platform, self.dataset.model_copy(update={"split": settings}), snapshot)

    def split(self, snapshot: str, **split: Any) -> Report:
        return splits(self.at(snapshot, **split))

    def rows(self, table: str, snapshot: str) -> pl.DataFrame:
        return self.platform.lake.frame(f"SELECT * FROM {table} WHERE snapshot = ? ORDER BY ALL", [snapshot])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox() as sandbox:
        yield World(tmp_path_factory.mktemp("home"), sandbox)


def test_the_rows_and_what_is_said_of_them(world: World) -> None:
    report = world.split(FIRST)
    rows = world.rows("splits", FIRST)
    failed = [check.name for check in report.checks if not check.passed and not check.only_warn]
    assert failed == []
    assert {check.name for check in report.checks} == {
        "rows_reconcile", "no_leakage", "no_empty_subset", "groups_small", "holdouts_pure"}  # fmt: skip
    assert report.numbers["rows"] == len(rows) == report.numbers["rows_in"]
    assert report.numbers["groups"] == rows["group_id"].n_unique()
    assert report.numbers["rows_train_small"] == (rows["nested"].list.len() > 0).sum() > 0
    assert set(rows.filter(pl.col("nested").list.len() > 0)["subset"]) == {"train"}
    assert sum(report.numbers[f"rows_{name}"] for name in ("train", "validation", "test")) == len(rows)
    by_label = report.tables["labels_by_subset"]
    assert by_label.select(pl.sum_horizontal("train", "validation", "test").sum()).item() == len(rows)
    assert report.pictures["labels_by_subset"].startswith(b"\x89PNG")
    audit = report.tables["split_audit"]
    assert set(audit.filter("asked")["key"]) == {"group", *RULE["group_by"]}
    assert {"pixels", "recordedBy", "datasetKey"} <= set(audit.filter(~pl.col("asked"))["key"])
    assert audit.filter(pl.col("key") == "datasetKey")["shared"].sum() > 0
    assert rows["rule"].n_unique() == 1
    assert not world.split(FIRST).written


def test_outings_stay_together(world: World) -> None:
    world.split(FIRST)
    outings = world.platform.lake.frame(
        """SELECT count(DISTINCT subset) AS subsets, count(DISTINCT gbif_id) AS records FROM splits
           JOIN media_urls USING (snapshot, media_id) JOIN occurrences USING (snapshot, gbif_id)
           WHERE snapshot = ? AND recorded_by <> '' AND length(event_date) >= 10 AND event_date NOT LIKE '%/%'
           GROUP BY recorded_by, event_date[:10], floor(decimal_latitude * 10), floor(decimal_longitude * 10)
           HAVING count(decimal_latitude) > 0""",
        [FIRST],
    )
    assert outings.filter(pl.col("records") > 1).height > 3
    assert outings["subsets"].max() == 1


def test_growth_keeps_every_picture_where_it_was(world: World) -> None:
    world.split(FIRST)
    report = world.split(GREW)
    both = world.rows("splits", FIRST).join(world.rows("splits", GREW), on="media_id", suffix="_now")
    moved = set(both.filter(pl.col("subset") != pl.col("subset_now"))["media_id"])
    assert len(both) > 30
    assert moved <= set(world.rows("split_moves", GREW)["media_id"])
    assert report.numbers["rows_moved"] == len(world.rows("split_moves", GREW))


def test_another_rule_assigns_everything_anew_and_the_old_one_finds_it_again(world: World) -> None:
    world.split(FIRST)
    before = world.rows("splits", FIRST)
    world.split(FIRST, seed=4)
    after = world.rows("splits", FIRST)
    assert (before["subset"] != after["subset"]).any()
    assert set(before["rule"]).isdisjoint(after["rule"])
    assert world.rows("split_moves", FIRST).is_empty()
    world.split(FIRST)
    assert world.rows("splits", FIRST).equals(before)


def test_pictures_that_arrive_late_move_none(world: World) -> None:
    world.split(FIRST)
    before = world.rows("splits", FIRST)
    first_to_go = before["media_id"][0]
    url = world.platform.lake.frame(
        "SELECT url_id FROM media_urls WHERE media_id = ? AND snapshot = ?", [first_to_go, FIRST]
    ).item()
    with world.platform.lake.transaction("test", "late") as con:
        con.execute("UPDATE lake.images SET status = 'late' WHERE url_id = ?", [url])
        con.execute("DELETE FROM lake.stages WHERE stage = 'splits'")
        con.execute("DELETE FROM lake.splits")
    world.split(FIRST)
    fewer = world.rows("splits", FIRST)
    assert first_to_go not in fewer["media_id"]
    with world.platform.lake.transaction("test", "arrived") as con:
        con.execute("UPDATE lake.images SET status = 'ok' WHERE url_id = ?", [url])
        con.execute("DELETE FROM lake.stages WHERE stage = 'splits'")
    world.split(FIRST)
    both = fewer.join(world.rows("splits", FIRST), on="media_id", suffix="_now")
    assert len(both) == len(fewer)
    moved = both.filter(pl.col("subset") != pl.col("subset_now"))["media_id"]
    assert set(moved) <= set(world.rows("split_moves", FIRST)["media_id"])


def test_the_expected_subsets_are_those_that_come_about(world: World) -> None:
    run = world.at(FIRST, group_by=["occurrence", "observer_day", "url"], min_per_label={})
    with run.reader() as con:
        expected = expected_subsets(run, con)
    splits(run)
    actual = world.rows("splits", FIRST).select("media_id", "subset", "nested").sort("media_id")
    assert expected.columns == ["media_id", "subset", "nested"]
    assert expected.join(actual, on="media_id", how="semi").sort("media_id").equals(actual)
    assert len(expected) == world.rows("balanced_samples", FIRST)["label"].count()


def test_hold_outs_are_by_terms_of_the_occurrence(world: World) -> None:
    years = world.platform.lake.frame("SELECT DISTINCT year FROM occurrences WHERE snapshot = ? ORDER BY year", [FIRST])
    newest = years["year"].to_list()[-1]
    report = world.split(
        FIRST, subsets={"train": 0.9, "validation": 0.1}, min_per_label={}, holdout={"test": {"year": [newest]}}
    )
    found = world.platform.lake.frame(
        "SELECT subset, year FROM splits JOIN media_urls USING (snapshot, media_id) "
        "JOIN occurrences USING (snapshot, gbif_id) WHERE snapshot = ?",
        [FIRST],
    )
    assert set(found.filter(pl.col("year") == newest)["subset"]) == {"test"}
    checks = {check.name: check.passed for check in report.checks}
    assert checks["holdouts_pure"]


def test_a_hold_out_that_no_picture_is_in_is_warned_of(world: World) -> None:
    report = world.split(FIRST, min_per_label={}, holdout={"test": {"country": "SE,NO"}})
    checks = {check.name: check for check in report.checks}
    assert (checks["no_empty_subset"].passed, checks["no_empty_subset"].only_warn) == (False, True)
    assert checks["no_empty_subset"].description == "empty: none; no picture has the terms of split.holdout.test"
    assert checks["holdouts_pure"].passed


def test_a_group_that_is_most_of_the_dataset_is_remarked_upon(world: World) -> None:
    report = world.split(FIRST, group_by=["basisOfRecord"], min_per_label={})
    check = next(check for check in report.checks if check.name == "groups_small")
    assert (check.passed, check.only_warn) == (False, True)
    assert "of them share basisOfRecord '" in check.description


def test_a_key_that_the_archive_lacks_is_refused(world: World) -> None:
    with pytest.raises(PlatformError, match=r"split\.group_by: event needs event_id"):
        world.split(FIRST, group_by=["event"])
    with pytest.raises(PlatformError, match=r"split\.group_by: the occurrences have no cameraName"):
        world.split(FIRST, group_by=["cameraName"])


MEDIA = [  # medium, label, smaller side, decision of duplicate_images, labels agree
    ("a", "Apis", 200, None, None),
    ("b", None, 200, None, None),
    ("c", "Apis", 20, None, None),
    ("d", "Apis", 200, "kept", True),
    ("e", "Apis", 200, "left out", True),
    ("f", "Bombus", 200, "left out", False),
]


def test_what_is_refused_says_why(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    dataset = parse_dataset(
        FILE.format(endpoint="http://127.0.0.1:9").replace("licences: any", "min_side: 100, licences: any, "
        "duplicate_images: keep_if_labels_agree"), tmp_path / "insects.yaml")  # fmt: skip
    tables.put_snapshot(platform.lake, "insects", "1", {"added_at": datetime.now(UTC)}, author="test")
    ids = [name for name, *_ in MEDIA]
    known = {
        "occurrences": pl.DataFrame({"gbif_id": ids, "dataset_key": "d", "species": [row[1] for row in MEDIA]}),
        "media_urls": pl.DataFrame({"media_id": ids, "gbif_id": ids, "url_id": ids, "license": "CC0-1.0"}),
        "balanced_samples": pl.DataFrame({"media_id": ids, "url_id": ids, "label": [row[1] for row in MEDIA]}),
        "downloaded_images": pl.DataFrame(),
        "duplicate_images": pl.DataFrame(
            [(name, "g", "near", agree, decision) for name, _, _, decision, agree in MEDIA if decision],
            schema=["media_id", "group_id", "kind", "labels_agree", "decision"],
            orient="row",
        ),
    }
    for table, rows in known.items():
        outcome = Outcome({} if rows.is_empty() else {table: rows}, 6, 6)
        tables.write_stage(platform.lake, Stage("insects", "1", table), "1", outcome, run_id="test")
    transform = dataset.images.key
    tables.add_images(
        platform.lake,
        [
            {"url_id": name, "transform": transform, "status": "ok", "source_width": side, "source_height": 300}
            for name, _, side, *_ in MEDIA
        ],
        run_id="test",
    )
    report = splits(Run(platform, dataset, "1"))
    refused = platform.lake.frame("SELECT row_ref, reason, detail FROM quarantine ORDER BY row_ref")
    assert refused.rows() == [
        ("b", "no_label", ""),
        ("c", "below_min_side", "20 px at the smaller side"),
        ("e", "duplicate_image", "group g, near"),
        ("f", "label_conflict", "group g, near"),
    ]
    assert platform.lake.frame("SELECT media_id FROM splits ORDER BY media_id")["media_id"].to_list() == ["a", "d"]
    assert (report.numbers["rows_in"], report.numbers["rows"]) == (6, 2)
