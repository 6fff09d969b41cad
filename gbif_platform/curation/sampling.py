"""Balanced samples: exact, seeded, the same on any machine, and stable while the data grow."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation.candidates import Candidates, failing_media, judged, parquet, stage, stratum_sql
from gbif_platform.curation.duplicates import label_conflicts, repeated_urls
from gbif_platform.curation.filters import Condition, column_types, conditions, licence_counted, literal, term_column
from gbif_platform.curation.funnel import filter_funnel
from gbif_platform.curation.preferences import preference
from gbif_platform.curation.selection import chosen, first_of_occurrences
from gbif_platform.curation.spec import Filters, Sampling, Taxonomy
from gbif_platform.curation.strata import sample_report
from gbif_platform.curation.taxonomy import Labelling, labelling
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.terms import snake_case
from gbif_platform.storage.tables import Outcome, row_count

VERSION = "5"
MEMORY = "450MB"
"""What DuckDB may hold; with Python, its libraries and the rows of a Parquet file in flight 100 million media need
less than 1 GB."""
THREADS = 4  # each needs buffers of its own
STEPS = ("labels and filters", "repeated URLs", "strata and quotas", "choosing", "writing")

Progress = Callable[[int, int | None, str], None]


class NothingToSample(PlatformError):
    """No medium is left after label and filters."""


def limit_memory(con: duckdb.DuckDBPyConnection, work: Path) -> None:
    """Let a connection of one's own write to `work` what exceeds MEMORY; the settings are those of its process."""
    con.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {literal(str(work / 'spilled'))}")
    con.execute(f"SET preserve_insertion_order = false; SET threads = {min(THREADS, os.cpu_count() or 1)}")


