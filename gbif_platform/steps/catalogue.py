"""Step `catalogue`: what the dataset holds, and why it is not all that was predicted."""

from pathlib import Path

import duckdb

from gbif_platform.exports.catalogue import catalogue_differences, unexplained
from gbif_platform.plots import bars, funnel
from gbif_platform.steps import predicted_catalogue as predicted
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome, row_count

NAME = "catalogue"
DIFFERENCES = "catalogue_differences"


def catalogue(run: Run) -> Report:
    """One row for each medium in a subset, and one difference for each that the predicted catalogue had otherwise."""
    version = predicted.catalogue_version(run, NAME, predicted.NAME, "downloaded_images", "splits")

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        splits = run.rows(con, "splits", "media_id, subset, nested, group_id")  # noqa: F841  read by name
        pictures = run.pictures(con)  # noqa: F841
        chosen = con.sql("""
            SELECT media_id, label, subset, nested, width, height FROM splits LEFT JOIN pictures USING (media_id)""")
        staged = predicted.write_catalogue(run, NAME, predicted.rows_of(run, con, chosen), work)
        rows = con.read_parquet(str(staged))  # noqa: F841
        differences = catalogue_differences(
            con,
            run.rows(con, predicted.NAME, "media_id, url, label, subset"),
            con.sql("SELECT media_id, url, label, rows.subset, group_id FROM rows JOIN splits USING (media_id)"),
            run.rows(con, "quarantine", "stage, row_ref, reason, detail").filter(
                "stage IN ('downloaded_images', 'splits')"
            ),
        )
        return Outcome({NAME: staged, DIFFERENCES: differences.pl()}, run.count("splits"), row_count(staged))

    written = run.compute(NAME, version, make)
    report = run.account(NAME, run.count("splits"))
    report.written = written
    predicted.describe(run, report, NAME)
    _compare(run, report)
    report.pictures["funnel"] = funnel(whole_funnel(run))
    return report


def whole_funnel(run: Run) -> list[tuple[str, int, int]]:
    """The way from all media to those in a subset: each step's name, what is left after it, and what it lost."""
    sampled = run.frame("SELECT filter, media_left, lost FROM sample_funnel WHERE {key} ORDER BY position").rows()
    later = run.frame("""
        SELECT CASE stage WHEN 'downloaded_images' THEN 'not_fetched' ELSE reason END AS step, count(*) AS lost
        FROM quarantine WHERE {key} AND stage IN ('downloaded_images', 'splits')
        GROUP BY ALL ORDER BY min(stage), lost DESC, step""").rows()
    left = sampled[-1][1] if sampled else 0
    return sampled + [(step, left := left - lost, lost) for step, lost in later]


def _compare(run: Run, report: Report) -> None:
    """Differences by reason, the labels in both catalogues, and the proof that every difference is explained."""
    with run.reader() as con:
        before = run.rows(con, predicted.NAME, "media_id, label, subset")
        after = run.rows(con, NAME, "media_id, label, subset")
        differences = run.rows(con, DIFFERENCES)
        astray = unexplained(con, before, after, differences)
        reasons = con.sql("""
            SELECT change, reason, count(*) AS media, any_value(detail) AS example FROM differences
            GROUP BY change, reason ORDER BY media DESC, change, reason""").pl()
        labels = con.sql("""
            SELECT label, count(*) AS predicted, count(after.media_id) AS actual
            FROM before LEFT JOIN after USING (media_id, label) WHERE label IS NOT NULL
            GROUP BY label ORDER BY predicted DESC, label""").pl()
    report.numbers |= {"predicted": run.count(predicted.NAME), "differences": int(reasons["media"].sum())}
    if len(reasons):
        report.tables["differences"] = reasons
    report.pictures["class_distribution"] = bars(
        labels["label"].to_list(), {name: labels[name].to_list() for name in ("predicted", "actual")}
    )
    says = f"{report.numbers['differences']:,} differences between predicted and actual, each with its reason"
    if astray:
        says = f"{len(astray):,} media are unexplained, e.g. {', '.join(astray[:3])}"
    report.checks.append(Check("differences_explained", not astray, says))
