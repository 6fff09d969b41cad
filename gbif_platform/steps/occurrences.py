"""Step `occurrences`: the archive's core, whole, as lake rows."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.dataset import UrlList
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.sources import darwin_core, url_list
from gbif_platform.sources.acquire import local_archive
from gbif_platform.sources.snapshots import Snapshot, find_snapshot
from gbif_platform.steps.run import Report, Run
from gbif_platform.storage.tables import Outcome, Rows, refusals

NAME = "occurrences"
NO_VERBATIM = pl.DataFrame(schema={"gbif_id": pl.String, "row_ref": pl.String})


def occurrences(run: Run) -> Report:
    """Fetch the snapshot's archive if need be and read every occurrence of it; or every row of a list of URLs.

    Where the dataset asks for it, the records as published go to the table `verbatim`.

    Raises:
        PlatformError: the archive is missing, damaged, unsafe or empty; nothing is written then.
    """
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    with_verbatim = run.dataset.source.verbatim
    report_progress = run.progress(NAME)

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        archive = local_archive(run.platform, run.dataset, snapshot, report_progress)
        with DarwinCoreArchive(archive) as opened:
            core, verbatim = opened.core, opened.verbatim
            outcome = darwin_core.occurrence_rows(
                con, core, work, lambda done: report_progress(done, core.expected_rows, "rows")
            )
            if core.lines is not None:  # counted apart from the parser: the reconciliation check rests on it
                outcome.rows_in = core.lines
            if with_verbatim and verbatim and verbatim.present:
                staged = darwin_core.verbatim_rows(
                    verbatim,
                    work / "verbatim.parquet",
                    lambda done: report_progress(done, verbatim.expected_rows, "rows as published"),
                )
                return _with_verbatim(outcome, staged.file, staged.refused)
        return _with_verbatim(outcome, NO_VERBATIM, refusals([]))

    def make_from_list(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        listed = local_archive(run.platform, run.dataset, snapshot)
        return url_list.occurrence_rows(con, listed, _list_of(run, snapshot), run.dataset.label, work)

    from_list = snapshot.kind == url_list.KIND
    written = run.compute(NAME, _version(run, snapshot), make_from_list if from_list else make)
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
    if with_verbatim:
        report.numbers["verbatim_rows"] = run.count("verbatim")
    report.texts |= {"source": snapshot.reference, "doi": snapshot.doi or "none"}
    return report


def _version(run: Run, snapshot: Snapshot) -> str:
    """What the rows depend on; those of a list also on what the dataset file says of its columns."""
    if snapshot.kind == url_list.KIND:
        columns = stated(_list_of(run, snapshot).model_copy(update={"files": ""}))
        return fingerprint(NAME, url_list.VERSION, snapshot.version, columns, run.dataset.label)
    return fingerprint(NAME, darwin_core.VERSION, snapshot.version, run.dataset.source.verbatim)


def _list_of(run: Run, snapshot: Snapshot) -> UrlList:
    """What the dataset file says of the list; it may have another source by now."""
    return run.dataset.source.urls or UrlList(files=snapshot.reference)


def _with_verbatim(outcome: Outcome, rows: Rows, refused: pl.DataFrame) -> Outcome:
    """The outcome with the rows as published; those of them that were refused are in the account, once in, once out."""
    outcome.rows = {**outcome.rows, "verbatim": rows}
    outcome.refuse(refused)
    outcome.rows_in += len(refused)
    return outcome
