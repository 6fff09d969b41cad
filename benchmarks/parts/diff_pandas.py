"""The same comparison with pandas: diff_pandas.py OLD NEW FOLDER, run by the peer's Python."""

import json
import sys
import time
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]


def lone(media: pd.DataFrame) -> pd.DataFrame:
    """The media that are alone under their URL and data set."""
    return media[~media.duplicated(["url_id", "dataset_key"], keep=False)]


def main() -> None:
    old, new, work = map(Path, sys.argv[1:4])
    start = time.monotonic()
    was, now = pd.read_parquet(old), pd.read_parquet(new)
    removed, added = was[~was["media_id"].isin(now["media_id"])], now[~now["media_id"].isin(was["media_id"])]
    pairs = lone(removed).merge(lone(added), on=["url_id", "dataset_key"], suffixes=("_old", ""))
    names = dict(zip(pairs["media_id_old"], pairs["media_id"], strict=True))
    was["now_id"] = was["media_id"].map(names).fillna(was["media_id"])
    both = was.merge(
        now, how="outer", left_on="now_id", right_on="media_id", suffixes=("_old", ""), indicator=True, sort=False
    )
    kept = both["_merge"] == "both"
    chosen = {
        "added": both["_merge"] == "right_only",
        "removed": both["_merge"] == "left_only",
        "relabelled": kept & (both["label"] != both["label_old"]),
        "licence_changed": kept & (both["license"] != both["license_old"]),
        "gbif_id_changed": kept
        & ((both["gbif_id"] != both["gbif_id_old"]) | (both["media_id"] != both["media_id_old"])),
    }
    rows = pd.concat([both[rows].assign(change=change) for change, rows in chosen.items()])
    rows.drop(columns="_merge").to_parquet(work / "changes.parquet", compression="zstd")
    counts = {change: int(rows.sum()) for change, rows in chosen.items()}
    print(json.dumps({"seconds": time.monotonic() - start, "counts": counts}))


if __name__ == "__main__":
    main()
