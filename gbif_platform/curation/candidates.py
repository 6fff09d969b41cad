"""The media that may enter a sample, as narrow rows in a staged file, so that 100 million are never held in memory.

What a medium is sampled by is 40 bytes; its ids are looked up again for those chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from gbif_platform.curation.allocation import NO_LABEL
from gbif_platform.curation.filters import Condition, literal, term_column
from gbif_platform.curation.preferences import Preference

ROW_GROUP = 60_000
NO_VALUE = "(none)"
SEPARATOR = " | "
"""Between the values of a stratum's name, where it has several; a `|` within one of them is written `\\|`."""
LAST_BITS = "('0x' || right(media_id, 16))::UBIGINT"
"""SQL: the last 64 bits of a media id; the first are its sample key, so both together are the id, in its order."""
MOST_CONDITIONS = 63  # bits of a number


def stratum_name(values: Sequence[str]) -> str:
    """The name of a stratum: of different values a different one, as its name is what it is known by."""
    return SEPARATOR.join(value.replace("|", r"\|") for value in values) if len(values) > 1 else values[0]


def stratum_values(name: str, count: int) -> tuple[str, ...]:
    """The values of a stratum of that name."""
    return tuple(value.replace(r"\|", "|") for value in name.split(SEPARATOR)) if count > 1 else (name,)


@dataclass(frozen=True)
class Candidates:
    """All media of a snapshot, judged.

    Attributes:
        file: Parquet with `sample_key`; `mark` (further bits of the media id);
            `url_bits` (64 bits of the url id; equal bits are a suspicion only); `cell`; `level` (preference, 0 first);
            `occurrence` (number of the occurrence); `failed` (bit n = it fails condition n).
        cells: `cell`, `stratum`, `label`: what quotas are for. `label` null: none.
        conditions: in the order of the funnel.
        of_medium: those of them that concern the medium, not its occurrence.
        owners: Parquet with `owner`, `failed`, `detail` of the occurrences.
        key: SQL of the `owner` of a medium.
        mark: SQL of its `mark`: its id's last bits where they can decide, else the engine's hash, four times as cheap.
    """

    file: Path
    cells: pl.DataFrame
    conditions: list[Condition]
    of_medium: list[Condition]
    owners: Path
    key: str
    mark: str

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(pq.read_metadata(self.file).num_rows)


def parquet(file: Path | Sequence[Path]) -> str:
    """SQL for the rows of Parquet files."""
    files = [file] if isinstance(file, Path) else file
    return f"read_parquet([{', '.join(literal(str(one)) for one in files)}])"


def stage(rows: duckdb.DuckDBPyRelation, file: Path) -> Path:
    """Write rows to a Parquet file for this run."""
    rows.write_parquet(str(file), compression="lz4", row_group_size=ROW_GROUP)
    return file


def stratum_sql(columns: Mapping[str, str], streams: Sequence[str], label: str, label_column: str) -> str | None:
    """SQL over `o`: the values of the terms that make the strata, joined; None where there are none.

    Args:
        streams: terms, as `sampling.split_streams_by` has them.
        label: SQL of the label, which stands for the label's own term.

    Raises UnknownTerm.
    """
    values = []
    for term in streams:
        column = term_column(columns, term, "sampling.split_streams_by")
        value = label if column == label_column else f"""nullif(trim(o."{column}"::VARCHAR), '')"""
        values.append(f"coalesce({value}, '{NO_VALUE}')")
    if len(values) > 1:
        values = [f"replace({value}, '|', '\\|')" for value in values]
    return f" || '{SEPARATOR}' || ".join(values) or None


