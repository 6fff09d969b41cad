"""Step `taxa`: what the pictures are identified as, and which label each taxon gets."""

import json
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import taxa as taxon_rows
from gbif_platform.curation import taxonomy
from gbif_platform.gbif import checklists
from gbif_platform.gbif.terms import snake_case
from gbif_platform.part import stated
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.sources.names import chosen_checklist
from gbif_platform.sources.snapshots import digest, find_snapshot
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import RANKS, Outcome

NAME = "taxa"
SHOWN = 500
"""Rows of a table on the asset's page; the lake has all."""
MOST_WITHOUT_LABEL = 0.5
"""Share of media without a label above which the check warns."""
BARS = 40


def taxa(run: Run) -> Report:
    """List the taxa of occurrences with media, with label, lineage and decision.

    Raises:
        UnknownLabel, BadVernacularNames
        PlatformError: a policy of `taxonomy:` needs a term that the archive does not have.
    """
    spec = run.dataset
    checklist = checklist_of(run)
    version = fingerprint(
        NAME,
        taxon_rows.VERSION,
        taxonomy.VERSION,
        run.version_of("occurrences"),
        run.version_of("media_urls"),
        spec.label,
        stated(spec.taxonomy.model_copy(update={"vernacular_names": None})),
        _vernacular_digest(run),
        checklist,
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        rows = taxon_rows.taxa(
            con,
            run.rows(con, "occurrences"),
            run.rows(con, "media_urls"),
            label=spec.label,
            taxonomy=spec.taxonomy,
            checklist_key=checklist,
        )
        return Outcome({NAME: rows}, rows_in=len(rows), rows_out=len(rows))

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns(NAME)
    report.texts["checklist"] = _checklist_name(checklist)
    with run.reader() as con:
        rows = run.rows(con, NAME).pl().drop("dataset", "snapshot")
    _count(run, rows, report)
    _show(rows.sort("media", "scientific_name", descending=[True, False]), report)
    return report


def checklist_of(run: Run) -> str:
    """UUID of the taxonomy that the snapshot's names and keys are of; empty = GBIF's default at the time.

    What the download's own request says counts more than the dataset file, which may have changed since.
    """
    metadata = json.loads(find_snapshot(run.platform, run.dataset, run.snapshot).metadata)
    request = metadata.get("request") if isinstance(metadata, dict) else None
    said = request.get("checklistKey") if isinstance(request, dict) else None
    if said:
        return str(said)
    source = run.dataset.source
    selection = source.gbif_download or source.gbif_search
    return (chosen_checklist(selection) if selection else None) or ""


def _checklist_name(key: str) -> str:
    name = {uuid: name for name, uuid in checklists.NAMES.items()}.get(key)
    return f"{name} {key}" if name else key or "GBIF's default at the time"


def _vernacular_digest(run: Run) -> str:
    """Digest of the file of vernacular names; a missing one is reported when it is read."""
    named = run.dataset.taxonomy.vernacular_names
    if named is None:
        return ""
    return digest(Path(named)) if Path(named).is_file() else "missing"


def _count(run: Run, rows: pl.DataFrame, report: Report) -> None:
    """Kinds of names, and the checks that no medium is lost on the way to a label."""
    below = pl.col("taxon_rank").str.to_uppercase().is_in(sorted(taxonomy.BELOW_SPECIES))
    synonyms = pl.col("taxonomic_status").str.to_uppercase().str.contains("SYNONYM")
    is_taxon = snake_case(run.dataset.label) in taxonomy.TAXON_COLUMNS
    unlabelled = rows.filter(pl.col("label").is_null()) if is_taxon else rows.clear()
    media, without = int(rows["media"].sum()), int(unlabelled["media"].sum())
    report.numbers |= {
        "taxa": len(rows),
        "labels": rows["label"].drop_nulls().n_unique(),
        "synonyms": rows.filter(synonyms).height,
        "subspecies": rows.filter(below).height,
        "hybrids": rows.filter("hybrid").height,
        "without_label": len(unlabelled),
        "media_without_label": without,
    }
    expected = run.count("media_urls")
    share = without / media if media else 0.0
    says = f"{share:.1%} of {media:,} media have no {run.dataset.label}" if is_taxon else "the label is no taxon"
    report.checks += [
        Check("media_reconcile", media == expected, f"{media:,} media of these taxa; media_urls has {expected:,}"),
        Check("labels_present", share <= MOST_WITHOUT_LABEL, f"{says}: table taxa, column decision", only_warn=True),
    ]


def _show(rows: pl.DataFrame, report: Report) -> None:
    report.tables["taxa"] = rows.head(SHOWN)
    only = [
        pl.when(pl.col(rank).n_unique() == 1).then(pl.col(rank).first()).otherwise(None).alias(rank) for rank in RANKS
    ]
    lineage = rows.drop_nulls("label").group_by("label").agg(*only, pl.len().alias("taxa"), pl.col("media").sum())
    if len(lineage):
        report.tables["lineage"] = lineage.sort("media", "label", descending=[True, False]).head(SHOWN)
    rank = _rank_to_draw(rows)
    drawn = (
        rows.group_by(pl.col(rank).fill_null(f"(no {rank})"))
        .agg(pl.col("media").sum())
        .sort("media", rank, descending=[True, False])
    )
    report.pictures[f"media_by_{rank}"] = bars(drawn[rank].to_list(), {"media": drawn["media"].to_list()})


def _rank_to_draw(rows: pl.DataFrame) -> str:
    """The finest of family, order, class that fits into a chart of bars."""
    filled = [rank for rank in ("family", "order", "class") if rows[rank].drop_nulls().len()]
    return next((rank for rank in filled if rows[rank].n_unique() <= BARS), filled[-1] if filled else "kingdom")
