"""Step `occurrences`: the archive's core, whole, as lake rows."""

from pathlib import Path

import duckdb

from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.settings import fingerprint
from gbif_platform.sources import darwin_core
from gbif_platform.sources.snapshots import find_snapshot, local_archive
from gbif_platform.steps.run import Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "occurrences"


def occurrences(run: Run) -> Report:
    """Fetch the snapshot's archive if need be and read every occurrence of it.

    Raises:
        PlatformError: the archive is missing, damaged, unsafe or empty; nothing is written then.
    """
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    version = fingerprint(NAME, darwin_core.VERSION, snapshot.version)
    report_progress = run.progress(NAME)

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        archive = local_archive(run.platform, run.dataset, snapshot, report_progress)
        with DarwinCoreArchive(archive) as opened:
            rows = opened.core.count_lines()
            staged = darwin_core.stage(opened.core, work / "core.parquet", lambda n: report_progress(n, rows, "rows"))
        outcome = darwin_core.occurrence_rows(con, staged, work)
        if rows is not None:  # counted apart from the parser: the reconciliation check rests on it
            outcome.rows_in = rows
        return outcome

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns("occurrences")
    report.numbers |= {"columns": len(report.columns)}
    counted = [name for name in ("dataset_key", "species", "country_code") if name in report.columns]
    with run.reader() as con:
        rows = run.rows(con, "occurrences")  # noqa: F841  read by name
        for name in counted:
            found = con.sql(f'SELECT count(DISTINCT "{name}") FROM rows').fetchone()
            report.numbers[f"distinct_{name}"] = found[0] if found else 0
    report.texts |= {"source": snapshot.reference, "doi": snapshot.doi or "none"}
    return report
