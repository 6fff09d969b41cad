"""An export of a snapshot's final pictures into a folder, for other programs and other people."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import polars as pl

from gbif_platform.exports.catalogue import COLUMNS
from gbif_platform.exports.contents import ALL, Export
from gbif_platform.exports.export import ExportReport, write_export
from gbif_platform.exports.formats import layout_of
from gbif_platform.exports.manifest import ExportError
from gbif_platform.exports.shards import ShardSize
from gbif_platform.gbif.citations import licence_of_the_whole
from gbif_platform.gbif.licences import UNKNOWN, from_spdx
from gbif_platform.images.shards import read_member
from gbif_platform.settings import fingerprint
from gbif_platform.sources.snapshots import find_snapshot
from gbif_platform.steps.credit import credit
from gbif_platform.steps.run import Run
from gbif_platform.storage.lake import quoted

STORED = ("transform", "shard", "shard_offset", "shard_size", "sha256")
RECIPE = ("taxonomy", "filters", "sampling", "images", "split")


def export(
    run: Run,
    format: str,  # noqa: A002  the command's word
    folder: Path,
    *,
    subsets: Sequence[str] = (),
    shard_size: ShardSize | None = None,
    link: bool = True,
    verify: bool = False,
) -> ExportReport:
    """Make a folder hold the final pictures of a snapshot; what it holds already stays as it is.

    Args:
        format: one of `exports.formats`.
        folder: new, empty, or with an earlier export of the dataset in this format.
        subsets: names of subsets, also nested ones; none = all.
        shard_size: of new shards, in the formats that have them.
        link: a picture that is there twice is one file with two names, where pictures are files.
        verify: compare digests of the files that are kept, not their sizes alone.

    Raises:
        UpstreamMissing: the catalogue is not materialised.
        ExportError: no such format or subset, no picture, a folder with something else in it, or a damaged picture.
    """
    layout = layout_of(format, link=link, shard_size=shard_size)
    rows = final_pictures(run, subsets)
    stored = rows.filter(pl.col("shard").is_not_null())
    if stored.is_empty():
        raise ExportError(
            f"there is no picture to export of {run.dataset.name}, snapshot {run.snapshot}",
            f"gbif-platform run {run.dataset.name} --snapshot {run.snapshot}",
        )
    report = write_export(
        contents(run, format, stored),
        layout,
        partial(read_member, run.platform.objects),
        folder,
        verify=verify,
        progress=run.progress("export"),
    )
    return replace(report, unstored=len(rows) - len(stored))


def final_pictures(run: Run, subsets: Sequence[str] = ()) -> pl.DataFrame:
    """The catalogue's rows with the place of each picture in the object store (null where it is not stored any more).

    Args:
        subsets: rows that are in one of these, also nested ones; none = all.

    Raises:
        UpstreamMissing: the catalogue is not materialised.
        ExportError: there is no such subset.
    """
    run.version_of("catalogue")
    with run.reader() as con:
        columns = ", ".join(f'"{name}"' for name in COLUMNS)
        catalogue = run.rows(con, "catalogue", columns)  # noqa: F841  read by name
        ledger = con.sql(f"""
            SELECT url_id, {", ".join(STORED)} FROM lake.images
            WHERE status = 'ok' AND transform = {quoted(run.dataset.images.key)}""")  # noqa: F841
        rows = con.sql("FROM catalogue LEFT JOIN ledger USING (url_id) ORDER BY media_id").pl()
    rows = rows.select(*COLUMNS, *STORED)
    if not subsets:
        return rows
    known = set(rows["subset"].drop_nulls()) | set(rows["nested"].explode().drop_nulls())
    if unknown := [name for name in subsets if name not in known]:
        raise ExportError(
            f"{run.dataset.name} has no subset {', '.join(unknown)}; there are: {', '.join(sorted(known))}",
            "name subsets of the dataset file's split",
        )
    wanted = list(subsets)
    nested = pl.col("nested").list.eval(pl.element().is_in(wanted)).list.any().fill_null(False)
    return rows.filter(pl.col("subset").is_in(wanted).fill_null(False) | nested)


def contents(run: Run, format: str, rows: pl.DataFrame) -> Export:  # noqa: A002
    """An export of these rows, with the credit that is due."""
    found, snapshot, dataset = credit(run), find_snapshot(run.platform, run.dataset, run.snapshot), run.dataset
    licences = _licences(rows)
    return Export(
        name=dataset.name,
        snapshot=run.snapshot,
        description=dataset.description,
        label=dataset.label,
        format=format,
        rows=rows,
        # of the whole catalogue, so that a subset numbers them alike
        classes=sorted(run.frame("SELECT DISTINCT label FROM catalogue WHERE {key} AND label IS NOT NULL")["label"]),
        subsets=sorted(rows["subset"].fill_null(ALL).unique()),
        citations=found.citations,
        licence=licence_of_the_whole(licences),
        licences=licences.select("license", "pictures"),
        version=fingerprint(run.version_of("catalogue"), *found.citations, *rows["media_id"]),
        suffix=dataset.images.suffix,
        dataset_citations=found.dataset_citations,
        recipe=dataset.model_dump(mode="json", include=set(RECIPE)),
        published=snapshot.added_at.date(),
    )


def _licences(rows: pl.DataFrame) -> pl.DataFrame:
    """`license`, `pictures` and what each licence asks for, most first."""
    counts = rows.group_by(pl.col("license").fill_null(UNKNOWN)).agg(pictures=pl.len())
    asked = pl.DataFrame([asdict(from_spdx(spdx)) for spdx in counts["license"]]).drop("spdx", "version_assumed")
    return counts.hstack(asked).sort("pictures", "license", descending=[True, False])
