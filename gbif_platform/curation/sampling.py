"""Balanced samples: exact, seeded, the same on any machine, and stable while the data grow."""

import hashlib

import duckdb
import polars as pl

from gbif_platform.curation.duplicates import label_conflicts, settle_repeated_urls
from gbif_platform.dataset import Filters, Sampling
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.licences import allowed
from gbif_platform.gbif.terms import snake_case
from gbif_platform.storage.tables import Outcome

VERSION = "3"
BOOKKEEPING = ("dataset", "snapshot", "row_ref")
"""Columns of the lake that are no terms."""
NO_LABEL = "(no label)"
"""Stratum of media without a label: policy `all` takes them, so that another label needs no fetching; no split does."""


def draw_order(sample_key: str, seed: int) -> str:
    """SQL for the place of a medium in the draw: its UBIGINT sample key, permuted by a seed.

    A Feistel network of three rounds over 32-bit halves: a bijection of plain integer operations, so that it costs next
    to nothing, and the same on any machine and version (DuckDB's own `hash()` is not promised to be).
    """
    digest = hashlib.sha256(str(seed).encode()).digest()
    keys = [int.from_bytes(digest[4 * n : 4 * n + 4], "big") | 1 for n in range(3)]
    first = f"({sample_key} & 4294967295)"
    second = _feistel(f"({sample_key} >> 32)", first, keys[0])
    third = _feistel(first, second, keys[1])
    return f"({_feistel(second, third, keys[2])} << 32 | {third})"


def _feistel(left: str, right: str, key: int) -> str:
    return f"xor({left}, ({right} * {key}::UBIGINT >> 16) & 4294967295)"


class NothingToSample(PlatformError):
    """No medium is left after label and filters."""


class UnknownLabel(PlatformError):
    """The label is no column of the occurrences, or an empty one."""


def label_column(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, label: str) -> str:
    """The column of a GBIF or Darwin Core term.

    Raises:
        UnknownLabel: no such column, or nothing in it; the message lists the columns that could serve.
    """
    column = snake_case(label)
    if column in occurrences.columns and column not in BOOKKEEPING:
        counts = con.sql(f'SELECT count("{column}") FROM occurrences').fetchone()
        if counts and counts[0]:
            return column
    texts = [
        name
        for name, kind in zip(occurrences.columns, occurrences.types, strict=True)
        if str(kind) == "VARCHAR" and name not in BOOKKEEPING
    ]
    columns = ", ".join(f'count("{name}")' for name in texts)
    counts = con.sql(f"SELECT {columns} FROM occurrences").fetchone() or ()
    filled = [name for name, count in zip(texts, counts, strict=True) if count]
    raise UnknownLabel(
        f"label {label!r} is no column with values; there are: {', '.join(filled)}",
        "correct label: in the dataset file",
    )


