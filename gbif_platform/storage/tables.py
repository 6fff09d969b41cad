"""The lake's tables, and the only writers of them.

Each stage of a dataset's snapshot replaces its own rows, its quarantine and its entry in `stages` in one transaction,
so a kill leaves the previous state or the next one.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import duckdb
import polars as pl
import pyarrow.parquet as pq

from gbif_platform.storage.lake import Lake, quoted

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
"""Columns of a lineage, from the top."""
KEYS = "dataset VARCHAR NOT NULL, snapshot VARCHAR NOT NULL"
LINEAGE = ", ".join(f'"{rank}" VARCHAR' for rank in RANKS)
CATALOGUE = (
    "media_id VARCHAR, url_id VARCHAR, url VARCHAR, gbif_id VARCHAR, dataset_key VARCHAR, occurrence_id VARCHAR, "
    f"label VARCHAR, scientific_name VARCHAR, taxon_rank VARCHAR, taxon_key VARCHAR, {LINEAGE}, "
    "vernacular_name VARCHAR, license VARCHAR, creator VARCHAR, rights_holder VARCHAR, publisher VARCHAR, "
    '"references" VARCHAR, '
    "event_date VARCHAR, country_code VARCHAR, decimal_latitude DOUBLE, decimal_longitude DOUBLE, "
    "subset VARCHAR, nested VARCHAR[], width INTEGER, height INTEGER, caption_scientific VARCHAR, "
    "caption_taxonomic VARCHAR, caption_common VARCHAR, caption_scientific_common VARCHAR, "
    "caption_taxonomic_common VARCHAR"
)
"""Columns of both catalogues; of the predicted one `width` and `height` are null, and `subset` is where the split would
put the picture by what is known before it has arrived."""
TABLES = {
    "snapshots": f"{KEYS}, kind VARCHAR, reference VARCHAR, doi VARCHAR, download_key VARCHAR, archive VARCHAR, "
    "sha256 VARCHAR, size BIGINT, total_records BIGINT, license VARCHAR, metadata VARCHAR, citation VARCHAR, "
    "erase_after TIMESTAMPTZ, added_at TIMESTAMPTZ",
    "download_requests": "dataset VARCHAR NOT NULL, request VARCHAR NOT NULL, download_key VARCHAR, doi VARCHAR, "
    "status VARCHAR, reason VARCHAR, body VARCHAR, requested_at TIMESTAMPTZ, updated_at TIMESTAMPTZ",
    "download_datasets": f"{KEYS}, dataset_key VARCHAR, dataset_doi VARCHAR, title VARCHAR, citation VARCHAR, "
    "records BIGINT",
    "derived_datasets": f"{KEYS}, doi VARCHAR, body VARCHAR, registered_at TIMESTAMPTZ",
    "name_matches": f"{KEYS}, name VARCHAR, accepted BOOLEAN, reason VARCHAR, match_type VARCHAR, confidence INTEGER, "
    "usage_key VARCHAR, usage_name VARCHAR, usage_rank VARCHAR, status VARCHAR, accepted_key VARCHAR, "
    "accepted_name VARCHAR, checklist_key VARCHAR, note VARCHAR, alternatives VARCHAR",
    "stages": f"{KEYS}, stage VARCHAR NOT NULL, version VARCHAR NOT NULL, rows_in BIGINT, rows_out BIGINT, "
    "rows_refused BIGINT, rows_left BIGINT, seconds DOUBLE, run_id VARCHAR, written_at TIMESTAMPTZ",
    "occurrences": f"{KEYS}, gbif_id VARCHAR, dataset_key VARCHAR, occurrence_id VARCHAR, row_ref VARCHAR",
    "verbatim": f"{KEYS}, gbif_id VARCHAR, row_ref VARCHAR",
    "media_urls": f"{KEYS}, media_id VARCHAR, url_id VARCHAR, gbif_id VARCHAR, url VARCHAR, media_type VARCHAR, "
    "format VARCHAR, license_text VARCHAR, license VARCHAR, occurrence_license VARCHAR, attribution BOOLEAN, "
    "non_commercial BOOLEAN, no_derivatives BOOLEAN, share_alike BOOLEAN, creator VARCHAR, rights_holder VARCHAR, "
    'publisher VARCHAR, title VARCHAR, description VARCHAR, "references" VARCHAR, created VARCHAR, row_ref VARCHAR, '
    "sample_key UBIGINT, from_references BOOLEAN",
    "licence_texts": f"{KEYS}, field VARCHAR, text VARCHAR, license VARCHAR, media BIGINT",
    "taxa": f"{KEYS}, taxon_key VARCHAR, scientific_name VARCHAR, taxon_rank VARCHAR, taxonomic_status VARCHAR, "
    f"accepted_taxon_key VARCHAR, accepted_scientific_name VARCHAR, {LINEAGE}, hybrid BOOLEAN, label VARCHAR, "
    "decision VARCHAR, vernacular_name VARCHAR, checklist_key VARCHAR, occurrences BIGINT, media BIGINT",
    "snapshot_changes": f"{KEYS}, previous VARCHAR, change VARCHAR, media_id VARCHAR, previous_media_id VARCHAR, "
    "url_id VARCHAR, url VARCHAR, gbif_id VARCHAR, previous_gbif_id VARCHAR, label VARCHAR, previous_label VARCHAR, "
    "license VARCHAR, previous_license VARCHAR",
    "balanced_samples": f"{KEYS}, media_id VARCHAR, url_id VARCHAR, label VARCHAR, stratum VARCHAR",
    "label_conflicts": f"{KEYS}, url_id VARCHAR, url VARCHAR, media_id VARCHAR, gbif_id VARCHAR, dataset_key VARCHAR, "
    "label VARCHAR, decision VARCHAR",
    "sample_report": f"{KEYS}, stratum VARCHAR, label VARCHAR, available BIGINT, wanted BIGINT, taken BIGINT, "
    "reason VARCHAR",
    "sample_funnel": f"{KEYS}, position INTEGER, filter VARCHAR, media_in BIGINT, lost BIGINT, alone BIGINT, "
    "media_left BIGINT",
    "predicted_catalogue": f"{KEYS}, {CATALOGUE}",
    "images": "url_id VARCHAR NOT NULL, transform VARCHAR NOT NULL, url VARCHAR, status VARCHAR, reason VARCHAR, "
    "detail VARCHAR, http_status INTEGER, source_sha256 VARCHAR, sha256 VARCHAR, width INTEGER, height INTEGER, "
    "source_width INTEGER, source_height INTEGER, source_bytes BIGINT, source_format VARCHAR, frames INTEGER, "
    "shard VARCHAR, shard_offset BIGINT, shard_size BIGINT, attempts INTEGER, fetched_at TIMESTAMPTZ, "
    "retry_at TIMESTAMPTZ, rendition VARCHAR, fetched_url VARCHAR, etag VARCHAR, last_modified VARCHAR, "
    "checked_at TIMESTAMPTZ",
    "image_hashes": "sha256 VARCHAR NOT NULL, version VARCHAR NOT NULL, phash UBIGINT, reason VARCHAR",
    "duplicate_images": f"{KEYS}, media_id VARCHAR, url_id VARCHAR, label VARCHAR, group_id VARCHAR, kind VARCHAR, "
    "distance INTEGER, labels_agree BOOLEAN, decision VARCHAR",
    "duplicate_pairs": f"{KEYS}, url_id VARCHAR, other_url_id VARCHAR, kind VARCHAR, distance INTEGER, label VARCHAR, "
    "other_label VARCHAR",
    "splits": f"{KEYS}, media_id VARCHAR, subset VARCHAR, group_id VARCHAR, nested VARCHAR[], rule VARCHAR",
    "split_report": f"{KEYS}, label VARCHAR, subset VARCHAR, media BIGINT, groups BIGINT, wanted BIGINT, "
    "reason VARCHAR",
    "split_audit": f"{KEYS}, key VARCHAR, asked BOOLEAN, subset VARCHAR, other_subset VARCHAR, shared BIGINT",
    "split_moves": f"{KEYS}, media_id VARCHAR, label VARCHAR, group_id VARCHAR, previous_subset VARCHAR, "
    "subset VARCHAR, reason VARCHAR",
    "catalogue": f"{KEYS}, {CATALOGUE}",
    "catalogue_differences": f"{KEYS}, media_id VARCHAR, url VARCHAR, label VARCHAR, change VARCHAR, reason VARCHAR, "
    "detail VARCHAR",
    "models": f"{KEYS}, model VARCHAR, run_id VARCHAR, bundle VARCHAR, version VARCHAR, split_version VARCHAR, "
    "lake_version BIGINT, epochs INTEGER, seconds DOUBLE, trained_at TIMESTAMPTZ, history VARCHAR, start VARCHAR",
    "predictions": f"{KEYS}, model VARCHAR, media_id VARCHAR, subset VARCHAR, group_id VARCHAR, label VARCHAR, "
    "predicted VARCHAR, score DOUBLE, log_probability DOUBLE, top_labels VARCHAR[], top_scores DOUBLE[], "
    "answers VARCHAR, answer_row BIGINT",
    "evaluation_metrics": f"{KEYS}, model VARCHAR, run_id VARCHAR, subset VARCHAR, slice VARCHAR, metric VARCHAR, "
    "value DOUBLE, low DOUBLE, high DOUBLE",
    "promotions": f"{KEYS}, model VARCHAR, bundle VARCHAR, champion_snapshot VARCHAR, champion_bundle VARCHAR, "
    "test_digest VARCHAR, test_pictures BIGINT, promoted BOOLEAN, reason VARCHAR, comparison VARCHAR, "
    "decided_at TIMESTAMPTZ",
    "quarantine": f"{KEYS}, stage VARCHAR, row_ref VARCHAR, reason VARCHAR, detail VARCHAR",
}
STORED = ("sha256", "shard", "shard_offset", "shard_size", "etag", "last_modified", "checked_at")
"""Columns of `images` that say nothing where no picture is stored."""
TAKEN_DOWN = "taken_down"
"""Reason in `images` of a picture that is to be gone for good."""
PARTITION_KEYS = ("dataset", "snapshot")
PARTITIONED = (
    "occurrences",
    "verbatim",
    "media_urls",
    "snapshot_changes",
    "balanced_samples",
    "predicted_catalogue",
    "splits",
    "catalogue",
    "predictions",
)

Rows = pl.DataFrame | Path
"""Rows to write: a frame, or a Parquet file staged outside the commit lock."""


@dataclass(frozen=True)
class Stage:
    """One step of one snapshot of a dataset; `name` is the asset's, with `/model` where there are several."""

    dataset: str
    snapshot: str
    name: str


