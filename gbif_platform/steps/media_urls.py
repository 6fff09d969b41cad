"""Step `media_urls`: one row for each picture of each occurrence, with its licence and credit."""

from pathlib import Path

import duckdb

from gbif_platform.curation import media
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.sources import darwin_core
from gbif_platform.sources.snapshots import find_snapshot, local_archive
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "media_urls"


class NoMultimedia(PlatformError):
    """The archive has no media rows at all."""


def media_urls(run: Run) -> Report:
    """Read the archive's multimedia extension and join it to the occurrences.

    Raises:
        NoMultimedia: the archive has no multimedia extension, or an empty one.
    """
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    version = fingerprint(NAME, media.VERSION, run.version_of("occurrences"))
    report_progress = run.progress(NAME)

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        with DarwinCoreArchive(local_archive(run.platform, run.dataset, snapshot, report_progress)) as archive:
            if archive.multimedia is None or not archive.multimedia.present:
                raise NoMultimedia(
                    f"{snapshot.reference} has no multimedia extension, so no pictures",
                    "request the GBIF download in Darwin Core Archive format (SIMPLE_CSV has no media)",
                )
            rows = archive.multimedia.count_lines()
            staged = darwin_core.stage(
                archive.multimedia, work / "media.parquet", lambda n: report_progress(n, rows, "rows")
            )
        if staged.rows_in == 0:
            raise NoMultimedia(
                f"{snapshot.reference} has an empty multimedia extension, so no pictures",
                "add mediaType = StillImage to the predicate of the GBIF download",
            )
        outcome = media.media_rows(
            con,
            con.read_parquet(str(staged.file)),
            run.rows(con, "occurrences", "gbif_id, dataset_key, occurrence_id"),
            work,
        )
        outcome.refused = staged.refused.vstack(outcome.refused)
        outcome.rows_in = staged.rows_in if rows is None else rows
        return outcome

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns("media_urls")
    key = [run.dataset.name, run.snapshot]
    licences = run.platform.lake.frame(
        "SELECT license, count(*) AS media FROM media_urls WHERE dataset = ? AND snapshot = ? "
        "GROUP BY license ORDER BY media DESC, license",
        key,
    )
    distinct = run.platform.lake.frame(
        "SELECT count(DISTINCT media_id) AS ids, count(DISTINCT url_id) AS urls, count(*) AS rows "
        "FROM media_urls WHERE dataset = ? AND snapshot = ?",
        key,
    ).row(0, named=True)
    unknown = licences.filter(licences["license"] == "unknown")["media"].sum()
    report.numbers |= {"urls": distinct["urls"], "licence_unknown": int(unknown)}
    report.tables["licences"] = licences
    report.pictures["licences"] = bars(licences["license"].to_list(), {"media": licences["media"].to_list()})
    unique = distinct["ids"] == distinct["rows"]
    report.checks.append(
        Check("media_ids_unique", unique, f"{distinct['ids']:,} media ids for {distinct['rows']:,} rows")
    )
    return report
