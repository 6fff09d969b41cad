"""The strata of a sample and what each gives: those that the snapshot has, and those that were asked for in vain."""

import itertools
from collections.abc import Mapping, Sequence

import duckdb
import polars as pl

from gbif_platform.curation.allocation import NO_LABEL, allocate
from gbif_platform.curation.candidates import Candidates, parquet, stratum_name, stratum_values
from gbif_platform.curation.spec import Sampling

ANY_VALUE = "(any)"
NO_MEDIA = "no media"
NONE_IN_SNAPSHOT = "none in the snapshot"


def sample_report(
    con: duckdb.DuckDBPyConnection,
    candidates: Candidates,
    levels: pl.DataFrame,
    sampling: Sampling,
    asked: Mapping[str, Sequence[str] | None],
    label_column: str,
) -> pl.DataFrame:
    """Rows of table `sample_report`, with the number of the `cell` (null: none in the snapshot).

    Args:
        levels: `cell`, `media`: what may be taken; a cell may have several rows.
        asked: values asked for of each column that makes the strata, None where there are none.
    """
    media = con.sql(f"SELECT cell, count(*) AS media FROM {parquet(candidates.file)} GROUP BY cell").pl()
    available = levels.group_by("cell").agg(available=pl.col("media").sum().cast(pl.Int64))
    strata = (
        candidates.cells.join(media, on="cell", how="left")
        .join(available, on="cell", how="left")
        .with_columns(pl.col("media", "available").fill_null(0))
        .filter(pl.col("label").is_not_null() | (pl.col("available") > 0))
    )
    missing = _missing(candidates.cells, asked, label_column)
    slips = _unknown_labels(candidates.cells, missing, asked, label_column, sampling.downsample)
    strata = pl.concat([strata, missing, slips], how="diagonal").sort("stratum", "label", nulls_last=True)
    none = pl.when(strata["cell"].is_null()).then(pl.lit(NONE_IN_SNAPSHOT))
    reason = none.when(strata["media"] == 0).then(pl.lit(NO_MEDIA)).otherwise("reason")
    return (
        allocate(strata.select("stratum", "label", "available"), sampling)
        .with_columns(strata["cell"], reason.alias("reason"))
        .select("cell", "stratum", "label", "available", "wanted", "taken", "reason")
    )


def _missing(cells: pl.DataFrame, asked: Mapping[str, Sequence[str] | None], label_column: str) -> pl.DataFrame:
    """Strata of the product of the values asked for that the snapshot has none of."""
    places = [place for place, values in enumerate(asked.values()) if values is not None]
    names = cells.filter(pl.col("stratum") != NO_LABEL)["stratum"].to_list()
    found = {
        tuple(values[place] for place in places) for values in (stratum_values(name, len(asked)) for name in names)
    }
    rows = []
    for wanted in itertools.product(*(values for values in asked.values() if values is not None)) if places else ():
        if wanted not in found:
            named = dict(zip([list(asked)[place] for place in places], wanted, strict=True))
            rows.append((_name(asked, named), named.get(label_column)))
    return _none_of(rows)


def _unknown_labels(
    cells: pl.DataFrame,
    missing: pl.DataFrame,
    asked: Mapping[str, Sequence[str] | None],
    label_column: str,
    downsample: Mapping[str, float],
) -> pl.DataFrame:
    """Labels that `downsample` names and the snapshot has none of."""
    known = {*cells["label"], *missing["label"]}
    return _none_of([(_name(asked, {label_column: label}), label) for label in downsample if label not in known])


def _name(asked: Mapping[str, object], named: Mapping[str, str]) -> str:
    return stratum_name([named.get(column, ANY_VALUE) for column in asked])


def _none_of(rows: Sequence[tuple[str, str | None]]) -> pl.DataFrame:
    """Strata, with their labels, of which there is nothing."""
    frame = pl.DataFrame(rows, schema={"stratum": pl.String, "label": pl.String}, orient="row")
    none = pl.lit(0, dtype=pl.Int64)
    return frame.unique(maintain_order=True).with_columns(media=none, available=none)
