"""Both catalogues of a snapshot that went through the real steps, some of whose pictures are broken or too small."""

import csv
from collections.abc import Iterator
from pathlib import Path

import click.testing
import polars as pl
import pytest

from gbif_platform.commands.catalogue import catalogue as command
from gbif_platform.commands.shared import Group
from gbif_platform.dataset import parse_dataset
from gbif_platform.exports.catalogue import COLUMNS
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.catalogue import catalogue
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.predicted_catalogue import predicted_catalogue
from gbif_platform.steps.run import Report, Run, UpstreamMissing
from gbif_platform.steps.splits import splits
from gbif_platform.steps.taxa import taxa
from gbif_platform.storage.tables import RANKS

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: any, min_side: {min_side}}}
  images: {{size: 32}}
"""
DOI = "10.15468/dl.sand01"


class World:
    """A snapshot with both catalogues, and what the steps said."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.home, self.sandbox = home, sandbox
        sandbox.publish(SandboxDataset(size=40, troubles=1))
        self.platform = Platform(Settings(home=home, allow_private_hosts=True, fetch_retries=0))
        self.file = home / "datasets" / "insects.yaml"
        self.file.parent.mkdir(parents=True)
        self.run = self.dataset(0)
        add_snapshot(self.platform, self.run.dataset, DOI)
        for step in (occurrences, media_urls, taxa, balanced_samples):
            step(self.run)
        self.predicted = predicted_catalogue(self.run)
        for step in (downloaded_images, duplicate_images, splits):
            step(self.run)
        self.actual = catalogue(self.run)

    def dataset(self, min_side: int) -> Run:
        """The dataset as one that takes pictures of that size only."""
        self.file.write_text(FILE.format(endpoint=self.sandbox.url, min_side=min_side))
        return Run(self.platform, parse_dataset(self.file.read_text(), self.file), DOI)

    def frame(self, sql: str) -> pl.DataFrame:
        return self.platform.lake.frame(sql)

    def __call__(self, *arguments: str | Path) -> click.testing.Result:
        """Run the command in this home."""
        group = Group(commands={"catalogue": command})
        words = ["catalogue", *map(str, arguments)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GBIF_PLATFORM_HOME", str(self.home))
            patch.setenv("DAGSTER_HOME", str(self.home / "dagster"))
            return click.testing.CliRunner().invoke(group, words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox() as sandbox:
        yield World(tmp_path_factory.mktemp("home"), sandbox)


def checks(report: Report) -> dict[str, bool]:
    return {check.name: check.passed for check in report.checks}


def test_every_sampled_medium_is_predicted_and_every_one_in_a_subset_is_there(world: World) -> None:
    for table, source in (("predicted_catalogue", "balanced_samples"), ("catalogue", "splits")):
        ids = [world.frame(f"SELECT media_id FROM {name} ORDER BY media_id")["media_id"] for name in (table, source)]
        assert len(ids[0])
        assert ids[0].to_list() == ids[1].to_list()
    for report in (world.predicted, world.actual):
        assert checks(report)["rows_reconcile"]
        assert {check.name for check in report.checks if check.only_warn} == {
            *("ranks_present", "one_lineage_per_name", "names_tidy", "no_synonyms_left", "one_rank")
        }
    assert checks(world.actual)["differences_explained"]


def test_a_row_says_what_the_lake_says(world: World) -> None:
    lineage = ", ".join(f'o."{rank}"' for rank in RANKS)
    rows = world.frame(f"""
        SELECT c.*, s.subset AS split_subset, i.width AS stored_width, i.height AS stored_height,
               m.url AS medium_url, m.license AS medium_license, o.dataset_key AS record_dataset,
               concat_ws(' ', {lineage.rpartition(", o.")[0].rpartition(", o.")[0]}, c.label) AS path
        FROM catalogue c JOIN splits s USING (media_id) JOIN media_urls m USING (media_id)
        JOIN occurrences o ON o.gbif_id = c.gbif_id JOIN images i ON i.url_id = c.url_id""")
    assert len(rows) == len(world.frame("FROM catalogue"))
    for column, source in (
        *(("subset", "split_subset"), ("width", "stored_width"), ("height", "stored_height")),
        *(("url", "medium_url"), ("license", "medium_license"), ("dataset_key", "record_dataset")),
        *(("species", "label"), ("caption_scientific", "label"), ("caption_taxonomic", "path")),
    ):
        assert rows[column].to_list() == rows[source].to_list(), column
    assert set(rows["taxon_rank"]) == {"SPECIES"}
    assert rows["scientific_name"].str.starts_with(rows["label"]).all()


def test_the_prediction_knows_subsets_and_no_sizes(world: World) -> None:
    rows = world.frame("FROM predicted_catalogue WHERE label IS NOT NULL")
    assert set(rows["subset"]) <= {"train", "validation", "test"}
    assert rows["width"].null_count() == rows["height"].null_count() == len(rows)


def test_each_difference_has_the_reason_of_the_stage_that_refused(world: World) -> None:
    rows = world.frame("""
        SELECT d.*, q.stage, q.reason AS refused FROM catalogue_differences d
        LEFT JOIN quarantine q ON q.row_ref = d.media_id AND q.stage IN ('downloaded_images', 'splits')
        WHERE change <> 'subset_changed'""")
    missing = world.frame("SELECT media_id FROM predicted_catalogue EXCEPT SELECT media_id FROM catalogue")
    assert len(missing) > 2
    assert sorted(rows["media_id"]) == sorted(missing["media_id"])
    assert rows["reason"].to_list() == rows["refused"].to_list()
    changes = {"downloaded_images": "not_fetched", "splits": "excluded"}
    assert rows["change"].to_list() == [changes[stage] for stage in rows["stage"]]
    assert world.actual.numbers["differences"] == world.actual.tables["differences"]["media"].sum()


def test_the_files_hold_the_rows(world: World) -> None:
    for report, table in ((world.predicted, "predicted_catalogue"), (world.actual, "catalogue")):
        rows = world.frame(f"FROM {table} ORDER BY media_id").select(COLUMNS)
        assert pl.read_parquet(report.texts["parquet"]).equals(rows)
        with Path(report.texts["csv"]).open(encoding="utf-8", newline="") as file:
            read = list(csv.DictReader(file))
        assert [row["media_id"] for row in read] == rows["media_id"].to_list()
        assert [row["caption_taxonomic"] for row in read] == rows["caption_taxonomic"].to_list()
        assert report.tables["head"]["media_id"].to_list() == rows["media_id"].head(20).to_list()


def test_again_writes_nothing_but_a_file_that_is_gone(world: World) -> None:
    file = Path(world.actual.texts["csv"])
    before, version = file.read_bytes(), world.platform.lake.version()
    file.unlink()
    assert not predicted_catalogue(world.run).written
    assert not catalogue(world.run).written
    assert world.platform.lake.version() == version
    assert file.read_bytes() == before


def test_what_is_too_small_is_excluded_and_nothing_else_changes(world: World) -> None:
    sides = world.frame("SELECT least(source_width, source_height) AS side FROM images WHERE status = 'ok'")["side"]
    narrow = world.dataset(int(sides.max()))
    splits(narrow)
    report = catalogue(narrow)
    assert report.written
    assert checks(report)["differences_explained"]
    reasons = dict(report.tables["differences"].select("reason", "media").iter_rows())
    assert reasons["below_min_side"] == world.actual.numbers["rows"] - report.numbers["rows"]
    for step in (splits, catalogue):
        step(world.dataset(0))


def test_the_command_copies_either_catalogue(world: World, tmp_path: Path) -> None:
    for options, report in (((), world.actual), (("--predicted",), world.predicted)):
        for kind in ("parquet", "csv"):
            file = tmp_path / f"mine.{kind}"
            said = world("insects", *options, "--to", file)
            assert said.exit_code == 0, said.stderr
            assert str(file) in said.stdout
            assert file.read_bytes() == Path(report.texts[kind]).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("newts", "--to", "a.csv"), "there is no dataset 'newts'"),
        (("insects", "--snapshot", "other", "--to", "a.csv"), "insects has no snapshot 'other'"),
        (("insects", "--to", "a.xlsx"), "a.xlsx: a catalogue is Parquet or CSV"),
        (("insects", "--to", "no/such/a.csv"), "there is no folder no/such"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(world: World, arguments: tuple[str, ...], cause: str) -> None:
    refused = world(*arguments)
    assert refused.exit_code == 1
    assert cause in refused.stderr
    assert "next:" in refused.stderr


def test_before_it_is_made_the_command_says_how(world: World) -> None:
    other = world.file.with_name("others.yaml")
    other.write_text(world.file.read_text().replace("insects", "others"))
    assert "gbif-platform run others" in world("others", "--to", "a.csv").stderr
    run = Run(world.platform, parse_dataset(other.read_text(), other), DOI)
    add_snapshot(world.platform, run.dataset, DOI)
    refused = world("others", "--to", "a.csv")
    assert refused.exit_code == 1
    assert f"gbif-platform run others --snapshot {DOI}" in refused.stderr
    with pytest.raises(UpstreamMissing):
        predicted_catalogue(run)
    with pytest.raises(UpstreamMissing):
        catalogue(run)


def test_a_medium_lost_without_an_account_fails_the_check(world: World) -> None:
    lost = world.frame("SELECT media_id FROM catalogue ORDER BY media_id LIMIT 1")["media_id"][0]
    with world.platform.lake.transaction("test", "lose one") as con:
        con.execute("DELETE FROM lake.catalogue WHERE media_id = ?", [lost])
    (check,) = [check for check in catalogue(world.run).checks if check.name == "differences_explained"]
    assert not check.passed
    assert not check.only_warn
    assert lost in check.description
