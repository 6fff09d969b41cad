"""Step `media_urls`: one row for each picture of each occurrence, with its licence and credit."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import media
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.sources import darwin_core, url_list
from gbif_platform.sources.acquire import local_archive
from gbif_platform.sources.snapshots import find_snapshot
from gbif_platform.steps.balanced_samples import bounded
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "media_urls"
UNKNOWN_LICENCES = 0.05
"""Share of media without a known licence above which the check warns."""
SHOWN_TEXTS = 100
SPLIT = r"count(*) FILTER (regexp_matches(row_ref, ':\d+#\d+$'))"
"""Rows that are a further URL of a line: multimedia.txt:12#2."""
KIND = """
CASE WHEN detail ILIKE '%sound%' OR detail ILIKE '%audio%' THEN 'sound'
     WHEN detail ILIKE '%moving%' OR detail ILIKE '%video%' THEN 'moving image'
     WHEN detail ILIKE '%text%' OR detail ILIKE '%interactive%' THEN 'document or page'
     ELSE 'other' END"""


class NoMultimedia(PlatformError):
    """The archive has no media rows at all."""


def media_urls(run: Run) -> Report:
    """Read the archive's multimedia extension and join it to the occurrences; a list's rows are both.

    Raises:
        NoMultimedia: the archive has no multimedia extension, or an empty one.
    """
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    version = fingerprint(NAME, media.VERSION, run.version_of("occurrences"))
    report_progress = run.progress(NAME)

    def make_from_list(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        with bounded(run.platform.lake, work) as own:  # a list may be of any length
            occurrences = run.rows(own, "occurrences")
            return media.media_rows(own, url_list.media_lines(own, occurrences), occurrences, work)

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        with DarwinCoreArchive(local_archive(run.platform, run.dataset, snapshot, report_progress)) as archive:
            if archive.multimedia is None or not archive.multimedia.present:
                raise NoMultimedia(
                    f"{snapshot.reference} has no multimedia extension, so no pictures",
                    "request the GBIF download in Darwin Core Archive format (SIMPLE_CSV has no media)",
                )
            lines = archive.multimedia
            staged = darwin_core.stage(
                lines, work / "media.parquet", lambda done: report_progress(done, lines.expected_rows, "rows")
            )
        if staged.rows_in == 0:
            raise NoMultimedia(
                f"{snapshot.reference} has an empty multimedia extension, so no pictures",
                "add mediaType = StillImage to the predicate of the GBIF download",
            )
        outcome = media.media_rows(
            con,
            con.read_parquet(str(staged.file)),
            run.rows(con, "occurrences"),
            work,
        )
        split = outcome.rows_in - staged.rows
        outcome.refuse(staged.refused)
        # counted apart from the parser, where lines can be counted: the reconciliation check rests on it
        outcome.rows_in = (staged.rows_in if lines.lines is None else lines.lines) + split
        return outcome

    written = run.compute(NAME, version, make_from_list if snapshot.kind == url_list.KIND else make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns("media_urls")
    _count_media(run, report)
    _show_licences(run, report)
    return report


def _count_media(run: Run, report: Report) -> None:
    """Identities, lines that became several rows, and what was left out because it is no still image."""
    counts = run.frame(
        "SELECT count(DISTINCT media_id) AS ids, count(DISTINCT url_id) AS urls, count(*) AS rows, "
        f"count(*) FILTER (from_references) AS from_references, {SPLIT} AS split FROM media_urls WHERE {{key}}",
    ).row(0, named=True)
    refused = run.frame(f"SELECT {SPLIT} AS split FROM quarantine WHERE {{key}} AND stage = '{NAME}'")
    report.numbers |= {
        "urls": counts["urls"],
        "rows_split": counts["split"] + refused["split"][0],
        "urls_from_references": counts["from_references"],
    }
    without = (
        "SELECT count(*) AS n FROM (SELECT gbif_id FROM occurrences WHERE {key}) "
        "ANTI JOIN (SELECT gbif_id FROM media_urls WHERE {key}) USING (gbif_id)"
    )
    report.numbers["occurrences_without_picture"] = run.frame(without)["n"][0]
    unique = counts["ids"] == counts["rows"]
    report.checks.append(Check("media_ids_unique", unique, f"{counts['ids']:,} media ids for {counts['rows']:,} rows"))
    other = run.frame(
        f"SELECT {KIND} AS kind, count(*) AS rows FROM quarantine WHERE {{key}} AND stage = '{NAME}' "
        "AND reason = 'not_still_image' GROUP BY kind ORDER BY rows DESC, kind",
    )
    if len(other):
        report.tables["not_still_image"] = other


def _show_licences(run: Run, report: Report) -> None:
    """Licences as they were read, and the texts that name none."""
    licences = run.frame(
        "SELECT license, count(*) AS media FROM media_urls WHERE {key} GROUP BY license ORDER BY media DESC, license",
    )
    report.tables["licences"] = licences
    report.pictures["licences"] = bars(licences["license"].to_list(), {"media": licences["media"].to_list()})
    unmatched = run.frame(
        "SELECT field, text, media FROM licence_texts WHERE {key} AND license = 'unknown' AND trim(text) <> '' "
        "ORDER BY field, media DESC, text",
    )
    if len(unmatched):
        report.tables["unmatched_licence_texts"] = unmatched.head(SHOWN_TEXTS)
    total = int(licences["media"].sum())
    unknown = int(licences.filter(pl.col("license") == "unknown")["media"].sum())
    said = int(unmatched.filter(pl.col("field") == "medium")["media"].sum())
    report.numbers |= {"licence_unknown": unknown, "licence_texts_unmatched": len(unmatched)}
    share = unknown / total if total else 0.0
    report.checks.append(
        Check(
            "licences_known",
            share <= UNKNOWN_LICENCES,
            f"{share:.1%} of {total:,} media have no known licence: {unknown - said:,} have no text, {said:,} one that "
            "names no licence (table licence_texts)",
            only_warn=True,
        )
    )