def judged(
    con: duckdb.DuckDBPyConnection,
    media: duckdb.DuckDBPyRelation,
    occurrences: duckdb.DuckDBPyRelation,
    *,
    label: str,
    stratum: str | None,
    conditions: list[Condition],
    preference: Preference,
    numbered: bool,
    work: Path,
) -> Candidates:
    """Join media and occurrences once, and judge each medium.

    Args:
        label, stratum: SQL over `o`; without a stratum it is the label, and without a label it is NO_LABEL.
        conditions: each concerns the medium `m` or the occurrence `o`, not both.
        numbered: whether the column `occurrence` is asked for; it is 0 otherwise.
    """
    if len(conditions) > MOST_CONDITIONS:
        raise ValueError(f"{len(conditions)} conditions are more than {MOST_CONDITIONS}")
    bits = _bits(conditions)
    of_occurrence = [condition for condition in conditions if _concerns_occurrence(con, occurrences, condition)]
    of_medium = [condition for condition in conditions if condition not in of_occurrence]
    details = " ".join(f"WHEN {one.fails} THEN {one.detail}" for one in of_occurrence) or "WHEN false THEN ''"
    key = _key(con, occurrences)
    mark = LAST_BITS if numbered else "hash(media_id)"
    owners = stage(
        con.sql(f"""
            SELECT {key} AS owner, {label} AS label,
                   {f"CASE WHEN ({label}) IS NOT NULL THEN {stratum} END" if stratum else "NULL::VARCHAR"} AS stratum,
                   {_failed(of_occurrence, bits)} AS failed, {preference.of_occurrence} AS level,
                   CASE {details} END AS detail, {"row_number() OVER ()" if numbered else "0"} AS occurrence
            FROM occurrences o"""),
        work / "owners.parquet",
    )
    kinds = con.sql(f"""
        SELECT row_number() OVER ()::INTEGER AS kind, coalesce(stratum, label, '{NO_LABEL}') AS name,
               dense_rank() OVER (ORDER BY name, label)::INTEGER AS cell, *
        FROM (SELECT DISTINCT stratum, label, failed, level FROM {parquet(owners)})""").pl()
    # What is large is hashed before the join, which holds little more than numbers then.
    file = stage(
        con.sql(f"""
            SELECT sample_key, mark, url_bits, cell, {"occurrence" if numbered else "0"} AS occurrence,
                   m.failed | kinds.failed AS failed, m.level + kinds.level AS level
            FROM (SELECT {key} AS owner, sample_key, {mark} AS mark, hash(url_id) AS url_bits,
                         {_failed(of_medium, bits)} AS failed, {preference.of_medium} AS level
                  FROM media m) m
            JOIN (SELECT owner, kind{", occurrence" if numbered else ""}
                  FROM {parquet(owners)} owners
                  JOIN kinds ON kinds.label IS NOT DISTINCT FROM owners.label
                    AND kinds.stratum IS NOT DISTINCT FROM owners.stratum
                    AND kinds.failed = owners.failed AND kinds.level = owners.level) USING (owner)
            JOIN kinds USING (kind)"""),
        work / "candidates.parquet",
    )
    cells = kinds.select("cell", pl.col("name").alias("stratum"), "label").unique().sort("cell")
    return Candidates(file, cells, conditions, of_medium, owners, key, mark)


def _key(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation) -> str:
    """SQL of what occurrences are joined by: GBIF's ids as numbers, which takes half the time; others as they are."""
    number = "try_cast(gbif_id AS UBIGINT)"
    plain = con.sql(f"SELECT bool_and(coalesce({number}::VARCHAR = gbif_id, false)) FROM occurrences").fetchone()
    return number if plain == (True,) else "gbif_id"


def failing_media(
    con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, candidates: Candidates
) -> duckdb.DuckDBPyRelation:
    """The media that fail a condition, by the first of them: `row_ref`, `reason`, `detail`."""
    conditions = candidates.conditions
    if not conditions:
        return con.sql("SELECT '' AS row_ref, '' AS reason, '' AS detail WHERE false")
    bits = _bits(conditions)
    reasons = [f"WHEN failing & {bits[one.filter]} <> 0 THEN {literal(one.filter)}" for one in conditions]
    details = [
        f"WHEN failing & {bits[one.filter]} <> 0 THEN {one.detail if one in candidates.of_medium else 'o.detail'}"
        for one in conditions
    ]
    return con.sql(f"""
        SELECT row_ref, reason, detail
        FROM (SELECT m.media_id AS row_ref, {_failed(candidates.of_medium, bits)} | coalesce(o.failed, 0) AS failing,
                     CASE {" ".join(reasons)} END AS reason, CASE {" ".join(details)} END AS detail
              FROM media m LEFT JOIN (
                  SELECT owner, failed, detail FROM {parquet(candidates.owners)} WHERE failed <> 0) o
              ON {candidates.key} = o.owner)
        WHERE failing <> 0""")


def _bits(conditions: Sequence[Condition]) -> dict[str, int]:
    return {condition.filter: 1 << place for place, condition in enumerate(conditions)}


def _concerns_occurrence(
    con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, condition: Condition
) -> bool:
    """Whether the condition can be judged by the occurrence alone."""
    try:
        con.sql(f"SELECT {condition.fails}, {condition.detail} FROM occurrences o LIMIT 0")
    except duckdb.BinderException:
        return False
    return True


def _failed(conditions: Sequence[Condition], bits: Mapping[str, int]) -> str:
    """SQL: the bits of the conditions that fail, a UBIGINT."""
    failing = [
        f"CASE WHEN {condition.fails} THEN {bits[condition.filter]} ELSE 0 END::UBIGINT" for condition in conditions
    ]
    return " | ".join(failing) or "0::UBIGINT"
