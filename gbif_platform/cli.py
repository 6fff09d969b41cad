"""The command line: `gbif-platform …`."""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gbif_platform import __version__
from gbif_platform.dataset import NAME, Dataset, dataset_files, read_dataset, read_named
from gbif_platform.errors import PlatformError, explained, first_line
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings, load_settings

SHIPPED = Path(__file__).parent / "defs" / "datasets"
WIDE = 160
"""Columns where the output is no terminal, so that tables are not folded into a log."""
PORT = click.IntRange(1, 65535)
console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)


class Group(click.Group):
    """Commands whose known errors are told in two lines, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            said = f"{type(error).__name__}: {first_line(str(error))}"
            tell(explained(error) or PlatformError(said, "gbif-platform --debug … shows the traceback"))
            sys.exit(1)


def tell(error: PlatformError) -> None:
    """Print cause and next step on standard error."""
    errors.print(f"[bold red]error:[/] {_escaped(error.cause)}", highlight=False, soft_wrap=True)
    if error.next_step:
        errors.print(f"[bold]next:[/]  {_escaped(error.next_step)}", highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def find_dataset(settings: Settings, name: str) -> Dataset:
    """A dataset of the home folder, or one that ships.

    Raises:
        PlatformError: there is none of that name; lists those that there are.
    """
    files = dataset_files(settings.datasets) | shipped_datasets()
    if name not in files:
        raise PlatformError(
            f"there is no dataset {name!r}; there are: {', '.join(sorted(files))}",
            f"gbif-platform dataset new {name} --archive FILE (or --doi DOI)",
        )
    return read_named(name, files[name])


def shipped_datasets() -> dict[str, Path]:
    """Files of the datasets that come with the package, by name."""
    return {file.parent.name: file for file in sorted(SHIPPED.glob("*/defs.yaml"))}


def with_platform(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand a command an initialised platform as its first argument."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from gbif_platform.orchestration.instance import prepare_home

        platform = Platform(load_settings())
        prepare_home(platform.settings)
        return command(platform, *args, **kwargs)

    return run


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """From a GBIF download to a species-identification model, step by step and incrementally.

    Everything is kept under $GBIF_PLATFORM_HOME (default: .gbif-platform beside the project).
    """


@main.command()
@with_platform
def init(platform: Platform) -> None:
    """Create what is missing of home, lake and instance."""
    initialise(platform)
    console.print(f"ready: {platform.settings.home}")


def initialise(platform: Platform) -> None:
    """Make lake, object store, dataset folder and Dagster's storage, by one process before several use them."""
    import dagster as dg

    platform.settings.datasets.mkdir(parents=True, exist_ok=True)
    platform.lake.version()
    _ = platform.objects
    with dg.DagsterInstance.get() as instance:
        instance.get_runs(limit=1)


@main.group()
def dataset() -> None:
    """Dataset files: make, list, check."""


@dataset.command("new")
@click.argument("name")
@click.option("--archive", type=click.Path(path_type=Path), help="A Darwin Core Archive from GBIF, on this machine.")
@click.option("--doi", help="A GBIF download: DOI, DOI URL, portal URL or key.")
@click.option("--label", default="species", show_default=True, help="GBIF or Darwin Core term to learn.")
@with_platform
def dataset_new(platform: Platform, name: str, archive: Path | None, doi: str | None, label: str) -> None:
    """Write a dataset file to start from, with its choices explained."""
    from gbif_platform.dataset_template import new_dataset

    file = platform.settings.datasets / f"{name}.yaml"
    if not re.fullmatch(NAME, name):
        raise PlatformError(f"{name!r} cannot name a dataset", "a letter, then letters, digits and _, all lower case")
    if name in shipped_datasets():
        raise PlatformError(f"{name} is a dataset that comes with the platform", "choose another name")
    new_dataset(file, archive=archive, doi=doi, label=label)
    console.print(f"wrote {file}\nnext: gbif-platform run {name}", soft_wrap=True)


