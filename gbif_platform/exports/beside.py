"""What lies in every export beside the pictures: catalogue, attribution, licences, citation, card and Croissant."""

import json
from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.exports.card import dataset_card
from gbif_platform.exports.catalogue import COLUMNS, FORMATS, FORMULA, write_files
from gbif_platform.exports.contents import Export, ExportFile
from gbif_platform.exports.croissant import croissant
from gbif_platform.exports.layout import Layout, described
from gbif_platform.gbif.citations import attribution
from gbif_platform.gbif.licences import page_of
from gbif_platform.storage.objects import ObjectStore

NO_DOI = "This snapshot has no DOI; cite its datasets."


def write_beside(export: Export, layout: Layout, shards: Iterable[ExportFile], folder: Path) -> None:
    """Write these files into a folder of their own; the same export gives the same bytes.

    Args:
        export: with `file` in its rows.
        shards: files of the export with many pictures each.
    """
    _catalogue(export, folder)
    _attribution(export).write_csv(folder / "attribution.csv")
    (folder / "LICENCES.txt").write_text(_licences(export), encoding="utf-8")
    (folder / "CITATION.txt").write_text(_citation(export), encoding="utf-8")
    layout.beside(export, folder)
    (folder / "README.md").write_text(dataset_card(export), encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    described_files = [described(folder, path) for path in files]
    said = croissant(export, [*shards, *described_files])
    (folder / "croissant.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _catalogue(export: Export, folder: Path) -> None:
    """catalogue.parquet and catalogue.csv."""
    with duckdb.connect() as con:
        arrow = export.rows.select(COLUMNS).to_arrow()  # noqa: F841  read by name
        keys = {kind: f"catalogue.{kind}" for kind in FORMATS}
        work = folder / "work"
        work.mkdir()
        write_files(con.sql("FROM arrow"), ObjectStore(str(folder)), keys, work).unlink()
        work.rmdir()


def _attribution(export: Export) -> pl.DataFrame:
    """One row a picture with its line of credit; texts are safe in spreadsheets, as those of the catalogue's CSV."""
    rows = export.rows.select(
        *("media_id", "file", "subset", "gbif_id"),
        # GBIF's ids are numbers; those of rows of a list are not, and have no page there
        pl.when(pl.col("gbif_id").str.contains(r"^\d+$"))
        .then("https://www.gbif.org/occurrence/" + pl.col("gbif_id"))
        .alias("occurrence"),
        *("dataset_key", "license", "creator", "rights_holder", "publisher", "url", "references"),
    )
    texts = pl.col(pl.String)
    return attribution(rows).with_columns(
        pl.when(texts.str.contains(FORMULA)).then("'" + texts).otherwise(texts).name.keep()
    )


def _licences(export: Export) -> str:
    lines = [f"The whole: {export.licence or 'unknown'}", "", "Each picture's own licence is in attribution.csv.", ""]
    for name, pictures in export.licences.select("license", "pictures").iter_rows():
        page = page_of(name)
        lines.append(f"{name}: {pictures:,} pictures{f', {page}' if page else ''}")
    return "\n".join(lines) + "\n"


def _citation(export: Export) -> str:
    lines = export.citations or [NO_DOI]
    if export.dataset_citations:
        lines = [*lines, "", "Records of these datasets are in it:", "", *export.dataset_citations]
    return "\n".join(lines) + "\n"
