"""`gbif-platform snapshot …`: the states of a dataset's source."""

from functools import partial

import click

from gbif_platform.commands.shared import console, find_dataset, with_platform
from gbif_platform.platform import Platform


@click.group()
def snapshot() -> None:
    """Snapshots of a dataset: add, list, compare, replay."""


@snapshot.command("add")
@click.argument("name", metavar="DATASET")
@click.argument("reference", required=False)
@with_platform
def snapshot_add(platform: Platform, name: str, reference: str | None) -> None:
    """Add a snapshot; REFERENCE: DOI, portal URL or key of a GBIF download, or an archive's path.

    Without a REFERENCE the source in the dataset file is taken: a query is sent to GBIF again (once a day), and
    waited for. Ctrl-C leaves the request with GBIF; the same command goes on with it.
    """
    from gbif_platform.sources.snapshots import add_snapshot
    from gbif_platform.terminal import RunDisplay

    with RunDisplay(console) as display:
        key, new = add_snapshot(
            platform, find_dataset(platform.settings, name), reference, anew=True, progress=partial(display, "snapshot")
        )
    _tell_added(name, key, new)


def _tell_added(name: str, key: str, new: bool) -> None:
    import dagster as dg

    from gbif_platform.orchestration.keys import partitions_name

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(partitions_name(name), [key])
    console.print(
        f"{'added' if new else 'already there:'} {key}\nnext: gbif-platform run {name} --snapshot {key}", soft_wrap=True
    )


@snapshot.command("replay")
@click.argument("name", metavar="DATASET")
@click.argument("reference")
@with_platform
def snapshot_replay(platform: Platform, name: str, reference: str) -> None:
    """Request the predicate of a download again whose file GBIF has erased; the answer is a new snapshot.

    REFERENCE: DOI, portal URL or key of the erased download.
    """
    from gbif_platform.sources.snapshots import replay_snapshot
    from gbif_platform.terminal import RunDisplay

    with RunDisplay(console) as display:
        key, new = replay_snapshot(
            platform, find_dataset(platform.settings, name), reference, progress=partial(display, "snapshot")
        )
    _tell_added(name, key, new)


@snapshot.command("list")
@click.argument("name", metavar="DATASET")
@with_platform
def snapshot_list(platform: Platform, name: str) -> None:
    """The snapshots of a dataset, oldest first, and its requests that GBIF has not finished."""
    import polars as pl

    from gbif_platform.gbif.licences import normalise
    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    find_dataset(platform.settings, name)
    when = "%Y-%m-%d %H:%M"
    rows = tables.snapshots(platform.lake, name)
    rows = rows.with_columns(
        license=pl.Series([normalise(text).spdx if text else None for text in rows["license"]], dtype=pl.String),
        added=pl.col("added_at").dt.strftime(when),
        erased_after=pl.col("erase_after").dt.strftime("%Y-%m-%d"),
    )
    console.print(
        frame_table(rows.select("snapshot", "kind", "reference", "total_records", "license", "erased_after", "added"))
    )
    requests = platform.lake.frame(
        "SELECT download_key, status, reason, requested_at FROM download_requests "
        "WHERE dataset = ? AND status <> 'SUCCEEDED' ORDER BY requested_at",
        [name],
    )
    if len(requests):
        requests = requests.with_columns(pl.col("requested_at").dt.strftime(when))
        console.print(frame_table(requests, "Requests without a file"))


@snapshot.command("diff")
@click.argument("name", metavar="DATASET")
@click.argument("old")
@click.argument("new")
@with_platform
def snapshot_diff(platform: Platform, name: str, old: str, new: str) -> None:
    """What became of each medium between two snapshots: added, removed, relabelled, licence changed.

    The rows are in the table snapshot_changes.
    """
    from gbif_platform.steps.snapshot_changes import diff
    from gbif_platform.terminal import frame_table

    counts, _ = diff(platform, find_dataset(platform.settings, name), old, new)
    console.print(frame_table(counts, f"{name}: {old} → {new}"))
    console.print(
        f"\nrows: gbif-platform sql \"SELECT * FROM snapshot_changes WHERE dataset = '{name}' "
        f"AND snapshot = '{new}' AND previous = '{old}'\"",
        soft_wrap=True,
        highlight=False,
    )
