"""Credit in GBIF's own forms: the citation of a download, and the description of a derived dataset.

Sources: GBIF's citation guidelines (https://www.gbif.org/citation-guidelines) and the body of
`POST /v1/derivedDataset`.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import polars as pl

FALLBACK = ("creator", "rights_holder", "publisher")
"""Who is credited for a picture: the first of these that is known."""


def download_citation(metadata: Mapping[str, Any]) -> str | None:
    """`GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/10.15468/dl.xxxxxx`.

    Args:
        metadata: GBIF's JSON of the download, with `doi` and `created`.

    Returns:
        None where there is no DOI to cite.
    """
    doi, created = metadata.get("doi"), metadata.get("created")
    if not doi:
        return None
    day = datetime.fromisoformat(created).date() if created else None
    said = f" ({_long(day)})" if day else ""
    return f"GBIF.org{said} GBIF Occurrence Download https://doi.org/{doi.lower().removeprefix('https://doi.org/')}"


def _long(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def derived_dataset(
    counts: pl.DataFrame, *, title: str, description: str, source_url: str, doi: str | None
) -> dict[str, Any]:
    """The body that registers a derived dataset at GBIF.

    Args:
        counts: `dataset_key`, `records`: of the rows kept in the end, as GBIF asks, not of the download.
        source_url: where the derived data are published; GBIF refuses an empty one.
        doi: of the download that they derive from.
    """
    related = {row["dataset_key"]: row["records"] for row in counts.iter_rows(named=True)}
    body = {"title": title, "description": description, "sourceUrl": source_url, "relatedDatasets": related}
    return body | ({"originalDownloadDOI": doi} if doi else {})


def attribution(media: pl.DataFrame) -> pl.DataFrame:
    """One line of credit for each picture, e.g. `Ann Onym, CC-BY-4.0, https://…`.

    Args:
        media: `creator`, `rights_holder`, `publisher`, `license`, `url`, any of them null.

    Returns:
        The frame with a column `credit`; `FALLBACK` says who is named.
    """
    named = [pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)) for name in FALLBACK]
    who = pl.coalesce(*named, pl.lit("unknown author"))
    licence = pl.when(pl.col("license") == "unknown").then(pl.lit("licence unknown")).otherwise(pl.col("license"))
    return media.with_columns(credit=pl.concat_str(who, licence, "url", separator=", "))
