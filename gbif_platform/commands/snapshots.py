"""`gbif-platform snapshot …`: the states of a dataset's source."""

import click

from gbif_platform.commands.shared import console, find_dataset, with_platform
from gbif_platform.platform import Platform


@click.group()
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
