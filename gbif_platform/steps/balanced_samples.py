"""Step `balanced_samples`: which media the dataset takes, and why not the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import sampling, taxonomy
from gbif_platform.curation.strata import NONE_IN_SNAPSHOT
from gbif_platform.dataset import Dataset
from gbif_platform.part import stated
from gbif_platform.plots import class_distribution, funnel, sample_map, timeline
from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.tables import Outcome

log = logging.getLogger(__name__)

NAME = "balanced_samples"
SHOWN = 100  # rows of a table in the report
PLACES = 100_000  # points of the map, of the sample and of all
COUNTED_BY_YEAR = 5_000_000  # media up to which all are counted by year, beside those of the sample
COORDINATES = ("decimal_latitude", "decimal_longitude")


def balanced_samples(run: Run) -> Report:
    """Apply label, filters and sampling policy.

    Raises:
        UnknownLabel, UnknownTerm, NothingToSample
        PlatformError: a setting asks for what the occurrences do not have, or quotas that cannot be met.
    """
    spec = run.dataset
    # What is judged by the pictures themselves comes later.
    later = {"min_side": 0, "duplicate_images": "keep_all", "near_duplicate_bits": 4}
    names = spec.taxonomy.model_copy(update={"vernacular_names": None})
    version = fingerprint(
        NAME,
        sampling.VERSION,
        taxonomy.VERSION,
        run.version_of("media_urls"),
        spec.label,
        stated(spec.filters.model_copy(update=later)),
        stated(names),
        stated(spec.sampling),
        asked_for(spec),
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        with bounded(run.platform.lake, work) as own:
            return sampling.balanced_sample(
                own,
                run.rows(own, "media_urls"),
                run.rows(own, "occurrences"),
                label=spec.label,
                filters=spec.filters,
                sampling=spec.sampling,
                taxonomy=spec.taxonomy,
                work=work,
                asked=asked_for(spec),
                progress=run.progress(NAME),
            )

    written = run.compute(NAME, version, make)
    report = run.account(NAME, run.count("media_urls"))
    report.written = written
    report.columns = run.columns("balanced_samples")
    _show_strata(run, report)
    _show_doubts(run, report)
    _show_funnel(run, report)
    _show_conflicts(run, report)
    _show_places(run, report)
    _show_years(run, report)
    return report


def asked_for(dataset: Dataset) -> dict[str, list[str]]:
    """The values that the question to GBIF names, by search field; ranges name none."""
    query = dataset.source.gbif.query if dataset.source.gbif else {}
    listed = {field: values if isinstance(values, list) else [values] for field, values in query.items()}
    plain = {field: [str(value) for value in values] for field, values in listed.items()}
    return {field: values for field, values in plain.items() if not any({",", "*"} & set(value) for value in values)}


@contextmanager
def bounded(lake: Lake, work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with a memory limit; DuckDB's settings are a database's, so the lake is attached once more."""
    own = Lake(lake.catalog, lake.data, read_only=True)
    try:
        with own.reader() as con:
            sampling.limit_memory(con, work)
            yield con
    finally:
        own.close()


def _show_strata(run: Run, report: Report) -> None:
    """What each stratum gives, by number and as a picture; and the check that the sample has it."""
    strata = run.frame(
        "SELECT stratum, label, available, wanted, taken, reason FROM sample_report WHERE {key} "
        "ORDER BY taken DESC, stratum, label",
    )
    labels = strata.filter(pl.col("label").is_not_null()).group_by("label").agg(pl.col("available", "taken").sum())
    labels = labels.sort("label")
    report.numbers |= {
        "labels": labels.filter(pl.col("taken") > 0).height,
        "labels_left_out": labels.filter(pl.col("taken") == 0).height,
    }
    report.tables["sample_report"] = strata
    available, taken = (dict(zip(labels["label"], labels[name], strict=True)) for name in ("available", "taken"))
    report.pictures["label_distribution"] = class_distribution(available, taken)
    sampled = run.frame(
        "SELECT stratum, label, count(*) AS media FROM balanced_samples WHERE {key} GROUP BY stratum, label"
    )
    both = strata.join(sampled, on=["stratum", "label"], how="full", nulls_equal=True)
    wrong = both.filter(pl.col("taken").fill_null(0) != pl.col("media").fill_null(0))
    report.checks.append(
        Check("quotas_exact", wrong.is_empty(), f"{wrong.height} strata differ from what the report says is taken")
    )


