"""The command line: `gbif-platform …`."""

import os
import sys
from functools import partial

import click

from gbif_platform import __version__
from gbif_platform.commands.catalogue import catalogue
from gbif_platform.commands.cite import cite
from gbif_platform.commands.compact import compact, takedown
from gbif_platform.commands.datasets import dataset
from gbif_platform.commands.doctor import doctor
from gbif_platform.commands.export import export
from gbif_platform.commands.export_model import export_model
from gbif_platform.commands.predict import predict
from gbif_platform.commands.shared import Group, console, errors, find_dataset, initialise, tell, with_platform
from gbif_platform.commands.snapshots import snapshot
from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform

PORT = click.IntRange(1, 65535)


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


@main.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the source as it is now.")
@click.option("--select", "names", help="Assets, separated by commas; what they need and is missing comes along.")
@click.option(
    "--retry-failed", is_flag=True, help="Ask again for every picture that did not come, before its date too."
)
@with_platform
def run(platform: Platform, name: str, key: str | None, names: str | None, retry_failed: bool) -> None:
    """Materialise a dataset's assets for one snapshot.

    What the lake holds already in this version is not made again, and no picture is fetched twice.
    """
    from gbif_platform.sources.snapshots import add_snapshot, find_snapshot
    from gbif_platform.terminal import RunDisplay

    platform.settings.retry_failed |= retry_failed
    chosen = find_dataset(platform.settings, name)
    with RunDisplay(console) as display:
        waiting = partial(display, "snapshot")
        state = find_snapshot(platform, chosen, key).key if key else add_snapshot(platform, chosen, progress=waiting)[0]
    run_and_tell(platform, chosen, state, tuple(filter(None, (names or "").split(","))))


def run_and_tell(platform: Platform, chosen: Dataset, state: str, names: tuple[str, ...] = ()) -> None:
    """Run with a progress display, print the summary, and exit with 1 where a stage failed."""
    from gbif_platform.orchestration.runs import execute
    from gbif_platform.terminal import RunDisplay, summary

    initialise(platform)
    with RunDisplay(console) as display:
        platform.progress = display
        result = execute(platform, chosen, state, names)
    summary(console, platform, chosen.name, state)
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

    chosen = find_dataset(platform.settings, "demo")
    platform.settings.allow_private_hosts = True
    with demo_sandbox(chosen) as sandbox:
        console.print(f"sandbox GBIF at {sandbox.url}; home {platform.settings.home}", soft_wrap=True)
        run_and_tell(platform, chosen, add_snapshot(platform, chosen)[0])
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


for command in (dataset, snapshot, cite, catalogue, export, predict, export_model, compact, takedown, doctor):
    main.add_command(command)

if __name__ == "__main__":
    main()
