"""The same comparison with Polars' full join: diff_polars.py OLD NEW FOLDER."""

import json
import sys
import time
from pathlib import Path

import polars as pl


def lone(media: pl.DataFrame) -> pl.DataFrame:
    """The media that are alone under their URL and data set."""
    return media.filter(pl.struct("url_id", "dataset_key").is_unique()).select("url_id", "dataset_key", "media_id")


def main() -> None:
    old, new, work = map(Path, sys.argv[1:4])
    start = time.monotonic()
    was, now = pl.read_parquet(old), pl.read_parquet(new)
    removed, added = was.join(now, on="media_id", how="anti"), now.join(was, on="media_id", how="anti")
    names = lone(removed).join(lone(added), on=["url_id", "dataset_key"], suffix="_new")
    was = was.join(names.select("media_id", now_id="media_id_new"), on="media_id", how="left").with_columns(
        pl.coalesce("now_id", "media_id").alias("now_id")
    )
    both = now.join(was, left_on="media_id", right_on="now_id", how="full", suffix="_old", coalesce=False)
    kept = pl.col("media_id").is_not_null() & pl.col("media_id_old").is_not_null()
    chosen = {
        "added": pl.col("media_id_old").is_null(),
        "removed": pl.col("media_id").is_null(),
        "relabelled": kept & (pl.col("label") != pl.col("label_old")),
        "licence_changed": kept & (pl.col("license") != pl.col("license_old")),
        "gbif_id_changed": kept
        & ((pl.col("gbif_id") != pl.col("gbif_id_old")) | (pl.col("media_id") != pl.col("media_id_old"))),
    }
    found = {change: both.filter(rows).with_columns(change=pl.lit(change)) for change, rows in chosen.items()}
    pl.concat(found.values()).write_parquet(work / "changes.parquet", compression="zstd")
    counts = {change: len(rows) for change, rows in found.items()}
    print(json.dumps({"seconds": time.monotonic() - start, "counts": counts}))


if __name__ == "__main__":
    main()
