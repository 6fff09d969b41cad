"""The command line: what each command leaves, prints and returns."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gbif_platform.cli import main
from gbif_platform.dataset import parse_dataset
from gbif_platform.errors import PlatformError
from gbif_platform.orchestration.runs import select
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform_tests.commands import DATASET, STAGES, Home, small_archive

SIZE = 60
TWO_MODELS = "  models: {small: {backbone: resnet10t}, large: {backbone: resnet18}}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path / "home", monkeypatch)


class World:
    """A home in which a dataset of a sandbox has been run once, without a model."""

    def __init__(self, home: Home, sandbox: Sandbox) -> None:
        self.home, self.sandbox = home, sandbox
        self.doi = sandbox.publish(SandboxDataset(size=SIZE, troubles=1)).doi
        self.source = f'{{gbif_download: {{doi: {self.doi}, endpoint: "{sandbox.url}"}}}}'
        home.dataset("insects", self.source)
        self.first = home("run", "insects")

    def asked_for(self) -> set[str]:
        """Addresses of pictures that anybody asked the sandbox for."""
        return {path for path in self.sandbox.counts() if path.startswith("/media/")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, Sandbox() as sandbox:
        yield World(Home(tmp_path_factory.mktemp("world"), patch), sandbox)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_explains_itself_and_its_options(home: Home) -> None:
    for path, command in commands(main):
        shown = home(*path, "--help")
        assert shown.exit_code == 0
        assert shown.stdout.startswith(f"Usage: main {' '.join(path)}")
        assert command.help, path
        assert all(option.help for option in command.params if isinstance(option, click.Option)), path
    assert not home.folder.exists(), "asking for help writes nothing"


def test_init_makes_everything_once_and_changes_nothing_the_second_time(home: Home) -> None:
    first = home("init")
    assert first.exit_code == 0
    assert str(home.folder) in first.stdout
    for place in ("datasets", "objects", "lake/catalog.sqlite", "dagster/dagster.yaml", "dagster/history"):
        assert (home.folder / place).exists(), place
    version = home.platform.lake.version()
    assert home("init").exit_code == 0
    assert home.platform.lake.version() == version
    assert "nothing is materialised yet" in home("status").stdout


def test_a_new_dataset_file_is_sound_and_is_not_overwritten(home: Home, tmp_path: Path) -> None:
    made = home("dataset", "new", "frogs", "--archive", tmp_path / "it's here.zip", "--label", "genus")
    assert made.exit_code == 0
    file = home.folder / "datasets" / "frogs.yaml"
    assert str(file) in made.stdout
    assert "gbif-platform run frogs" in made.stdout
    written = parse_dataset(file.read_text(), file)
    assert (written.name, written.label, written.source.archive) == ("frogs", "genus", str(tmp_path / "it's here.zip"))
    assert home("dataset", "check", "frogs").stdout == "frogs: sound\n"

    again = home("dataset", "new", "frogs", "--doi", "10.15468/dl.abc123")
    assert again.exit_code == 1
    assert f"{file} exists" in again.stderr
    assert parse_dataset(file.read_text(), file) == written


def test_a_new_dataset_of_a_list_finds_its_columns(home: Home, tmp_path: Path) -> None:
    listed = tmp_path / "it's a list.csv"
    listed.write_text("key,accessURI,scientificName,TEXT\n1,https://example.org/1.jpg,Rana temporaria,a frog\n")
    made = home("dataset", "new", "listed", "--urls", listed)
    assert made.exit_code == 0, made.stderr
    file = home.folder / "datasets" / "listed.yaml"
    written = parse_dataset(file.read_text(), file)
    assert written.source.urls is not None
    assert written.source.urls.model_dump(exclude_none=True) == {
        "files": str(listed),
        "url_column": "accessURI",
        "caption_column": "TEXT",
    }
    assert (written.label, written.filters.licences) == ("scientific_name", "any")
    assert "baseline" in written.models

    named = home("dataset", "new", "named", "--urls", listed, "--url-column", "key", "--label-column", "TEXT")
    assert named.exit_code == 0
    file = home.folder / "datasets" / "named.yaml"
    assert parse_dataset(file.read_text(), file).label == "text"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--urls", "absent.csv"), "there is no list of URLs"),
        (("--urls", "{list}", "--url-column", "link"), "no column 'link'"),
        (("--urls", "{list}", "--label-column", "kind"), "no column 'kind'"),
        (("--urls", "{list}"), "add --url-column"),
        (("--urls", "{list}", "--doi", "10.15468/dl.abc123"), "name one source"),
        (("--archive", "a.zip", "--url-column", "link"), "add --urls"),
    ],
)
def test_a_list_that_cannot_be_one_makes_no_dataset(
    options: tuple[str, ...], says: str, home: Home, tmp_path: Path
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("a,b\n1,2\n")
    refused = home("dataset", "new", "listed", *[option.format(list=listed) for option in options])
    assert refused.exit_code == 1
    assert says in " ".join(refused.stderr.split())
    assert not (home.folder / "datasets" / "listed.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("newts",), "name one source"),
        (("newts", "--doi", "10.15468/dl.a", "--archive", "a.zip"), "name one source"),
        (("../newts", "--doi", "10.15468/dl.a"), "'../newts' cannot name a dataset"),
        (("Newts", "--doi", "10.15468/dl.a"), "'Newts' cannot name a dataset"),
        (("demo", "--doi", "10.15468/dl.a"), "demo is a dataset that comes with the platform"),
    ],
)
def test_a_dataset_that_cannot_be_is_refused(home: Home, arguments: tuple[str, ...], cause: str) -> None:
    refused = home("dataset", "new", *arguments)
    assert refused.exit_code == 1
    assert f"error: {cause}" in refused.stderr
    assert "next:" in refused.stderr
    assert not list(home.folder.rglob("*ewts.yaml"))


def test_list_and_check_go_on_past_a_broken_file(home: Home, tmp_path: Path) -> None:
    home.dataset("frogs", tmp_path / "frogs.zip", more=TWO_MODELS)
    broken = home.dataset("toads", tmp_path / "toads.zip", filters="{licenses: any}")
    other = home.dataset("newts", tmp_path / "newts.zip")
    other.rename(other.with_name("salamanders.yaml"))

    listed = home("dataset", "list")
    assert listed.exit_code == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "small, large" in lines["frogs"]
    assert "broken: line 6: filters.licenses: unknown key" in lines["toads"]
    assert "baseline" in lines["demo"]

    checked = home("dataset", "check")
    assert checked.exit_code == 1
    assert {"demo: sound", "frogs: sound"} == set(checked.stdout.splitlines())
    assert f"{broken}:6: filters.licenses: unknown key; did you mean licences?" in checked.stderr
    assert "name: 'newts' differs from the file's name 'salamanders'" in checked.stderr
    assert home("dataset", "check", "frogs", broken).exit_code == 1
    assert home("dataset", "check", "frogs").exit_code == 0


def test_a_word_that_gbif_may_have_added_since_is_told_and_no_mistake(home: Home) -> None:
    home.dataset("frogs", "{archive: frogs.zip}", filters="{exclude_issue: [SOMETHING_NEW]}")
    checked = home("dataset", "check", "frogs")
    assert checked.exit_code == 0
    assert "frogs: sound; filters.exclude_issue: 'SOMETHING_NEW' is no issue of GBIF that is known" in checked.stdout


def test_a_snapshot_is_added_once_by_whatever_name_it_has(home: Home) -> None:
    with Sandbox() as sandbox:
        one, two = (sandbox.publish(SandboxDataset(size=12, troubles=0)) for _ in range(2))
        home.dataset("insects", f'{{gbif_download: {{doi: {one.doi}, endpoint: "{sandbox.url}"}}}}')
        for reference, said in (
            (two.key, f"added {two.doi}"),
            (two.doi, f"already there: {two.doi}"),
            (f"https://doi.org/{two.doi.upper()}", f"already there: {two.doi}"),
            (f"https://www.gbif.org/occurrence/download/{two.key}", f"already there: {two.doi}"),
        ):
            added = home("snapshot", "add", "insects", reference)
            assert added.exit_code == 0
            assert said in added.stdout
        assert f"added {one.doi}" in home("snapshot", "add", "insects").stdout, "no reference = the file's own"
        rows = home("snapshot", "list", "insects").stdout.splitlines()[1:]
        assert [row.split()[0] for row in rows] == [two.doi, one.doi]

        refused = home("snapshot", "add", "insects", "10.15468/39omei")
        assert refused.exit_code == 1
        assert "'10.15468/39omei' names no GBIF download" in refused.stderr
        assert len(home("snapshot", "list", "insects").stdout.splitlines()) == 3


def test_an_archive_is_a_snapshot_by_its_content(home: Home, tmp_path: Path) -> None:
    home.dataset("insects", small_archive(tmp_path / "insects.zip"))
    first = home("snapshot", "add", "insects").stdout
    copy = tmp_path / "moved" / "insects.zip"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "insects.zip").read_bytes())
    assert first.startswith("added insects-")
    assert home("snapshot", "add", "insects", copy).stdout.startswith("already there: insects-")
    unknown = home("run", "insects", "--snapshot", "insects-000000000000")
    assert unknown.exit_code == 1
    key = first.splitlines()[0].removeprefix("added ")
    assert f"dataset insects has no snapshot 'insects-000000000000'; it has: {key}" in unknown.stderr


def test_select_brings_what_is_missing_upstream_and_nothing_else(home: Home, tmp_path: Path) -> None:
    home.dataset("insects", small_archive(tmp_path / "insects.zip"))
    assert home("run", "insects", "--select", "media_urls").exit_code == 0
    assert home.stages().keys() == {("insects", "occurrences"), ("insects", "media_urls")}
    sampled = home("run", "insects", "--select", "balanced_samples")
    assert sampled.exit_code == 0
    assert "balanced_samples" in sampled.stdout
    assert "media_urls                                  0  started" not in sampled.stdout

    wrong = home("run", "insects", "--select", "media_urls,pictures")
    assert wrong.exit_code == 1
    assert "dataset insects has no asset 'pictures'" in wrong.stderr
    assert ", ".join([*STAGES[:2], "snapshot_changes", *STAGES[2:]]) in wrong.stderr


def test_a_models_stages_are_selected_with_or_without_its_name(world: World) -> None:
    text = DATASET.format(name="insects", source=world.source, label="species", filters="{licences: any}")
    dataset = parse_dataset(text + TWO_MODELS, Path("insects.yaml"))
    platform = world.home.platform

    def chosen(snapshot: str, *names: str) -> list[str]:
        return [shell.stage for shell in select(platform, dataset, snapshot, names)]

    assert chosen(world.doi, "trained_model") == ["small/trained_model", "large/trained_model"]
    assert chosen(world.doi, "small/evaluation_metrics") == ["small/trained_model", "small/evaluation_metrics"]
    assert chosen("another", "large/trained_model") == [*STAGES[:-1], "large/trained_model"]
    assert len(chosen(world.doi)) == 18
    with pytest.raises(PlatformError, match="no asset 'medium/trained_model'"):
        chosen(world.doi, "medium/trained_model")


def test_a_run_without_models_ends_with_the_catalogue_and_a_summary(world: World) -> None:
    assert world.first.exit_code == 0, world.first.output
    assert world.first.stderr == ""
    assert list(world.home.stages()) == [("insects", stage) for stage in STAGES]
    assert f"insects, snapshot {world.doi}" in world.first.stdout
    for reason in ("http_404", "html_page", "truncated_transfer", "orphan", "duplicate_media", "no_label"):
        assert reason in world.first.stdout
    labelled = world.home.rows("SELECT count(*) AS n FROM splits")[0]["n"]
    assert labelled > SIZE


def test_a_second_run_asks_for_nothing_and_writes_nothing(world: World) -> None:
    requests, version = world.sandbox.counts(), world.home.platform.lake.version()
    second = world.home("run", "insects")
    assert second.exit_code == 0
    for stage in STAGES:
        assert any(line.startswith(stage) and line.endswith("up to date") for line in second.stdout.splitlines())
    assert "  done" not in second.stdout
    assert world.sandbox.counts() == requests
    assert world.home.platform.lake.version() == version


def test_one_new_occurrence_costs_its_own_pictures_and_moves_none(world: World) -> None:
    grown = SandboxDataset(size=SIZE, troubles=1, grow=1 / SIZE)
    new_paths = {medium.path for medium in grown.media()} - {
        medium.path for medium in SandboxDataset(size=SIZE).media()
    }
    assert new_paths, "the new occurrence has pictures"
    doi = world.sandbox.publish(grown).doi
    before = world.sandbox.counts()

    assert f"added {doi}" in world.home("snapshot", "add", "insects", doi).stdout
    run = world.home("run", "insects", "--snapshot", doi)
    assert run.exit_code == 0, run.output
    after = world.sandbox.counts()
    fetched = {path: after[path] - before.get(path, 0) for path in world.asked_for() if after[path] != before.get(path)}
    assert fetched == dict.fromkeys(new_paths, 1)

    subsets = {
        snapshot: {
            row["media_id"]: row["subset"]
            for row in world.home.rows(f"SELECT media_id, subset FROM splits WHERE snapshot = '{snapshot}'")
        }
        for snapshot in (world.doi, doi)
    }
    assert len(subsets[doi]) == len(subsets[world.doi]) + len(new_paths)
    assert subsets[world.doi].items() <= subsets[doi].items()


def test_unknown_names_are_answered_with_the_known_ones(world: World) -> None:
    for arguments in (
        ("run", "insect"),
        ("snapshot", "add", "insect", "10.15468/dl.a"),
        ("snapshot", "list", "insect"),
    ):
        unknown = world.home(*arguments)
        assert unknown.exit_code == 1
        assert "there is no dataset 'insect'; there are: demo, insects" in unknown.stderr
    snapshot = world.home("run", "insects", "--snapshot", "yesterday")
    assert snapshot.exit_code == 1
    assert "'yesterday' names no GBIF download" in snapshot.stderr
    assert world.home("swim").exit_code == 2


def test_status_shows_what_each_snapshot_holds(world: World) -> None:
    status = world.home("status")
    assert status.exit_code == 0
    assert f"home {world.home.folder}, lake version {world.home.platform.lake.version()}" in status.stdout
    rows = [line.split() for line in status.stdout.splitlines() if line.startswith(f"insects  {world.doi}")]
    assert [row[2] for row in rows] == STAGES
    assert "running:" not in status.stdout


def test_sql_prints_tables_csv_and_json(world: World) -> None:
    statement = (
        "SELECT DISTINCT recorded_by, year, occurrence_remarks, ['x', 'y'] AS list FROM occurrences ORDER BY ALL"
    )
    wanted = world.home.rows(statement)
    printed = world.home("sql", statement, "--format", "json")
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == wanted

    rows = list(csv.DictReader(io.StringIO(world.home("sql", statement, "--format", "csv").stdout)))
    assert [row["recorded_by"] for row in rows] == [row["recorded_by"] for row in wanted]
    assert {row["occurrence_remarks"] for row in rows} >= {"", 'label reads "rare?"'}
    assert {row["list"] for row in rows} == {"x|y"}

    table = world.home("sql", "SELECT subset, count(*) AS media FROM splits GROUP BY subset ORDER BY subset")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["subset", "test", "train", "validation"]
    assert json.loads(world.home("sql", "SELECT 1 WHERE false", "--format", "json").stdout) == []
    assert json.loads(world.home("sql", "SHOW TABLES", "--format", "json").stdout)


def test_sql_reads_only(world: World, tmp_path: Path) -> None:
    file = tmp_path / "stolen.csv"
    version = world.home.platform.lake.version()
    for statement in (
        "DELETE FROM splits",
        "INSERT INTO splits SELECT * FROM splits",
        "CREATE TABLE mine (a INT)",
        "SELECT 1; DROP TABLE splits",
        "EXPLAIN ANALYZE DELETE FROM splits",
        f"COPY (SELECT 1) TO '{file}'",
    ):
        refused = world.home("sql", statement)
        assert refused.exit_code == 1, statement
        assert "error:" in refused.stderr
    assert world.home.platform.lake.version() == version
    assert not file.exists()

    mistake = world.home("sql", "SELECT speceis FROM occurrences")
    assert mistake.exit_code == 1
    assert "species" in mistake.stderr, "DuckDB's own hint"
    assert "SHOW TABLES" in mistake.stderr


def test_in_a_terminal_progress_is_live(world: World) -> None:
    """Dagster captures the output of steps: the bars must reach the terminal all the same."""
    terminal, inner = pty.openpty()
    command = [sys.executable, "-m", "gbif_platform.cli", "run", "insects"]
    environment = {**os.environ, "GBIF_PLATFORM_HOME": str(world.home.folder), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment) as process:
        os.close(inner)
        shown = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal so
            while data := os.read(terminal, 65536):
                shown += data
    os.close(terminal)
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for stage in STAGES:
        assert re.search(rf"✓ {stage} .*up to date", plain), plain