@dataset.command("list")
@with_platform
def dataset_list(platform: Platform) -> None:
    """Every dataset, with its snapshots and models."""
    import polars as pl

    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    rows = []
    for name, file in sorted((dataset_files(platform.settings.datasets) | shipped_datasets()).items()):
        snapshots = len(tables.snapshots(platform.lake, name))
        try:
            found = read_named(name, file)
            rows.append((name, found.label, snapshots, ", ".join(found.models), str(file)))
        except PlatformError as error:
            mistake = first_line(error.cause).replace(f"{file}:", "line ")
            rows.append((name, "", snapshots, f"broken: {mistake}", str(file)))
    console.print(
        frame_table(pl.DataFrame(rows, schema=["dataset", "label", "snapshots", "models", "file"], orient="row"))
    )


@dataset.command("check")
@click.argument("names", nargs=-1)
@with_platform
def dataset_check(platform: Platform, names: tuple[str, ...]) -> None:
    """Read dataset files and report every mistake with file and line. NAMES: datasets or files; none = all."""
    files = dataset_files(platform.settings.datasets) | shipped_datasets()
    wrong = 0
    for name in names or sorted(files):
        try:
            read_named(name, files[name]) if name in files else read_dataset(Path(name))
            console.print(f"{name}: sound", highlight=False)
        except PlatformError as error:
            wrong += 1
            tell(error)
    sys.exit(1 if wrong else 0)


@main.group()
def snapshot() -> None:
    """Snapshots of a dataset: add, list."""


@snapshot.command("add")
@click.argument("name", metavar="DATASET")
@click.argument("reference", required=False)
@with_platform
def snapshot_add(platform: Platform, name: str, reference: str | None) -> None:
    """Add a snapshot; REFERENCE: DOI, portal URL or key of a GBIF download, or an archive's path.

    Without a REFERENCE the source in the dataset file is taken.
    """
    import dagster as dg

    from gbif_platform.orchestration.keys import partitions_name
    from gbif_platform.sources.snapshots import add_snapshot

    key, new = add_snapshot(platform, find_dataset(platform.settings, name), reference)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(partitions_name(name), [key])
    console.print(
        f"{'added' if new else 'already there:'} {key}\nnext: gbif-platform run {name} --snapshot {key}", soft_wrap=True
    )


@snapshot.command("list")
@click.argument("name", metavar="DATASET")
@with_platform
def snapshot_list(platform: Platform, name: str) -> None:
    """The snapshots of a dataset, oldest first."""
    import polars as pl

    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    find_dataset(platform.settings, name)
    rows = tables.snapshots(platform.lake, name).with_columns(added=pl.col("added_at").dt.strftime("%Y-%m-%d %H:%M"))
    console.print(frame_table(rows.select("snapshot", "kind", "reference", "total_records", "license", "added")))


@main.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the source as it is now.")
@click.option("--select", "names", help="Assets, separated by commas; what they need and is missing comes along.")
@click.option("--retry-failed", is_flag=True, help="Ask again for every failed picture, also before its retry date.")
@with_platform
def run(platform: Platform, name: str, key: str | None, names: str | None, retry_failed: bool) -> None:
    """Materialise a dataset's assets for one snapshot.

    What the lake holds already in this version is not made again, and no picture is fetched twice.
    """
    from gbif_platform.sources.snapshots import add_snapshot, find_snapshot

    platform.settings.retry_failed |= retry_failed
    chosen = find_dataset(platform.settings, name)
    snapshot = find_snapshot(platform, chosen, key).key if key else add_snapshot(platform, chosen)[0]
    run_and_tell(platform, chosen, snapshot, tuple(filter(None, (names or "").split(","))))


def run_and_tell(platform: Platform, dataset: Dataset, snapshot: str, names: tuple[str, ...] = ()) -> None:
    """Run with a progress display, print the summary, and exit with 1 where a stage failed."""
    from gbif_platform.orchestration.runs import execute
    from gbif_platform.terminal import RunDisplay, summary

    initialise(platform)
    with RunDisplay(console) as display:
        platform.progress = display
        result = execute(platform, dataset, snapshot, names)
    summary(console, platform, dataset.name, snapshot)
    for failure in result.failures:
        console.print()
        tell(PlatformError(f"{failure.stage}: {failure.cause}", failure.next_step))
        if failure.traceback and click.get_current_context().find_root().params.get("debug"):
            errors.print(failure.traceback, highlight=False, markup=False)
    if result.failures:
        sys.exit(1)