def balanced_sample(
    con: duckdb.DuckDBPyConnection,
    media: duckdb.DuckDBPyRelation,
    occurrences: duckdb.DuckDBPyRelation,
    *,
    label: str,
    filters: Filters,
    sampling: Sampling,
) -> Outcome:
    """Choose the media of a dataset.

    The members of a label are the first `per_label` by a seeded hash of the medium's identity. So a larger quota is a
    superset of a smaller one, and new data displace only what they outrank.

    Args:
        con: any DuckDB connection.
        media: `media_id`, `url_id`, `url`, `gbif_id`, `license`, `sample_key`; `license_text` and
            `occurrence_license` where the occurrence's licence may stand in.
        occurrences: `gbif_id`, `dataset_key`, the label's column, `basis_of_record` where the filter asks for it.

    Returns:
        `balanced_samples` rows, `sample_report` (one row a label, also for those left out) and `label_conflicts`;
        refused: no_label, licence_not_allowed, basis_of_record_not_allowed, label_conflict, duplicate_url.

    Raises:
        UnknownLabel, NothingToSample
    """
    column = label_column(con, occurrences, label)
    licence = licence_counted(filters, "m")
    licences = [row[0] for row in con.sql(f"SELECT DISTINCT {licence} FROM media m").fetchall()]
    good = [spdx for spdx in licences if allowed(spdx, filters.licences)]
    basis = _basis_condition(occurrences, filters)
    con.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE candidates AS
        SELECT media_id, url_id, nullif(trim(o."{column}"::VARCHAR), '') AS label,
               coalesce(label, '{NO_LABEL}') AS stratum,
               sample_key, {draw_order("sample_key", sampling.seed)} AS draw,
               CASE WHEN label IS NULL AND {sampling.policy == "balanced"} THEN 'no_label'
                    WHEN NOT list_contains(?, {licence}) THEN 'licence_not_allowed'
                    WHEN NOT ({basis}) THEN 'basis_of_record_not_allowed' END AS reason,
               CASE reason WHEN 'no_label' THEN 'no {column}'
                           WHEN 'licence_not_allowed' THEN {licence} ELSE '' END AS detail
        FROM media m JOIN occurrences o USING (gbif_id)""",
        [good, *([filters.basis_of_record] if filters.basis_of_record is not None else [])],
    )
    settle_repeated_urls(con, filters.duplicates)
    report = _report(con, sampling)
    refused = con.sql("SELECT media_id AS row_ref, reason, detail FROM candidates WHERE reason IS NOT NULL").pl()
    if report["taken"].sum() == 0:
        raise _nothing(refused, report, sampling)
    sample = con.sql("""
        SELECT media_id, url_id, label, stratum FROM candidates JOIN report USING (stratum)
        WHERE candidates.reason IS NULL AND taken > 0
        QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY draw, media_id) <= taken
        ORDER BY media_id""").pl()
    total = con.sql("SELECT count(*) FROM candidates").fetchone() or (0,)
    return Outcome(
        {
            "balanced_samples": sample,
            "sample_report": report,
            "label_conflicts": label_conflicts(con, media, occurrences),
        },
        rows_in=total[0],
        rows_out=len(sample),
        rows_left=int(report["available"].sum()) - len(sample),
        refused=refused,
    )


def licence_counted(filters: Filters, table: str = "media_urls") -> str:
    """SQL for the licence that a medium of `table` counts as being under."""
    if filters.licence_fallback == "none":
        return f"{table}.license"
    silent = f"trim(coalesce({table}.license_text, '')) = ''"
    return f"CASE WHEN {silent} THEN {table}.occurrence_license ELSE {table}.license END"


def _basis_condition(occurrences: duckdb.DuckDBPyRelation, filters: Filters) -> str:
    if filters.basis_of_record is None:
        return "true"
    if "basis_of_record" not in occurrences.columns:
        raise PlatformError("filters.basis_of_record: the occurrences have no basisOfRecord", "remove the filter")
    return "coalesce(list_contains(?, o.basis_of_record), false)"


def _report(con: duckdb.DuckDBPyConnection, sampling: Sampling) -> pl.DataFrame:
    """Available, wanted and taken for each label, and why they differ."""
    available = con.sql("""
        SELECT stratum, count(*) FILTER (reason IS NULL) AS available FROM candidates
        WHERE reason IS NULL OR label IS NOT NULL GROUP BY stratum ORDER BY stratum""").pl()
    unlabelled = pl.col("stratum") == NO_LABEL
    kept = (pl.col("available") >= sampling.min_per_label) | unlabelled
    quota: int | None = None
    if sampling.policy == "balanced":
        smallest = available.filter(kept)["available"].min()
        quota = sampling.per_label or (int(str(smallest)) if smallest is not None else 0)
    wanted = pl.col("available") if quota is None else pl.lit(quota, dtype=pl.Int64)
    return available.select(
        "stratum",
        "available",
        wanted.alias("wanted"),
        pl.when(kept).then(pl.min_horizontal("available", wanted)).otherwise(0).alias("taken"),
        pl.when(pl.col("available") == 0)
        .then(pl.lit("none passes the filters"))
        .when(~kept)
        .then(pl.lit(f"fewer than min_per_label = {sampling.min_per_label}"))
        .when(unlabelled)
        .then(pl.lit("fetched, but in no subset"))
        .when(pl.col("available") < wanted)
        .then(pl.lit("all there are"))
        .otherwise(pl.lit("as wanted"))
        .alias("reason"),
    )


def _nothing(refused: pl.DataFrame, report: pl.DataFrame, sampling: Sampling) -> NothingToSample:
    counts = refused.group_by("reason").len().sort("len", descending=True)
    reasons = [f"{row['len']:,} {row['reason']}" for row in counts.iter_rows(named=True)]
    if report["available"].sum():
        reasons.append(f"{int(report['available'].sum()):,} in labels under min_per_label = {sampling.min_per_label}")
    return NothingToSample(
        f"no medium is left to sample: {'; '.join(reasons) or 'the snapshot has no usable media'}",
        "loosen filters: (licences: any shows what there is), correct label:, or lower sampling.min_per_label",
    )
