"""Credit in GBIF's own forms: the citations of a download and its datasets, and the description of a derived dataset.

Sources: GBIF's citation guidelines (https://www.gbif.org/citation-guidelines) and the body of
`POST /v1/derivedDataset`.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any

import polars as pl

from gbif_platform.gbif.licences import RESTRICTIONS

FALLBACK = ("creator", "rights_holder", "publisher")
"""Who is credited for a picture: the first of these that is known."""
_DATASETS = {
    "dataset_key": ("datasetKey", pl.String),
    "dataset_doi": ("datasetDOI", pl.String),
    "title": ("datasetTitle", pl.String),
    "citation": ("datasetCitation", pl.String),
    "records": ("numberRecords", pl.Int64),
}


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


def derived_citation(doi: str, registered: date) -> str:
    """`Derived dataset GBIF.org (4 September 2025) Filtered export of GBIF occurrence data https://doi.org/…`."""
    return (
        f"Derived dataset GBIF.org ({_long(registered)}) Filtered export of GBIF occurrence data https://doi.org/{doi}"
    )


def dataset_rows(datasets: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """GBIF's list of the datasets of a download as rows of the table `download_datasets`.

    Returns:
        `dataset_key`, `dataset_doi`, `title`, `citation` (str, null where GBIF does not say), `records` (int).
    """
    rows = [{name: said.get(theirs) for name, (theirs, _) in _DATASETS.items()} for said in datasets]
    schema: dict[str, Any] = {name: kind for name, (_, kind) in _DATASETS.items()}
    return pl.DataFrame(rows, schema=schema)


def dataset_citations(datasets: pl.DataFrame) -> list[str]:
    """One line for each dataset: GBIF's citation, else what there is.

    Args:
        datasets: `dataset_key`, `dataset_doi`, `title`, `citation`, any but the first of them null.
    """
    return [_dataset_citation(row) for row in datasets.iter_rows(named=True)]


def _dataset_citation(row: Mapping[str, Any]) -> str:
    if row["citation"]:
        return " ".join(row["citation"].split())
    page = f"https://www.gbif.org/dataset/{row['dataset_key']}"
    link = f"https://doi.org/{row['dataset_doi']}" if row["dataset_doi"] else page
    return f"{row['title']} {link}" if row["title"] else link


def licence_of_the_whole(licences: pl.DataFrame) -> str:
    """The most restrictive of the licences of the rows; GBIF's own word on a download may be a guess.

    Args:
        licences: one row a licence: `license` (SPDX or unknown), `pictures`, and `RESTRICTIONS` as bool.

    Returns:
        The licence that asks for all that any asks for; `A and B` where none does; `unknown` where one is unknown;
        "" without any.
    """
    if "unknown" in licences["license"].fill_null("unknown"):
        return "unknown"
    by_restrictions: dict[frozenset[str], str] = {}
    for row in licences.sort("pictures", "license").iter_rows(named=True):  # of equal ones the most frequent stays
        by_restrictions[frozenset(name for name in RESTRICTIONS if row[name])] = row["license"]
    strictest = [spdx for asked, spdx in by_restrictions.items() if not any(asked < other for other in by_restrictions)]
    return " and ".join(sorted(strictest))


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