@dataclass
class Outcome:
    """What a step made: its rows, what it refused, and the account that the reconciliation check proves.

    `rows_in = rows_out + rows_refused + rows_left`, where `rows_left` were sound but not asked for (over a quota).
    `refused` has the columns of `refusals`; a staged file, where there may be millions.
    """

    rows: Mapping[str, Rows]
    rows_in: int
    rows_out: int
    rows_left: int = 0
    refused: Rows = field(default_factory=lambda: refusals([]))
    seconds: float = 0.0

    def refuse(self, rows: pl.DataFrame) -> None:
        """Add rows to those refused, which must be a frame."""
        if isinstance(self.refused, Path):
            raise TypeError("the refused rows are staged; nothing can be added to them")
        self.refused = self.refused.vstack(rows)


def refusals(rows: list[tuple[str | None, str, str]]) -> pl.DataFrame:
    """Quarantine rows (row_ref, reason, detail) as a frame."""
    return pl.DataFrame(rows, schema={"row_ref": pl.String, "reason": pl.String, "detail": pl.String}, orient="row")


def row_count(rows: Rows) -> int:
    """How many rows there are to write."""
    return pq.read_metadata(rows).num_rows if isinstance(rows, Path) else len(rows)


def initialise(lake: Lake) -> None:
    """Create what is missing, also columns that an earlier version did not have; existing rows stay."""
    with lake.reader() as con:
        if not any(_missing(con).values()):
            return
    with lake.transaction("gbif-platform init", "create tables") as con:
        con.execute("CALL lake.set_option('parquet_compression', 'zstd')")
        for name, columns in _missing(con).items():  # asked again: another process may have been faster
            if columns == TABLES[name]:
                con.execute(f"CREATE TABLE lake.{name} ({columns})")
                if name in PARTITIONED:
                    con.execute(f"ALTER TABLE lake.{name} SET PARTITIONED BY ({', '.join(PARTITION_KEYS)})")
            else:
                for column in filter(None, columns.split(", ")):
                    con.execute(f"ALTER TABLE lake.{name} ADD COLUMN {column}")


