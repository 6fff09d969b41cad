"""The first of each stratum by preference and draw: the order of a seeded hash, exact, in bounded memory."""

import hashlib
import math
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from gbif_platform.curation.candidates import parquet, stage

RANKED_AT_ONCE = 5_000_000
LAST = 2**64 - 1


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


def first_of_occurrences(
    con: duckdb.DuckDBPyConnection, passing: str, rows: int, most: int, seed: int, work: Path
) -> list[Path]:
    """Of each occurrence the first `most` media by preference and draw, as Parquet files.

    Args:
        passing: SQL for candidates: `sample_key`, `mark`, `cell`, `level`, `occurrence`.
        rows: how many they are.
    """
    parts = max(1, -(-rows // RANKED_AT_ONCE))
    return [
        stage(
            con.sql(f"""SELECT sample_key, mark, cell, level FROM {passing} WHERE occurrence % {parts} = {part}
                QUALIFY row_number() OVER (
                    PARTITION BY occurrence ORDER BY level, {draw_order("sample_key", seed)}, mark) <= {most}"""),
            work / f"first-{part}.parquet",
        )
        for part in range(parts)
    ]


def chosen(
    con: duckdb.DuckDBPyConnection, passing: str, levels: pl.DataFrame, quotas: pl.DataFrame, seed: int, file: Path
) -> Path:
    """The first of each cell by preference and draw, as Parquet with `sample_key`, `mark`, `cell`, `level`, `draw`.

    Media with the same 64-bit key as the last one of a quota come along: their ids decide (see `balanced_sample`).

    Args:
        passing: SQL for candidates: `sample_key`, `mark`, `cell`, `level`.
        levels: `cell`, `level`, `media`: how many there are.
        quotas: `cell`, `taken`: how many are wanted, no more than there are.
    """
    limits = _limits(levels, quotas)
    _choose(con, passing, limits, seed, file)
    found = con.sql(f"SELECT cell, count(*) AS found FROM {parquet(file)} GROUP BY cell").pl()
    few = quotas.join(found, on="cell", how="left").filter(pl.col("found").fill_null(0) < pl.col("taken"))["cell"]
    if len(few):  # their draws are unevenly spread, which chance does not do
        spread = pl.when(pl.col("cell").is_in(few.implode())).then(pl.lit(LAST, dtype=pl.UInt64))
        limits = limits.with_columns(spread.otherwise("threshold").alias("threshold"))
        _choose(con, passing, limits, seed, file)
    return file


def _limits(levels: pl.DataFrame, quotas: pl.DataFrame) -> pl.DataFrame:
    """Of each level of preference that gives anything: `quota`, whether it gives all (`whole`), and `threshold`: the
    draw behind which none of its quota lies, so that only few rows need to be ranked.

    Of n media whose draws are spread by chance, fewer than Q lie below (Q + 8√Q + 20)/n with a probability under 1e-12.
    """
    before = pl.col("media").cum_sum().over("cell", order_by="level") - pl.col("media")
    limits = (
        levels.join(quotas, on="cell")
        .with_columns(quota=(pl.col("taken") - before).clip(0, pl.col("media")))
        .filter(pl.col("quota") > 0)
        .with_columns(whole=pl.col("quota") == pl.col("media"))
    )
    quota, media = limits["quota"].to_numpy(), limits["media"].to_numpy()
    many = media > 2 * quota + 60
    threshold = np.full(len(limits), LAST, dtype=np.uint64)
    share = (quota[many] + 8 * np.sqrt(quota[many]) + 20) / media[many]  # below 0.8
    threshold[many] = np.floor(share * math.ldexp(1, 64)).astype(np.uint64)
    return limits.select("cell", "level", "quota", "whole").with_columns(threshold=threshold)


def _choose(con: duckdb.DuckDBPyConnection, passing: str, limits: pl.DataFrame, seed: int, file: Path) -> None:
    """Whole levels go through without being ranked: there may be 100 million of them."""
    whole = limits.filter("whole").select("cell", "level")  # noqa: F841  read by name
    ranked = limits.filter(~pl.col("whole"))
    draw = draw_order("sample_key", seed)
    parts = [f"SELECT sample_key, mark, cell, level, {draw} AS draw FROM {passing} SEMI JOIN whole USING (cell, level)"]
    if len(ranked):
        parts.append(f"""
            SELECT sample_key, mark, cell, level, {draw} AS draw FROM {passing} JOIN ranked USING (cell, level)
            WHERE draw <= threshold QUALIFY rank() OVER (PARTITION BY cell ORDER BY draw) <= quota""")
    stage(con.sql(" UNION ALL ".join(f"({part})" for part in parts)), file)
