"""Make two snapshots of a dataset: diff_data.py ROWS FOLDER.

FOLDER/old.parquet and new.parquet hold ROWS media each with all that is compared; FOLDER/home is a platform home whose
lake holds the same as snapshots `old` and `new`, media rows and occurrences (1.5 media to one). Of 1000 media 20 are
removed and 20 added, 10 relabelled, 5 under another licence, 5 under another gbifID, and 1 has a new media id besides.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome, Stage

NOWHERE = "false"
SIDES = {  # what happened to medium i of record r since the older snapshot
    "old": dict.fromkeys(("label", "license", "gbif_id", "media_id"), NOWHERE),
    "new": {
        "label": "r % 200 IN (50, 151)",
        "license": "i % 200 = 51",
        "gbif_id": "r % 400 IN (52, 153)",
        "media_id": "i % 1000 = 53",
    },
}


def media(rows: int, side: str) -> str:
    """SQL for a snapshot's media; the newer one lacks the first of the older one, and comes in another order."""
    what = SIDES[side]
    first = 0 if side == "old" else 20 * rows // 1000
    return f"""
        SELECT sha256(concat('medium ', i, CASE WHEN {what["media_id"]} THEN ' again' END))[1:32] AS media_id,
               sha256(concat('url ', i))[1:32] AS url_id,
               concat('https://inaturalist-open-data.s3.amazonaws.com/photos/', 100000000 + i, '/original.jpeg') AS url,
               concat(CASE WHEN {what["gbif_id"]} THEN 9 ELSE 1 END, 100000000 + r) AS gbif_id,
               md5(concat('dataset ', r % 40)) AS dataset_key,
               concat('Genus', r % 701, ' species', CASE WHEN {what["label"]} THEN -1 ELSE r % 5003 END) AS label,
               CASE WHEN {what["license"]} THEN 'CC0-1.0' WHEN i % 3 = 0 THEN 'CC-BY-4.0' ELSE 'CC-BY-NC-4.0' END
                 AS license
        FROM (SELECT i, i * 2 // 3 AS r FROM range({first}, {first + rows}) numbers(i))
        ORDER BY {"i" if side == "old" else "media_id"}"""


def fill_lake(platform: Platform, side: str, folder: Path) -> None:
    """The lake's rows of a snapshot."""
    flat = folder / f"{side}.parquet"
    occurrences, rows = folder / "occurrences.parquet", folder / "media_urls.parquet"
    with duckdb.connect() as con:
        con.read_parquet(str(flat)).select("* EXCLUDE (label, dataset_key)").write_parquet(str(rows))
        con.sql(f"""
            SELECT gbif_id, any_value(dataset_key) AS dataset_key, any_value(label) AS species
            FROM '{flat}' GROUP BY gbif_id""").write_parquet(str(occurrences))
    tables.put_snapshot(platform.lake, "media", side, {"added_at": datetime.now(UTC)}, author="benchmark")
    for table, file in (("occurrences", occurrences), ("media_urls", rows)):
        stage = Stage("media", side, table)
        tables.write_stage(platform.lake, stage, side, Outcome({table: file}, 0, 0), run_id="benchmark")
        file.unlink()


def main() -> None:
    rows, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    platform = Platform(Settings(home=folder / "home"))
    for side in SIDES:
        with duckdb.connect() as con:
            con.sql(media(rows, side)).write_parquet(str(folder / f"{side}.parquet"), compression="zstd")
        fill_lake(platform, side, folder)


if __name__ == "__main__":
    main()