def _missing(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Columns that the lake lacks, by table: all of a table's, where it lacks the table."""
    rows = con.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'").fetchall()
    present = {f"{table}.{column}" for table, column in rows}
    return {
        table: ", ".join(
            column for column in columns.split(", ") if f"{table}.{column.split()[0].strip(chr(34))}" not in present
        )
        for table, columns in TABLES.items()
    }


def _scan(con: duckdb.DuckDBPyConnection, rows: Rows) -> str:
    """A table expression over the rows to write."""
    if isinstance(rows, Path):
        return f"read_parquet({quoted(str(rows))})"
    con.register("incoming", rows.to_arrow())
    return "incoming"


def _columns(con: duckdb.DuckDBPyConnection, expression: str) -> dict[str, str]:
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {expression}").fetchall()}


def _replace(
    con: duckdb.DuckDBPyConnection, table: str, keys: Mapping[str, str], rows: Rows, folder: Path | None = None
) -> Path | None:
    """Replace the rows that carry `keys`; columns that the table lacks are added to it.

    Args:
        folder: the lake's data, where it is on this machine; a staged file of a whole partition becomes the lake's own
            then, and is returned under its new name. To write a million wide rows once more would take 10 s of CPU.
    """
    source = _scan(con, rows)
    known = _columns(con, f"lake.{table}")
    for name, kind in _columns(con, source).items():
        if name not in known:
            con.execute(f'ALTER TABLE lake.{table} ADD COLUMN "{name}" {kind}')
    where = " AND ".join(f"{key} = ?" for key in keys)
    con.execute(f"DELETE FROM lake.{table} WHERE {where}", list(keys.values()))
    whole_partition = table in PARTITIONED and tuple(keys) == PARTITION_KEYS
    if folder and whole_partition and isinstance(rows, Path) and row_count(rows):
        return _adopt(con, folder, table, keys, rows)
    constants = ", ".join(f"? AS {key}" for key in keys)
    con.execute(f"INSERT INTO lake.{table} BY NAME SELECT {constants}, * FROM {source}", list(keys.values()))
    return None


def _adopt(con: duckdb.DuckDBPyConnection, folder: Path, table: str, keys: Mapping[str, str], file: Path) -> Path:
    """Move a Parquet file to where the lake keeps this partition, and register it there."""
    partition = [f"{key}={quote(value, safe='')}" for key, value in keys.items()]
    target = folder.joinpath("main", table, *partition, f"staged-{uuid4()}.parquet")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(file, target)
    try:
        con.execute(
            "CALL ducklake_add_data_files('lake', ?, ?, hive_partitioning => true, allow_missing => true)",
            [table, str(target)],
        )
    except BaseException:
        target.unlink()
        raise
    return target


def write_stage(
    lake: Lake, stage: Stage, version: str, outcome: Outcome, *, run_id: str, keys: Mapping[str, str] | None = None
) -> None:
    """Replace a stage's rows, quarantine and account in one transaction.

    Args:
        version: fingerprint of everything that the rows depend on; equal versions need not be computed again.
        keys: further key columns with their values (`{"model": …}`), beside dataset and snapshot.
    """
    own = {"dataset": stage.dataset, "snapshot": stage.snapshot}
    refused = row_count(outcome.refused)
    account = pl.DataFrame(
        {
            "version": [version],
            "rows_in": [outcome.rows_in],
            "rows_out": [outcome.rows_out],
            "rows_refused": [refused],
            "rows_left": [outcome.rows_left],
            "seconds": [outcome.seconds],
            "run_id": [run_id],
            "written_at": [datetime.now(UTC)],
        }
    )
    adopted: list[Path | None] = []
    try:
        with lake.transaction(run_id, f"{stage.dataset}/{stage.name} {stage.snapshot}") as con:
            for table, rows in outcome.rows.items():
                adopted.append(_replace(con, table, own | dict(keys or {}), rows, lake.folder))
            _replace(con, "quarantine", own | {"stage": stage.name}, outcome.refused)
            _replace(con, "stages", own | {"stage": stage.name}, account)
    except BaseException:
        for file in filter(None, adopted):
            file.unlink(missing_ok=True)
        raise


def stage_version(lake: Lake, stage: Stage) -> str | None:
    """The version of the rows that the lake holds for a stage, None before its first success."""
    with lake.reader() as con:
        row = con.execute(
            "SELECT version FROM lake.stages WHERE dataset = ? AND snapshot = ? AND stage = ?",
            [stage.dataset, stage.snapshot, stage.name],
        ).fetchone()
    return row[0] if row else None


def add_images(lake: Lake, rows: list[dict[str, object]], *, run_id: str) -> None:
    """Record fetched and failed pictures: the new row of a (url_id, transform) replaces the old one.

    A picture that is stored stays: where it is `unchanged`, or could not be had again, its row only learns when it was
    last asked for (`checked_at`). One that was taken down meanwhile stays so.
    """
    with lake.transaction(run_id, f"images: {len(rows)} rows") as con:
        empty = con.execute("SELECT * FROM lake.images LIMIT 0").pl()
        con.register("asked", pl.DataFrame(rows, schema=empty.schema).to_arrow())
        con.execute(
            "CREATE TEMP TABLE stored AS SELECT url_id, transform, asked.status, asked.checked_at FROM asked "
            "JOIN lake.images AS known USING (url_id, transform) WHERE known.status = 'ok' AND asked.status <> 'ok'"
        )
        con.execute(
            "CREATE TEMP TABLE incoming AS FROM asked ANTI JOIN stored USING (url_id, transform) "
            "WHERE status <> 'unchanged' AND url_id NOT IN "
            f"(SELECT url_id FROM lake.images WHERE reason = '{TAKEN_DOWN}')"
        )
        con.execute(
            "UPDATE lake.images SET checked_at = stored.checked_at FROM stored "
            "WHERE images.url_id = stored.url_id AND images.transform = stored.transform"
        )
        con.execute(
            "DELETE FROM lake.images USING incoming "
            "WHERE images.url_id = incoming.url_id AND images.transform = incoming.transform"
        )
        con.execute("INSERT INTO lake.images BY NAME SELECT * FROM incoming")


def mark_damaged(lake: Lake, places: Sequence[tuple[str, str, str]], *, run_id: str) -> int:
    """Make stored pictures failed ones, due now; returns how many.

    Args:
        places: (shard, url_id, detail), each picture once.
    """
    with lake.transaction(run_id, f"images: {len(places)} damaged") as con:
        columns = dict.fromkeys(("shard", "url_id", "detail"), pl.String)
        con.register("places", pl.DataFrame(places, schema=columns, orient="row").to_arrow())
        row = con.execute(
            "UPDATE lake.images SET status = 'failed', reason = 'damaged', detail = places.detail, retry_at = now(), "
            f"{', '.join(f'{column} = NULL' for column in STORED)} FROM places "
            "WHERE images.shard = places.shard AND images.url_id = places.url_id AND images.status = 'ok'"
        ).fetchone()
    return int(row[0]) if row else 0


def add_hashes(lake: Lake, rows: pl.DataFrame, *, run_id: str) -> None:
    """Record the hashes of stored pictures; what another run has recorded meanwhile stays."""
    with lake.transaction(run_id, f"image_hashes: {len(rows)} rows") as con:
        con.register("incoming", rows.to_arrow())
        con.execute(
            "INSERT INTO lake.image_hashes BY NAME SELECT * FROM incoming "
            "ANTI JOIN lake.image_hashes AS known USING (sha256, version)"
        )


def put_snapshot(lake: Lake, dataset: str, snapshot: str, row: Mapping[str, object], *, author: str) -> None:
    """Record a snapshot of a dataset, or what has become known of it since."""
    with lake.transaction(author, f"{dataset}: snapshot {snapshot}") as con:
        _replace(con, "snapshots", {"dataset": dataset, "snapshot": snapshot}, pl.DataFrame([dict(row)]))


def put_rows(lake: Lake, table: str, keys: Mapping[str, str], rows: Rows, *, author: str) -> None:
    """Replace the rows of a table that carry `keys`, e.g. `{"dataset": …, "snapshot": …}`, in one transaction."""
    with lake.transaction(author, f"{table}: {', '.join(keys.values())}") as con:
        _replace(con, table, keys, rows)


def snapshots(lake: Lake, dataset: str) -> pl.DataFrame:
    """The snapshots of a dataset, oldest first."""
    return lake.frame("SELECT * FROM snapshots WHERE dataset = ? ORDER BY added_at, snapshot", [dataset])
