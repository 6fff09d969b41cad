"""Step `predicted_catalogue`: what the dataset will hold, before a picture is fetched."""

from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from gbif_platform.curation import splits as curation
from gbif_platform.curation.filters import licence_counted
from gbif_platform.curation.taxon_checks import DESCRIPTIONS, taxon_problems
from gbif_platform.exports import catalogue as exports
from gbif_platform.gbif.terms import snake_case
from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.splits import balance, expected_subsets, labels_by_subset
from gbif_platform.storage.tables import Outcome, row_count

NAME = "predicted_catalogue"
SHOWN = 20
MAIN = ("media_id", "label", "scientific_name", "taxon_rank", "subset", "license", "url", "caption_taxonomic")


def predicted_catalogue(run: Run) -> Report:
    """One row for each sampled medium, in the subset where the split would put it by what is known so far."""
    version = catalogue_version(run, NAME, "balanced_samples")

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        expected = expected_subsets(run, con)  # noqa: F841  read by name
        samples = run.rows(con, "balanced_samples", "media_id, label")  # noqa: F841
        chosen = con.sql("""
            SELECT media_id, label, subset, nested, NULL AS width, NULL AS height
            FROM samples LEFT JOIN expected USING (media_id)""")
        staged = write_catalogue(run, NAME, rows_of(run, con, chosen), work)
        return Outcome({NAME: staged}, run.count("balanced_samples"), row_count(staged))

    written = run.compute(NAME, version, make)
    report = run.account(NAME, run.count("balanced_samples"))
    report.written = written
    describe(run, report, NAME)
    expected = run.frame("""
        SELECT label, subset, count(*) AS media FROM predicted_catalogue
        WHERE {key} AND label IS NOT NULL AND subset IS NOT NULL GROUP BY ALL""")
    report.pictures["labels_by_subset"] = balance(labels_by_subset(expected, run.dataset.split.names))
    return report


def catalogue_version(run: Run, name: str, *upstream: str) -> str:
    """Fingerprint of what both catalogues depend on, and of the stages named.

    Raises:
        UpstreamMissing
    """
    spec, stages = run.dataset, ("occurrences", "media_urls", "taxa", *upstream)
    asked = (spec.label, spec.filters.licence_fallback, stated(spec.split))
    return fingerprint(name, exports.VERSION, curation.VERSION, *map(run.version_of, stages), *asked)


def rows_of(run: Run, con: duckdb.DuckDBPyConnection, chosen: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The catalogue of the media chosen, lazily."""
    return exports.catalogue_rows(
        con,
        chosen,
        run.rows(con, "media_urls"),
        run.rows(con, "occurrences"),
        run.rows(con, "taxa"),
        label=snake_case(run.dataset.label),
        licence=licence_counted(run.dataset.filters, "m"),
    )


def write_catalogue(run: Run, table: str, rows: duckdb.DuckDBPyRelation, work: Path) -> Path:
    """Write a catalogue's files into the object store; returns its Parquet file in `work`."""
    return exports.write_files(rows, run.platform.objects, catalogue_keys(run, table), work)


def catalogue_keys(run: Run, table: str) -> dict[str, str]:
    """Keys of a catalogue's files in the object store, by format."""
    return exports.catalogue_keys(run.dataset.name, run.snapshot, table)


def describe(run: Run, report: Report, table: str) -> None:
    """Add to a report where the files are, the head of the catalogue, and the taxon checks."""
    objects = run.platform.objects
    for kind, key in catalogue_keys(run, table).items():
        report.texts[kind] = str(objects.path_of(key) or objects.url_of(key))
    report.columns = run.columns(table)
    with run.reader() as con:
        rows = run.rows(con, table, ", ".join(f'"{name}"' for name in exports.COLUMNS))
        if not all(map(objects.exists, catalogue_keys(run, table).values())):
            with TemporaryDirectory(dir=run.platform.work_folder("staging")) as work:
                write_catalogue(run, table, rows.order("media_id"), Path(work))
        counts = con.sql(
            "SELECT count(DISTINCT label) AS labels, count(DISTINCT gbif_id) AS occurrences FROM rows"
        ).pl()
        report.numbers |= counts.row(0, named=True)
        report.tables["head"] = rows.project(", ".join(MAIN)).order("media_id").limit(SHOWN).pl()
        problems = taxon_problems(con, rows, label=run.dataset.label, taxa=run.rows(con, "taxa"))
    report.numbers["taxon_problems"] = sum(map(len, problems.values()))
    for name, found in problems.items():
        says = f"{len(found):,} {DESCRIPTIONS[name]}"
        report.checks.append(Check(name, found.is_empty(), says, only_warn=True))
        if len(found):
            report.tables[name] = found
