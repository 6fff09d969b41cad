"""Step `splits`: which side of the evaluation every picture is on."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import splits as curation
from gbif_platform.curation.urls import define_macros
from gbif_platform.dataset import stated
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.steps.credit import credit_report
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "splits"


def splits(run: Run) -> Report:
    """Assign every picture that arrived, has a label and is large enough, to a subset."""
    spec = run.dataset
    version = fingerprint(
        NAME, curation.VERSION, run.version_of("downloaded_images"), stated(spec.split), spec.filters.min_side
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        media = _grouped_media(run, con)
        judged = media.with_columns(
            reason=pl.when(pl.col("label").is_null())
            .then(pl.lit("no_label"))
            .when(pl.col("side") < spec.filters.min_side)
            .then(pl.lit("below_min_side"))
        )
        sound = judged.filter(pl.col("reason").is_null())
        rows = curation.assign_subsets(con, sound, spec.split, _previous_groups(run, con))
        refused = judged.filter(pl.col("reason").is_not_null()).select(
            row_ref="media_id",
            reason="reason",
            detail=pl.format("{} px at the smaller side", "side"),
        )
        return Outcome({"splits": rows}, len(media), len(rows), refused=refused)

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns("splits")
    _describe(run, report)
    return report


def _grouped_media(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """The pictures that arrived, with label, smallest original side (pixels) and every group key."""
    define_macros(con)
    pictures = run.pictures(con)  # noqa: F841  read by name
    occurrences = run.rows(con, "occurrences", "gbif_id, dataset_key, occurrence_id")  # noqa: F841
    return con.sql("""
        SELECT media_id, url_id, source_sha256, label, least(source_width, source_height) AS side,
               identity(concat_ws('\x1f', coalesce(dataset_key, ''), coalesce(occurrence_id, gbif_id))) AS occurrence
        FROM pictures JOIN occurrences USING (gbif_id) WHERE status = 'ok' ORDER BY media_id""").pl()


def _previous_groups(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """The group of each medium in the snapshots added before this one, the earliest counts."""
    return con.execute(
        """
        WITH earlier AS (
            SELECT snapshot, added_at FROM lake.snapshots WHERE dataset = $dataset AND added_at <
                (SELECT added_at FROM lake.snapshots WHERE dataset = $dataset AND snapshot = $snapshot))
        SELECT media_id, arg_min(group_id, added_at) AS group_id
        FROM lake.splits JOIN earlier USING (snapshot) WHERE dataset = $dataset GROUP BY media_id""",
        {"dataset": run.dataset.name, "snapshot": run.snapshot},
    ).pl()


def _describe(run: Run, report: Report) -> None:
    credit = credit_report(run)
    report.numbers |= credit.numbers
    report.texts |= credit.texts
    report.tables |= credit.tables
    names = list(run.dataset.split.subsets)
    with run.reader() as con:
        media = _grouped_media(run, con)
        rows = run.rows(con, "splits", "media_id, subset, group_id").pl()
    sizes = dict(rows.group_by("subset").len().iter_rows())
    report.numbers |= {f"rows_{name}": sizes.get(name, 0) for name in names} | {"groups": rows["group_id"].n_unique()}
    table = (
        rows.join(media.select("media_id", "label"), on="media_id")
        .pivot("subset", index="label", values="media_id", aggregate_function="len")
        .fill_null(0)
    )
    table = table.with_columns(pl.lit(0).alias(name) for name in names if name not in table.columns)
    table = table.select("label", *names).sort(names[0], "label", descending=[True, False])
    report.tables["labels_by_subset"] = table
    report.pictures["labels_by_subset"] = bars(
        table["label"].to_list(), {name: table[name].to_list() for name in names}, stacked=True
    )
    astray = curation.straddling_groups(rows, media, list(run.dataset.split.group_by))
    says = ", ".join(f"{count} {key}" for key, count in astray.items())
    report.checks.append(Check("no_leakage", not any(astray.values()), f"in more than one subset: {says}"))
    empty = [name for name in names if not sizes.get(name)]
    report.checks.append(Check("no_empty_subset", not empty, f"empty: {', '.join(empty) or 'none'}", only_warn=True))
