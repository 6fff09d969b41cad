"""Step `balanced_samples`: which media the dataset takes, and why not the others."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import sampling
from gbif_platform.dataset import stated
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "balanced_samples"
SHOWN_CONFLICTS = 100


def balanced_samples(run: Run) -> Report:
    """Apply label, filters and sampling policy.

    Raises:
        UnknownLabel, NothingToSample
    """
    spec = run.dataset
    filters = stated(spec.filters.model_copy(update={"min_side": 0}))  # the pictures' sides are judged later
    version = fingerprint(
        NAME, sampling.VERSION, run.version_of("media_urls"), spec.label, filters, stated(spec.sampling)
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        return sampling.balanced_sample(
            con,
            run.rows(con, "media_urls"),
            run.rows(con, "occurrences"),
            label=spec.label,
            filters=spec.filters,
            sampling=spec.sampling,
        )

    written = run.compute(NAME, version, make)
    report = run.account(NAME, run.count("media_urls"))
    report.written = written
    report.columns = run.columns("balanced_samples")
    strata = run.platform.lake.frame(
        "SELECT stratum, available, wanted, taken, reason FROM sample_report "
        "WHERE dataset = ? AND snapshot = ? ORDER BY taken DESC, stratum",
        [spec.name, run.snapshot],
    )
    report.numbers |= {
        "labels": strata.filter(pl.col("taken") > 0).height,
        "labels_left_out": strata.filter(pl.col("taken") == 0).height,
    }
    report.tables["sample_report"] = strata
    report.pictures["label_distribution"] = bars(
        strata["stratum"].to_list(), {"available": strata["available"].to_list(), "taken": strata["taken"].to_list()}
    )
    conflicts = run.platform.lake.frame(
        "SELECT url_id, url, media_id, gbif_id, dataset_key, label, decision FROM label_conflicts "
        "WHERE dataset = ? AND snapshot = ? ORDER BY url_id, media_id",
        [spec.name, run.snapshot],
    )
    report.numbers["urls_with_conflicting_labels"] = conflicts["url_id"].n_unique()
    if len(conflicts):
        report.tables["label_conflicts"] = conflicts.head(SHOWN_CONFLICTS)
    short = strata.filter((pl.col("taken") > 0) & (pl.col("taken") != pl.min_horizontal("available", "wanted")))
    report.checks.append(
        Check(
            "quotas_exact", short.is_empty(), f"{short.height} labels differ from the smaller of wanted and available"
        )
    )
    return report