def balanced_sample(
    con: duckdb.DuckDBPyConnection,
    media: duckdb.DuckDBPyRelation,
    occurrences: duckdb.DuckDBPyRelation,
    *,
    label: str,
    filters: Filters,
    sampling: Sampling,
    taxonomy: Taxonomy,
    work: Path,
    asked: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Choose the media of a dataset.

    The members of a label (or stratum) are the first of it by preference and a seeded hash of the medium's identity. So
    a larger quota is a superset of a smaller one, and new data displace only what they outrank.

    Args:
        con: any DuckDB connection; under `limit_memory`, 100 million media need less than 1 GB.
        media: `media_id`, `url_id`, `url`, `gbif_id`, `license`, `sample_key`; `license_text` and
            `occurrence_license` where the occurrence's licence may stand in.
        occurrences: `gbif_id`, `dataset_key`, the label's column, and the terms that filters and sampling ask for.
        work: folder for the staged rows.
        asked: values that the dataset's question names, by column of the terms that make the strata: those that the
            snapshot lacks are rows of the report.
        progress: called as (step, steps, what).

    Returns:
        `balanced_samples` and `label_conflicts` as Parquet files, `sample_report` (one row a stratum, also for those
        left out) and `sample_funnel`; refused: the conditions of filters and taxonomy, no_label, label_conflict,
        duplicate_url.

    Raises:
        UnknownLabel, UnknownTerm, NothingToSample
        PlatformError: a setting asks for what the occurrences do not have, or quotas that cannot be met.
    """
    say = progress or _silent
    say(0, len(STEPS), STEPS[0])
    labelled = labelling(con, occurrences, label, taxonomy)
    candidates = _candidates(con, media, occurrences, labelled, filters, sampling, work)
    say(1, len(STEPS), STEPS[1])
    repeated = repeated_urls(con, candidates, media, filters.duplicates, work)
    funnel = filter_funnel(con, candidates, repeated, filters.duplicates)
    say(2, len(STEPS), STEPS[2])
    passing = _passing(con, candidates, repeated, sampling, work)
    levels = con.sql(f"SELECT cell, level, count(*) AS media FROM {passing} GROUP BY ALL").pl()
    available = int(levels["media"].sum())
    left_over = funnel.left  # sound, whether asked for or not
    if sampling.media_per_occurrence:
        funnel.add("media_per_occurrence", funnel.left - available)
    streams = _asked(occurrences, labelled.column, sampling, asked or {})
    report = sample_report(con, candidates, levels, sampling, streams, labelled.column)
    refused = _refused(con, media, candidates, repeated, work / "refused.parquet")
    if report["taken"].sum() == 0:
        raise _nothing(con, refused, available, sampling)
    too_few = report.filter((pl.col("taken") == 0) & pl.col("reason").str.starts_with("fewer than"))
    funnel.add("labels_left_out", int(too_few["available"].sum()))
    say(3, len(STEPS), STEPS[3])
    quotas = report.filter(pl.col("taken") > 0).select("cell", "taken")
    selected = chosen(con, passing, levels, quotas, sampling.seed, work / "chosen.parquet")
    say(4, len(STEPS), STEPS[4])
    sample = _named(con, selected, media, candidates, quotas, work / "balanced_samples.parquet")
    funnel.add("over_the_quota", funnel.left - row_count(sample))
    conflicts = label_conflicts(con, repeated, occurrences, work / "label_conflicts.parquet")
    say(5, len(STEPS), STEPS[4])
    return Outcome(
        {
            "balanced_samples": sample,
            "sample_report": report.drop("cell"),
            "sample_funnel": funnel.rows(),
            "label_conflicts": conflicts,
        },
        rows_in=candidates.rows,
        rows_out=row_count(sample),
        rows_left=left_over - row_count(sample),
        refused=refused,
    )


def _silent(done: int, total: int | None, note: str) -> None:
    """Progress that nobody asked for."""


def _candidates(
    con: duckdb.DuckDBPyConnection,
    media: duckdb.DuckDBPyRelation,
    occurrences: duckdb.DuckDBPyRelation,
    labelled: Labelling,
    filters: Filters,
    sampling: Sampling,
    work: Path,
) -> Candidates:
    """The media judged by everything that the dataset file says about a medium by itself."""
    columns = column_types(occurrences)
    found = con.sql(f"SELECT DISTINCT {licence_counted(filters, 'm')} FROM media m").fetchall()
    licences = sorted((row[0] for row in found), key=str)
    rules = conditions(columns, filters, licences) + labelled.conditions
    if sampling.policy != "all":
        rules.append(Condition("no_label", f"({labelled.sql}) IS NULL", literal(f"no {labelled.column}")))
    return judged(
        con,
        media,
        occurrences,
        label=labelled.sql,
        stratum=stratum_sql(columns, sampling.split_streams_by, labelled.sql, labelled.column),
        conditions=rules,
        preference=preference(columns, sampling.prefer, filters, licences),
        numbered=sampling.media_per_occurrence is not None,
        work=work,
    )


def _passing(
    con: duckdb.DuckDBPyConnection, candidates: Candidates, repeated: list[Path], sampling: Sampling, work: Path
) -> str:
    """SQL for the candidates that may be chosen: no filter fails, no duplicates, and the first of each occurrence."""
    passing = f"(SELECT * FROM {parquet(candidates.file)} WHERE failed = 0)"
    dropped = f"(SELECT sample_key, mark FROM {parquet(repeated)} WHERE NOT kept)"
    if con.sql(f"SELECT count(*) FROM {dropped}").fetchone() != (0,):
        unique = f"SELECT sample_key, mark, cell, level, occurrence FROM {passing} ANTI JOIN {dropped}"
        passing = parquet(stage(con.sql(f"{unique} USING (sample_key, mark)"), work / "unique.parquet"))
    most = sampling.media_per_occurrence
    if most is None:
        return passing
    return parquet(first_of_occurrences(con, passing, candidates.rows, most, sampling.seed, work))


def _asked(
    occurrences: duckdb.DuckDBPyRelation, column: str, sampling: Sampling, asked: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str] | None]:
    """The values asked for of each column that makes the strata, None where the question names none; in their order."""
    columns = column_types(occurrences)
    named = {snake_case(term): values for term, values in asked.items()}
    streams = sampling.split_streams_by or [column]
    fields = [term_column(columns, term, "sampling.split_streams_by") for term in streams]
    return {field: named.get(field) for field in fields}


def _refused(
    con: duckdb.DuckDBPyConnection,
    media: duckdb.DuckDBPyRelation,
    candidates: Candidates,
    repeated: list[Path],
    file: Path,
) -> Path:
    failing = failing_media(con, media, candidates)  # noqa: F841  read by name
    return stage(
        con.sql(f"""
            SELECT row_ref, reason, detail FROM failing
            UNION ALL
            SELECT media_id, reason, 'url_id ' || url_id FROM {parquet(repeated)} WHERE NOT kept"""),
        file,
    )


def _named(
    con: duckdb.DuckDBPyConnection,
    selected: Path,
    media: duckdb.DuckDBPyRelation,
    candidates: Candidates,
    quotas: pl.DataFrame,
    file: Path,
) -> Path:
    """The ids of the chosen; of those that share the 64-bit key of the last one of a quota, the first by media id."""
    cells = candidates.cells.join(quotas, on="cell")  # noqa: F841  read by name
    tied = row_count(selected) > quotas["taken"].sum()
    exact = "QUALIFY row_number() OVER (PARTITION BY cell ORDER BY level, draw, m.media_id) <= taken" if tied else ""
    return stage(
        con.sql(f"""SELECT m.media_id, m.url_id, label, stratum
            FROM media m JOIN {parquet(selected)} s ON m.sample_key = s.sample_key AND {candidates.mark} = mark
            JOIN cells USING (cell) {exact} ORDER BY m.media_id"""),
        file,
    )


def _nothing(con: duckdb.DuckDBPyConnection, refused: Path, available: int, sampling: Sampling) -> NothingToSample:
    counts = con.sql(
        f"SELECT count(*) AS n, reason FROM {parquet(refused)} GROUP BY reason ORDER BY n DESC, reason"
    ).fetchall()
    reasons = [f"{media:,} {reason}" for media, reason in counts]
    if available:
        floors = f"min_per_label = {sampling.min_per_label}"
        if sampling.min_per_stratum > 1:
            floors += f" or min_per_stratum = {sampling.min_per_stratum}"
        reasons.append(f"{available:,} in labels under {floors}")
    return NothingToSample(
        f"no medium is left to sample: {'; '.join(reasons) or 'the snapshot has no usable media'}",
        "lower sampling.min_per_label or min_per_stratum" if available else _loosened(counts[0][1] if counts else ""),
    )


def _loosened(reason: str) -> str:
    """What to do where most media are refused for a reason."""
    advice = {
        "licence_not_allowed": "loosen filters.licences: any shows what there is",
        "no_label": "correct label: the records do not have that term",
        "": "choose a source that has pictures",
    }
    return advice.get(reason, f"correct or loosen the filter that rules most out: {reason}")