@main.command()
@with_platform
def status(platform: Platform) -> None:
    """What every snapshot holds, and which runs go on."""
    import dagster as dg

    from gbif_platform.orchestration.instance import UNFINISHED, bury_dead_runs
    from gbif_platform.terminal import frame_table

    initialise(platform)
    rows = platform.lake.frame(
        "SELECT dataset, snapshot, stage, rows_out AS rows, rows_refused AS refused, "
        "strftime(written_at, '%Y-%m-%d %H:%M') AS written FROM stages ORDER BY dataset, written_at"
    )
    console.print(f"home {platform.settings.home}, lake version {platform.lake.version()}", soft_wrap=True)
    console.print(frame_table(rows) if len(rows) else "nothing is materialised yet; try: make demo")
    with dg.DagsterInstance.get() as instance:
        if dead := bury_dead_runs(instance):
            console.print(f"{len(dead)} run(s) whose process was killed are marked as failed")
        for going in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            console.print(f"running: {going.job_name} {going.tags.get('dagster/partition', '')} ({going.run_id})")


@main.command()
@click.argument("statement")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="For people, for spreadsheets, for programs (one array of objects).",
)
@with_platform
def sql(platform: Platform, statement: str, kind: str) -> None:
    """Run one SELECT over the lake (read-only). `SHOW TABLES` lists the tables."""
    from gbif_platform.storage.lake import Lake
    from gbif_platform.terminal import print_frame

    platform.lake.close()
    lake = Lake(platform.settings.catalog_url, platform.settings.lake_data, read_only=True)
    print_frame(console, lake.query(statement), kind)


@main.command()
@with_platform
def demo(platform: Platform) -> None:
    """Run the demo dataset end to end on a loopback GBIF."""
    from gbif_platform.sandbox.demo import demo_sandbox
    from gbif_platform.sources.snapshots import add_snapshot

    dataset = find_dataset(platform.settings, "demo")
    platform.settings.allow_private_hosts = True
    with demo_sandbox(dataset) as sandbox:
        console.print(f"sandbox GBIF at {sandbox.url}; home {platform.settings.home}", soft_wrap=True)
        snapshot, _ = add_snapshot(platform, dataset)
        run_and_tell(platform, dataset, snapshot)
    console.print(
        "\n[bold]Where to look next[/]\n"
        "  make dev                                         the Dagster UI with this run, and MLflow's\n"
        '  gbif-platform sql "SELECT * FROM images"         every table of the lake\n'
        "  gbif-platform dataset new mine --archive FILE    your own data",
        highlight=False,
    )


@main.command()
@click.option("--port", default=3000, type=PORT, show_default=True, help="Dagster's web UI.")
@click.option("--mlflow-port", default=5000, type=PORT, show_default=True, help="MLflow's web UI.")
@with_platform
def dev(platform: Platform, port: int, mlflow_port: int) -> None:
    """Serve the UIs of Dagster and MLflow until Ctrl-C."""
    from gbif_platform.orchestration.development import serve

    initialise(platform)
    os.environ["GBIF_PLATFORM_HOME"] = str(platform.settings.home)
    serve(platform.settings, port, mlflow_port, console.print)


@main.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the one added last.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder; default: exports/ under home.")
@click.option("--source-url", help="Where you publish the dataset; goes into the derived-dataset file.")
@with_platform
def cite(platform: Platform, name: str, key: str | None, folder: Path | None, source_url: str | None) -> None:
    """Write citation, attribution of each picture and the derived-dataset file."""
    from gbif_platform.settings import fingerprint
    from gbif_platform.steps.credit import PUBLISHED_LATER, credit, write_credit
    from gbif_platform.steps.run import Run
    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    dataset = find_dataset(platform.settings, name)
    known = tables.snapshots(platform.lake, name)["snapshot"].to_list()
    if not known:
        raise PlatformError(f"dataset {name} has no snapshot yet", f"gbif-platform run {name}")
    snapshot = key or known[-1]
    found = credit(Run(platform, dataset, snapshot, "gbif-platform cite"), source_url or PUBLISHED_LATER)
    folder = folder or platform.settings.home / "exports" / name / f"credit-{fingerprint(snapshot)}"
    files = write_credit(found, folder)
    console.print(f"{found.citation or 'no DOI to cite'}\n", soft_wrap=True)
    console.print(frame_table(found.counts, f"{len(found.manifest):,} pictures; records kept, by GBIF dataset"))
    console.print("\n".join(["", *map(str, files)]), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
