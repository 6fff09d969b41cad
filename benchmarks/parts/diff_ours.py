"""The platform's comparison of two Parquet files: diff_ours.py OLD NEW FOLDER. The changes as Parquet."""

import json
import sys
import time
from pathlib import Path

import duckdb

from gbif_platform.curation.changes import compare_snapshots


def main() -> None:
    old, new, work = map(Path, sys.argv[1:4])
    start = time.monotonic()
    with duckdb.connect() as con:
        found = compare_snapshots(con, con.read_parquet(str(old)), con.read_parquet(str(new)), work)
        seconds = time.monotonic() - start
        counts = con.read_parquet(str(found.rows)).aggregate("change, count(*)", "change").fetchall()
    print(json.dumps({"seconds": seconds, "counts": dict(counts)}))


if __name__ == "__main__":
    main()
