"""Who is to be credited for a snapshot of a dataset: citation, attribution of each picture, derived dataset."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gbif_platform.gbif.citations import attribution, derived_dataset, download_citation
from gbif_platform.sources.snapshots import find_snapshot
from gbif_platform.steps.run import Run

PUBLISHED_LATER = "https://example.org/set-source-url-before-registering"


@dataclass(frozen=True)
class Credit:
    """Everything that a publication needs to give credit.

    Attributes:
        citation: of the download; None where the snapshot has no DOI.
        manifest: one row a picture of the final dataset, with `credit`.
        counts: `dataset_key`, `records` of the final rows, most first.
        derived: the body of GBIF's derived-dataset request.
    """

    citation: str | None
    manifest: pl.DataFrame
    counts: pl.DataFrame
    derived: dict[str, Any]


def credit(run: Run, source_url: str = PUBLISHED_LATER) -> Credit:
    """Collect the credit of the pictures that are in a subset.

    Raises:
        UpstreamMissing: `splits` is not materialised.
    """
    run.version_of("splits")
    with run.reader() as con:
        splits = run.rows(con, "splits", "media_id, subset")  # noqa: F841  read by name
        media = run.rows(con, "media_urls")  # noqa: F841
        occurrences = run.rows(con, "occurrences")
        link = '"references"' if "references" in occurrences.columns else "NULL"
        manifest = con.sql(f"""
            SELECT media_id, subset, m.gbif_id, 'https://www.gbif.org/occurrence/' || m.gbif_id AS occurrence,
                   dataset_key, license, license_text, creator, rights_holder, m.publisher, url, source_page
            FROM splits JOIN media m USING (media_id)
            JOIN (SELECT gbif_id, dataset_key, {link} AS source_page FROM occurrences) USING (gbif_id)
            ORDER BY media_id""").pl()
        counts = con.sql("""
            SELECT dataset_key, count(DISTINCT gbif_id) AS records FROM manifest
            WHERE dataset_key IS NOT NULL GROUP BY dataset_key ORDER BY records DESC, dataset_key""").pl()
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    metadata = json.loads(snapshot.metadata)
    derived = derived_dataset(
        counts,
        title=f"{run.dataset.name}: photographs selected from GBIF",
        description=run.dataset.description or f"{len(manifest):,} pictures, snapshot {run.snapshot}",
        source_url=source_url,
        doi=snapshot.doi or None,
    )
    return Credit(download_citation({"doi": snapshot.doi, **metadata}), attribution(manifest), counts, derived)


def write_credit(found: Credit, folder: Path) -> list[Path]:
    """Write citation.txt, attribution.csv, related_datasets.csv (no header, as GBIF reads it), derived_dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        folder / name for name in ("citation.txt", "attribution.csv", "related_datasets.csv", "derived_dataset.json")
    ]
    files[0].write_text((found.citation or "This snapshot has no DOI; cite its datasets.") + "\n", encoding="utf-8")
    found.manifest.write_csv(files[1])
    found.counts.write_csv(files[2], include_header=False)
    files[3].write_text(json.dumps(found.derived, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files
