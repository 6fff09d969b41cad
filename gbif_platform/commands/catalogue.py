"""`gbif-platform catalogue`: what a dataset holds, as a file."""

from pathlib import Path

import click

from gbif_platform.commands.shared import console, find_dataset, with_platform
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform


@click.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the one added last.")
@click.option("--predicted", "before", is_flag=True, help="As predicted before the pictures were fetched.")
@click.option(
    "--to", "file", type=click.Path(path_type=Path), required=True, help="FILE.parquet or FILE.csv; is replaced."
)
@with_platform
def catalogue(platform: Platform, name: str, key: str | None, before: bool, file: Path) -> None:
    """Copy a dataset's catalogue: one row a medium with source, taxon, licence, subset and captions."""
    from gbif_platform.exports.catalogue import catalogue_keys, copy_catalogue
    from gbif_platform.steps.run import Run
    from gbif_platform.storage import tables

    dataset = find_dataset(platform.settings, name)
    known = tables.snapshots(platform.lake, name)["snapshot"].to_list()
    if not known:
        raise PlatformError(f"dataset {name} has no snapshot yet", f"gbif-platform run {name}")
    if key and key not in known:
        raise PlatformError(
            f"dataset {name} has no snapshot {key!r}; there are: {', '.join(known)}",
            f"gbif-platform snapshot list {name}",
        )
    run = Run(platform, dataset, key or known[-1], "gbif-platform catalogue")
    table = "predicted_catalogue" if before else "catalogue"
    run.version_of(table)
    copy_catalogue(platform.objects, catalogue_keys(name, run.snapshot, table), file)
    console.print(
        f"{run.count(table):,} media of {name}, snapshot {run.snapshot}: {file}", soft_wrap=True, highlight=False
    )
