"""`gbif-platform catalogue`: what a dataset holds, as a file."""

from pathlib import Path

import click

from gbif_platform.commands.shared import console, find_run, with_platform
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

    run = find_run(platform, name, key, "gbif-platform catalogue")
    table = "predicted_catalogue" if before else "catalogue"
    run.version_of(table)
    copy_catalogue(platform.objects, catalogue_keys(name, run.snapshot, table), file)
    console.print(
        f"{run.count(table):,} media of {name}, snapshot {run.snapshot}: {file}", soft_wrap=True, highlight=False
    )
