"""Make media and occurrences to sample from: sampling_data.py ROWS FOLDER.

FOLDER/media.parquet holds ROWS media as `media_urls` has them, FOLDER/occurrences.parquet their occurrences (1.5 media
to one) under 10 000 labels, the number k of them with a share of 1/k. Of 1000 media 200 are under a licence that is not
open, 10 repeat the URL of another occurrence; of 1000 occurrences 5 have no label, 10 report an absence.
"""

import sys
from pathlib import Path

import duckdb

LABELS = 10_000

# a number between 0 and 1 that looks random: the engine's hash of the row's number
RANDOM = "(hash({}) >> 11) / 9007199254740992.0"
NUMBER = f"floor(exp(ln({LABELS + 1}) * u))::INTEGER"  # of the label; k as often as 1/k

OCCURRENCES = f"""
    SELECT (1000000000 + (i * 7919) % {{count}})::VARCHAR AS gbif_id, 'dataset ' || i % 40 AS dataset_key,
           CASE WHEN i % 200 <> 7 THEN concat('Genus species', {NUMBER}) END AS species,
           CASE WHEN i % 100 = 8 THEN 'ABSENT' ELSE 'PRESENT' END AS occurrence_status,
           CASE WHEN i % 10 < 7 THEN 'HUMAN_OBSERVATION' ELSE 'PRESERVED_SPECIMEN' END AS basis_of_record,
           2000 + (i % 25)::INTEGER AS year
    FROM (SELECT range AS i, {RANDOM.format("range")} AS u FROM range({{count}}))"""

MEDIA = """
    SELECT md5(concat('medium ', i)) AS media_id, md5(concat('url ', url_number)) AS url_id,
           (1000000000 + ((i * 2 // 3) * 7919) % {count})::VARCHAR AS gbif_id,
           concat('https://inaturalist-open-data.s3.amazonaws.com/photos/', url_number, '/original.jpg') AS url,
           CASE WHEN i % 5 = 1 THEN 'CC-BY-NC-4.0' WHEN i % 5 = 2 THEN 'CC0-1.0' ELSE 'CC-BY-4.0' END AS license,
           ('0x' || media_id[1:16])::UBIGINT AS sample_key
    FROM (SELECT range AS i, CASE WHEN range % 100 = 3 THEN greatest(range - 5001, 0) ELSE range END AS url_number
          FROM range({rows}))"""


def main() -> None:
    rows, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    count = rows * 2 // 3 + 1
    with duckdb.connect(config={"preserve_insertion_order": False}) as con:
        for name, sql in (("occurrences", OCCURRENCES), ("media", MEDIA)):
            con.execute(f"""COPY ({sql.format(rows=rows, count=count)}) TO '{folder / name}.parquet'
                            (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)""")


if __name__ == "__main__":
    main()
