"""Exports of a snapshot that went through the real steps, by the function and by the command."""

from collections.abc import Iterator
from pathlib import Path

import click.testing
import polars as pl
import pytest

from gbif_platform.commands.export import FORMATS, IN_SHARDS
from gbif_platform.commands.export import export as command
from gbif_platform.commands.shared import Group
from gbif_platform.dataset import parse_dataset
from gbif_platform.exports import formats
from gbif_platform.exports.manifest import NAME, ExportError
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.catalogue import catalogue
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.export import export, final_pictures
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.predicted_catalogue import predicted_catalogue
from gbif_platform.steps.run import Run, UpstreamMissing
from gbif_platform.steps.splits import splits
from gbif_platform.steps.taxa import taxa

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: any}}
  images: {{size: 32}}
  split: {{subsets: {{train: 0.6, test: 0.4, few: {{of: train, fraction: 0.5}}}}}}
"""
DOI = "10.15468/dl.sand01"


class World:
    """A snapshot with a catalogue."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.home = home
        sandbox.publish(SandboxDataset(size=16, troubles=0))
        self.platform = Platform(Settings(home=home, allow_private_hosts=True, fetch_retries=0))
        file = home / "datasets" / "insects.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(FILE.format(endpoint=sandbox.url))
        self.run = Run(self.platform, parse_dataset(file.read_text(), file), DOI)
        add_snapshot(self.platform, self.run.dataset, DOI)
        for step in (occurrences, media_urls, taxa, balanced_samples, predicted_catalogue, downloaded_images):
            step(self.run)
        duplicate_images(self.run)
        splits(self.run)
        with pytest.raises(UpstreamMissing, match=f"run insects --snapshot {DOI} --select catalogue"):
            export(self.run, "imagefolder", home / "too-early")
        catalogue(self.run)
        self.rows = self.platform.lake.frame("FROM catalogue ORDER BY media_id")

    def __call__(self, *arguments: str | Path) -> click.testing.Result:
        """Run the command in this home."""
        group = Group(commands={"export": command})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GBIF_PLATFORM_HOME", str(self.home))
            patch.setenv("DAGSTER_HOME", str(self.home / "dagster"))
            return click.testing.CliRunner().invoke(group, ["export", "insects", *map(str, arguments)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox() as sandbox:
        yield World(tmp_path_factory.mktemp("home"), sandbox)


def exported(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / NAME).drop_nulls("media_id").sort("media_id")


def test_the_command_knows_the_formats_that_there_are() -> None:
    assert set(FORMATS) == {*formats.IN_FILES, *formats.IN_SHARDS}
    assert set(IN_SHARDS) == set(formats.IN_SHARDS)


@pytest.mark.parametrize("kind", ["imagefolder", "huggingface"])
def test_the_command_writes_every_final_picture_and_the_second_time_none(
    world: World, tmp_path: Path, kind: str
) -> None:
    done = world("--format", kind, "--to", tmp_path / "export")
    assert done.exit_code == 0, done.output
    assert f"{len(world.rows):,} pictures as {kind}" in done.stdout
    rows = exported(tmp_path / "export")
    assert rows["media_id"].to_list() == world.rows["media_id"].to_list()
    assert rows["label"].to_list() == world.rows["label"].to_list()
    assert rows["subset"].to_list() == world.rows["subset"].to_list()
    assert DOI in (tmp_path / "export" / "CITATION.txt").read_text()
    again = world("--format", kind, "--to", tmp_path / "export")
    assert "up to date, nothing was written" in again.stdout


def test_subsets_are_chosen_by_name_also_nested_ones(world: World, tmp_path: Path) -> None:
    for subset, of in (("test", pl.col("subset") == "test"), ("few", pl.col("nested").list.contains("few"))):
        world("--format", "imagefolder", "--to", tmp_path / subset, "--subset", subset)
        chosen = world.rows.filter(of)
        assert 0 < len(chosen) < len(world.rows)
        assert exported(tmp_path / subset)["media_id"].to_list() == chosen["media_id"].to_list()
    failed = world("--format", "imagefolder", "--to", tmp_path / "none", "--subset", "validation")
    assert failed.exit_code == 1
    assert "no subset validation; there are: few, test, train" in failed.stderr
    assert not (tmp_path / "none").exists()


def test_shards_are_of_the_size_that_was_asked_for(world: World, tmp_path: Path) -> None:
    world("--format", "webdataset", "--to", tmp_path / "export", "--shard-images", "7")
    assert exported(tmp_path / "export").group_by("file").len()["len"].max() == 7
    failed = world("--format", "imagefolder", "--to", tmp_path / "files", "--shard-images", "7")
    assert "imagefolder has no shards" in failed.stderr


def test_a_picture_that_is_not_stored_any_more_is_left_out_and_told(world: World, tmp_path: Path) -> None:
    row = final_pictures(world.run).row(0, named=True)
    world("--format", "webdataset", "--to", tmp_path / "export")
    lake = world.platform.lake
    kept = lake.frame("SELECT * FROM images WHERE url_id = ?", [row["url_id"]])
    with lake.transaction("test", "take down") as con:
        con.execute("DELETE FROM lake.images WHERE url_id = ?", [row["url_id"]])
    try:
        done = world("--format", "webdataset", "--to", tmp_path / "export")
    finally:
        with lake.transaction("test", "put back") as con:
            con.register("kept", kept.to_arrow())
            con.execute("INSERT INTO lake.images BY NAME SELECT * FROM kept")
    assert "left out" in done.stdout
    assert row["media_id"] not in exported(tmp_path / "export")["media_id"].to_list()


def test_a_notebook_calls_the_same_function(world: World, tmp_path: Path) -> None:
    report = export(world.run, "parquet", tmp_path / "export", subsets=["train"])
    assert report.pictures == len(exported(tmp_path / "export")) == world.rows.filter(subset="train").height
    with pytest.raises(ExportError, match="no format"):
        export(world.run, "tfrecord", tmp_path / "other")
