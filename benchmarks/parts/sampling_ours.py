"""The platform's sample of Parquet files: sampling_ours.py DATA QUOTA FOLDER."""

import json
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from gbif_platform.curation.sampling import balanced_sample, limit_memory
from gbif_platform.curation.spec import Filters, Sampling, Taxonomy


def main() -> None:
    data, quota, work = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    start = time.monotonic()
    with duckdb.connect() as con:
        limit_memory(con, work)
        outcome = balanced_sample(
            con,
            con.read_parquet(str(data / "media.parquet")),
            con.read_parquet(str(data / "occurrences.parquet")),
            label="species",
            filters=Filters(),
            sampling=Sampling(policy="balanced", per_label=quota),
            taxonomy=Taxonomy(),
            work=work,
            progress=lambda done, total, note: print(f"{time.process_time():.1f} CPU s  {done}/{total} {note}"),
        )
    report, refused = outcome.rows["sample_report"], outcome.refused
    if isinstance(report, Path) or not isinstance(refused, Path):
        raise TypeError("expected the report as a frame, the refused rows as a file")
    print(
        json.dumps(
            {
                "seconds": time.monotonic() - start,
                "media": outcome.rows_out,
                "refused": pq.read_metadata(refused).num_rows,
                "exact": bool((report["taken"] == report["available"].clip(0, quota)).all()),
            }
        )
    )


if __name__ == "__main__":
    main()
