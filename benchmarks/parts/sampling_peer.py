"""What a script would do: sampling_peer.py polars|window DATA QUOTA FOLDER. Join, filter, QUOTA media a label.

polars: in memory, an unseeded shuffle. window: DuckDB, the stored key ranked over all rows. Neither looks for repeated
URLs, counts what the filters lost, keeps what was refused, or reports on labels.
"""

import json
import sys
import time
from pathlib import Path

import duckdb
import polars as pl

OPEN = ("CC0-1.0", "CC-BY-4.0")


def in_polars(data: Path, quota: int, file: Path) -> None:
    occurrences = pl.scan_parquet(data / "occurrences.parquet").filter(
        pl.col("species").is_not_null(), pl.col("occurrence_status") != "ABSENT"
    )
    media = pl.scan_parquet(data / "media.parquet").filter(pl.col("license").is_in(OPEN))
    joined = media.join(occurrences, on="gbif_id").select("media_id", "url_id", "species").collect()
    joined.sample(fraction=1, shuffle=True).group_by("species").head(quota).write_parquet(file)


def by_window(data: Path, quota: int, file: Path) -> None:
    with duckdb.connect() as con:
        con.execute(f"SET temp_directory = '{file.parent}'")
        con.sql(f"""
            SELECT media_id, url_id, species
            FROM '{data}/media.parquet' JOIN '{data}/occurrences.parquet' USING (gbif_id)
            WHERE license IN {OPEN} AND species IS NOT NULL AND occurrence_status <> 'ABSENT'
            QUALIFY row_number() OVER (PARTITION BY species ORDER BY sample_key, media_id) <= {quota}
            """).write_parquet(str(file))


def main() -> None:
    way, data, quota, folder = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    start = time.monotonic()
    file = folder / "sample.parquet"
    (in_polars if way == "polars" else by_window)(data, quota, file)
    print(
        json.dumps(
            {"seconds": time.monotonic() - start, "media": pl.scan_parquet(file).select(pl.len()).collect().item()}
        )
    )


if __name__ == "__main__":
    main()