def _show_doubts(run: Run, report: Report) -> None:
    """Words of the dataset file that may be slips."""
    strata = report.tables["sample_report"].filter(pl.col("reason") == NONE_IN_SNAPSHOT)
    slips = [label for label in run.dataset.sampling.downsample if label in strata["label"]]
    doubts = [
        *run.dataset.filters.doubts,
        *(f"sampling.downsample: {label!r} is no label of the snapshot" for label in slips),
    ]
    for doubt in doubts:
        log.warning("%s: %s", run.dataset.name, doubt)
    says = "; ".join(doubts) or "every word of the filters and quotas is known"
    report.checks.append(Check("words_known", not doubts, says, only_warn=True))


def _show_funnel(run: Run, report: Report) -> None:
    steps = run.frame(
        "SELECT position, filter, media_in, lost, alone, media_left FROM sample_funnel WHERE {key} ORDER BY position",
    )
    report.tables["sample_funnel"] = steps
    report.pictures["funnel"] = funnel(list(steps.select("filter", "media_left", "lost").iter_rows()))


def _show_conflicts(run: Run, report: Report) -> None:
    urls = run.frame("SELECT count(DISTINCT url_id) AS urls FROM label_conflicts WHERE {key}")
    report.numbers["urls_with_conflicting_labels"] = urls["urls"][0]
    if urls["urls"][0]:
        report.tables["label_conflicts"] = run.frame(
            "SELECT url_id, url, media_id, gbif_id, dataset_key, label, decision FROM label_conflicts WHERE {key} "
            f"ORDER BY url_id, media_id LIMIT {SHOWN}",
        )


def _show_places(run: Run, report: Report) -> None:
    """A map, where there are coordinates: of at most PLACES media, those with the smallest ids; and of as many
    occurrences."""
    present = _present(run)
    if not set(COORDINATES) <= present:
        return
    latitude, longitude = (f'try_cast("{name}" AS DOUBLE)' for name in COORDINATES)
    owners = f"SELECT gbif_id, {latitude} AS latitude, {longitude} AS longitude FROM occurrences WHERE {{key}}"
    sample = run.frame(
        f"SELECT latitude, longitude FROM ({owners}) JOIN (SELECT media_id, gbif_id FROM media_urls WHERE {{key}}) "
        f"USING (gbif_id) JOIN (SELECT media_id FROM balanced_samples WHERE {{key}} ORDER BY media_id LIMIT {PLACES}) "
        "USING (media_id)",
    )
    behind = run.frame(
        f"SELECT latitude, longitude FROM ({owners}) WHERE latitude IS NOT NULL ORDER BY hash(gbif_id) LIMIT {PLACES}",
    )
    places = [frame[name].fill_null(float("nan")).to_numpy() for frame in (sample, behind) for name in frame.columns]
    report.pictures["map"] = sample_map(places[0], places[1], (places[2], places[3]))


def _show_years(run: Run, report: Report) -> None:
    """Media by year, where the occurrences have one; of a very large snapshot those of the sample alone."""
    if "year" not in _present(run):
        return
    sampled = "SELECT gbif_id FROM media_urls SEMI JOIN balanced_samples USING (dataset, snapshot, media_id)"
    available = None
    if report.numbers["rows_in"] <= COUNTED_BY_YEAR:
        available = _by_year(run, "SELECT gbif_id FROM media_urls")
    report.pictures["years"] = timeline(_by_year(run, sampled), available)


def _by_year(run: Run, media: str) -> dict[int, int]:
    years = run.frame(
        'SELECT year, count(*) AS media FROM (SELECT gbif_id, try_cast("year" AS INTEGER) AS year FROM occurrences '
        f"WHERE {{key}}) JOIN ({media} WHERE {{key}}) USING (gbif_id) WHERE year IS NOT NULL GROUP BY year ORDER BY 1",
    )
    return dict(years.iter_rows())


def _present(run: Run) -> set[str]:
    """Columns of the occurrences' table; another dataset may have brought them."""
    with run.reader() as con:
        return set(run.rows(con, "occurrences").columns)
