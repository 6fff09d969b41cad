"""The platform's own reading: archive_ours.py ARCHIVE FOLDER. Occurrences, all columns, and media rows as Parquet."""

import json
import sys
from pathlib import Path

import duckdb

from gbif_platform.curation.media import media_rows
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.sources.darwin_core import occurrence_rows, stage


def main() -> None:
    path, work = Path(sys.argv[1]), Path(sys.argv[2])
    with duckdb.connect() as con, DarwinCoreArchive(path) as archive:
        assert archive.multimedia is not None
        occurrences = occurrence_rows(con, archive.core, work)
        staged = stage(archive.multimedia, work / "media.parquet")
        kept = con.read_parquet(str(occurrences.rows["occurrences"]))
        media = media_rows(con, con.read_parquet(str(staged.file)), kept, work)
        refused = len(occurrences.refused) + len(media.refused) + len(staged.refused)
    print(json.dumps({"occurrences": occurrences.rows_out, "media": media.rows_out, "refused": refused}))


if __name__ == "__main__":
    main()
