"""Snapshots of a dataset, through the real steps: what differs is written down; relabelling asks for no picture."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from gbif_platform.curation.spec import Filters
from gbif_platform.dataset import Dataset, Source, parse_dataset
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import UnknownSnapshot, add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Report, Run, UpstreamMissing
from gbif_platform.steps.snapshot_changes import diff, snapshot_changes
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
FIRST, GREW, RELABELLED = "10.15468/dl.sand01", "10.15468/dl.sand02", "10.15468/dl.sand03"
SIZE = 40


class World:
    """Three snapshots with their media rows; the pictures of the first are fetched."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.platform = Platform(Settings(home=home, allow_private_hosts=True, fetch_retries=0))
        self.dataset: Dataset = parse_dataset(FILE.format(endpoint=sandbox.url), home / "insects.yaml")
        first = SandboxDataset(size=SIZE, troubles=0)
        for state in (first, replace(first, grow=0.1, remove=0.1), replace(first, relabel=0.25)):
            sandbox.publish(state)
        for snapshot in (FIRST, GREW, RELABELLED):
            add_snapshot(self.platform, self.dataset, snapshot)
            occurrences(self.at(snapshot))
            media_urls(self.at(snapshot))
        self.fetch(FIRST)

    def at(self, snapshot: str) -> Run:
        return Run(self.platform, self.dataset, snapshot)

    def fetch(self, snapshot: str) -> Report:
        balanced_samples(self.at(snapshot))
        return downloaded_images(self.at(snapshot))

    def frame(self, sql: str) -> pl.DataFrame:
        return self.platform.lake.frame(sql)

    def ids(self, snapshot: str) -> set[str]:
        return set(self.frame(f"SELECT media_id FROM media_urls WHERE snapshot = '{snapshot}'")["media_id"])

    def changed(self, change: str, snapshot: str, previous: str) -> pl.DataFrame:
        return self.frame(
            f"SELECT * FROM snapshot_changes WHERE change = '{change}' AND snapshot = '{snapshot}' "
            f"AND previous = '{previous}'"
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox() as sandbox:
        yield World(tmp_path_factory.mktemp("home"), sandbox)


def test_a_first_snapshot_writes_nothing_and_says_so(world: World) -> None:
    before = world.platform.lake.version()
    report = snapshot_changes(world.at(FIRST))
    assert (report.written, report.numbers["rows"]) == (False, 0)
    assert "first snapshot" in report.texts["previous"]
    assert world.platform.lake.version() == before


def test_added_and_removed_media_are_those_that_one_snapshot_lacks(world: World) -> None:
    report = snapshot_changes(world.at(GREW))
    old, new = world.ids(FIRST), world.ids(GREW)
    assert set(world.changed("added", GREW, FIRST)["media_id"]) == new - old != set()
    tombstones = world.changed("removed", GREW, FIRST)
    assert set(tombstones["media_id"]) == old - new != set()
    assert tombstones["previous_label"].null_count() == 0
    assert tombstones["label"].null_count() == len(tombstones)
    assert report.texts["previous"] == FIRST
    assert report.numbers["unchanged"] == len(old & new)
    assert report.numbers["rows"] == len(old ^ new)
    assert all(check.passed for check in report.checks)
    assert report.tables["changes_by_label"]["media"].sum() == len(old ^ new)
    assert "changes" in report.pictures


def test_a_second_run_writes_nothing_until_the_label_is_another(world: World) -> None:
    snapshot_changes(world.at(GREW))
    before = world.platform.lake.version()
    assert not snapshot_changes(world.at(GREW)).written
    assert world.platform.lake.version() == before
    by_family = world.dataset.model_copy(update={"label": "family"})
    assert snapshot_changes(Run(world.platform, by_family, GREW)).written
    assert snapshot_changes(world.at(GREW)).written


def test_relabelled_media_keep_their_pixels_and_are_not_asked_for_again(world: World) -> None:
    labels = "SELECT media_id, label FROM balanced_samples WHERE snapshot = '{}' ORDER BY media_id"
    stored = world.frame("SELECT url_id, shard, shard_offset, sha256 FROM images WHERE status = 'ok' ORDER BY url_id")
    before = {path: count for path, count in world.sandbox.counts().items() if "/media/" in path}
    report = world.fetch(RELABELLED)
    assert report.numbers["requested_now"] == 0
    assert {path: count for path, count in world.sandbox.counts().items() if "/media/" in path} == before != {}
    assert world.frame(
        "SELECT url_id, shard, shard_offset, sha256 FROM images WHERE status = 'ok' ORDER BY url_id"
    ).equals(stored)

    diff(world.platform, world.dataset, FIRST, RELABELLED)
    relabelled = world.changed("relabelled", RELABELLED, FIRST)
    then, now = (dict(world.frame(labels.format(key)).iter_rows()) for key in (FIRST, RELABELLED))
    differing = {media for media in then if then[media] != now[media]}
    assert set(relabelled["media_id"]) == differing != set()
    assert (relabelled["label"] != relabelled["previous_label"]).all()


def test_any_two_snapshots_are_compared_in_either_direction(world: World) -> None:
    snapshot_changes(world.at(GREW))
    there, _ = diff(world.platform, world.dataset, FIRST, GREW)
    back, rows = diff(world.platform, world.dataset, GREW, FIRST, examples=1)
    forward, backward = dict(there.iter_rows()), dict(back.iter_rows())
    assert (forward["added"], forward["removed"]) == (backward["removed"], backward["added"])
    assert forward["unchanged"] == backward["unchanged"]
    assert rows["change"].to_list() == ["added", "removed"]
    assert len(world.changed("added", GREW, FIRST)) == forward["added"], "each pair of snapshots has its own rows"
    before = world.platform.lake.version()
    diff(world.platform, world.dataset, GREW, FIRST)
    assert world.platform.lake.version() == before


def test_what_cannot_be_compared_says_what_to_do(world: World) -> None:
    with pytest.raises(UnknownSnapshot, match=r"no snapshot '10\.15468/dl\.none'; it has: .*sand01") as unknown:
        diff(world.platform, world.dataset, FIRST, "10.15468/dl.none")
    assert unknown.value.next_step == "gbif-platform snapshot list insects"
    known = {"kind": "gbif_download", "added_at": datetime.now(UTC)}
    tables.put_snapshot(world.platform.lake, "insects", "10.15468/dl.sand09", known, author="test")
    with pytest.raises(UpstreamMissing, match="media_urls of insects") as missing:
        diff(world.platform, world.dataset, FIRST, "10.15468/dl.sand09")
    assert missing.value.next_step == "gbif-platform run insects --snapshot 10.15468/dl.sand09 --select media_urls"


def lone_medium(platform: Platform, snapshot: str, label: str, occurrence_license: str) -> None:
    """A snapshot of one medium without a licence of its own."""
    now = {"added_at": datetime(2026, 1, int(snapshot), tzinfo=UTC)}
    tables.put_snapshot(platform.lake, "insects", snapshot, now, author="test")
    occurrence = {"gbif_id": "1", "dataset_key": "d", "species": label}
    medium = {"media_id": "m", "url_id": "u", "url": "https://host/1.jpg", "gbif_id": "1", "license": "unknown"}
    medium["occurrence_license"] = occurrence_license
    for table, row in (("occurrences", occurrence), ("media_urls", medium)):
        outcome = Outcome({table: pl.DataFrame([row])}, 1, 1)
        tables.write_stage(platform.lake, Stage("insects", snapshot, table), snapshot, outcome, run_id="test")


def test_label_and_licence_are_those_that_the_samples_go_by(tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path))
    lone_medium(platform, "1", "Apis mellifera", "CC-BY-4.0")
    lone_medium(platform, "2", " Apis mellifera ", "CC-BY-NC-4.0")
    own = Dataset(name="insects", source=Source(archive="none"), label="species")
    fallback = own.model_copy(update={"filters": Filters(licence_fallback="occurrence")})
    counts = snapshot_changes(Run(platform, own, "2")).numbers
    assert (counts["rows"], counts["unchanged"]) == (0, 1)
    counts = snapshot_changes(Run(platform, fallback, "2")).numbers
    assert (counts["licence_changed"], counts["licence_revoked"], counts["relabelled"]) == (1, 1, 0)
