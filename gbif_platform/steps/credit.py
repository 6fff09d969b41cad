"""Who is to be credited for a snapshot: citations, attribution of each picture, licence, derived dataset."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.gbif.archive_errors import ArchiveError
from gbif_platform.gbif.citations import (
    attribution,
    dataset_citations,
    derived_citation,
    derived_dataset,
    download_citation,
    licence_of_the_whole,
)
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.errors import GbifError, Unreachable
from gbif_platform.gbif.licences import RESTRICTIONS
from gbif_platform.sources.snapshots import Snapshot, find_snapshot
from gbif_platform.steps.run import Report, Run
from gbif_platform.storage.tables import put_rows

MOST_SHOWN = 100
PUBLISHED_LATER = "https://example.org/set-source-url-before-registering"


class NotRegistered(PlatformError):
    """A derived dataset cannot be registered at GBIF as it stands."""


@dataclass(frozen=True)
class Registration:
    """A derived dataset that GBIF has registered."""

    doi: str
    body: dict[str, Any]
    registered_at: datetime

    @property
    def citation(self) -> str:
        """In GBIF's words."""
        return derived_citation(self.doi, self.registered_at.date())


@dataclass(frozen=True)
class Credit:
    """Everything that a publication needs to give credit.

    Attributes:
        citation: of the download; None where the snapshot has no DOI.
        manifest: one row a picture of the final dataset, with `credit`.
        counts: `dataset_key`, `records` of the final rows, most first.
        derived: the body of GBIF's derived-dataset request.
        licences: `license`, `pictures` and what each licence asks for, most first.
        licence: of the whole, the most restrictive of them.
        dataset_citations: one line for each contributing dataset, most records first.
        registration: the derived dataset at GBIF, None where it is not registered.
    """

    citation: str | None
    manifest: pl.DataFrame
    counts: pl.DataFrame
    derived: dict[str, Any]
    licences: pl.DataFrame
    licence: str
    dataset_citations: list[str]
    registration: Registration | None = None

    @property
    def citations(self) -> list[str]:
        """How to cite the whole: the derived dataset first, where it is registered, and what it derives from."""
        derived = [self.registration.citation] if self.registration else []
        return [*derived, *([self.citation] if self.citation else [])]


def credit(run: Run, source_url: str = PUBLISHED_LATER) -> Credit:
    """Collect the credit of the pictures that are in a subset.

    Args:
        source_url: where the derived dataset is published; of one that is registered, GBIF's is taken.

    Raises:
        UpstreamMissing: `splits` is not materialised.
    """
    with run.reader() as con:
        final = _final(run, con)
        # GBIF's ids are numbers; those of rows of a list are not, and have no page there.
        manifest = con.sql("""
            SELECT media_id, subset, gbif_id,
                   CASE WHEN regexp_full_match(gbif_id, '[0-9]+')
                        THEN 'https://www.gbif.org/occurrence/' || gbif_id END AS occurrence,
                   dataset_key, license, license_text, creator, rights_holder, publisher, url, source_page
            FROM final ORDER BY media_id""").pl()
        counts, licences = _counts(con, final), _licences(con, final)
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    derived = _derived(run, snapshot, counts, len(manifest), source_url)
    registration = _registered(run, derived)
    return Credit(
        citation=citation_of(run, snapshot),
        manifest=attribution(manifest),
        counts=counts,
        derived=registration.body if registration else derived,
        licences=licences,
        licence=licence_of_the_whole(licences),
        dataset_citations=_dataset_citations(run, snapshot, counts),
        registration=registration,
    )


def credit_report(run: Run) -> Report:
    """The credit in short, for the asset's page: `gbif_datasets`, `citation`, `licence_of_the_whole`,
    `derived_dataset` (the JSON body, of more than `MOST_SHOWN` datasets without their counts) and a table `licences`.

    Raises:
        UpstreamMissing: `splits` is not materialised.
    """
    with run.reader() as con:
        final = _final(run, con)
        counts, licences = _counts(con, final), _licences(con, final)
    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    body = _derived(run, snapshot, counts, int(licences["pictures"].sum()), PUBLISHED_LATER)
    registration = _registered(run, body)
    citation = registration.citation if registration else citation_of(run, snapshot)
    shown = dict(registration.body if registration else body)
    if len(counts) > MOST_SHOWN:
        shown["relatedDatasets"] = f"{len(counts)} datasets: gbif-platform cite {run.dataset.name}"
    return Report(
        numbers={"gbif_datasets": len(counts)},
        texts={
            "citation": citation or "no DOI; cite its datasets",
            "licence_of_the_whole": licence_of_the_whole(licences),
            "derived_dataset": json.dumps(shown, ensure_ascii=False),
        },
        tables={"licences": licences.select("license", "pictures")},
    )


def write_credit(found: Credit, folder: Path) -> list[Path]:
    """Write citation.txt, citations.txt (the contributing datasets too), licence.txt, attribution.csv,
    related_datasets.csv (no header, as GBIF reads it) and derived_dataset.json."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = found.citations or ["This snapshot has no DOI; cite its datasets."]
    by_licence = [
        f"{name}: {pictures:,} pictures" for name, pictures in found.licences.select("license", "pictures").rows()
    ]
    texts = {
        "citation.txt": whole,
        "citations.txt": [*whole, "", "Records of these datasets are in it:", "", *found.dataset_citations],
        "licence.txt": [f"The whole: {found.licence}", "", *by_licence],
    }
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    found.manifest.write_csv(folder / "attribution.csv")
    found.counts.write_csv(folder / "related_datasets.csv", include_header=False)
    body = json.dumps(found.derived, indent=1, ensure_ascii=False) + "\n"
    (folder / "derived_dataset.json").write_text(body, encoding="utf-8")
    names = (*texts, "attribution.csv", "related_datasets.csv", "derived_dataset.json")
    return [folder / name for name in names]


# What is in the final dataset


def _final(run: Run, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """One row a picture that is in a subset, with its medium and its occurrence's dataset, lazily."""
    run.version_of("splits")
    splits = run.rows(con, "splits", "media_id, subset")  # noqa: F841  read by name
    media = run.rows(con, "media_urls")  # noqa: F841
    occurrences = run.rows(con, "occurrences")
    link = '"references"' if "references" in occurrences.columns else "NULL"
    sources = occurrences.project(f"gbif_id, dataset_key, {link} AS source_page")  # noqa: F841
    return con.sql("FROM splits JOIN media USING (media_id) JOIN sources USING (gbif_id)")


def _counts(con: duckdb.DuckDBPyConnection, final: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    return con.sql("""
        SELECT dataset_key, count(DISTINCT gbif_id) AS records FROM final
        WHERE dataset_key IS NOT NULL GROUP BY dataset_key ORDER BY records DESC, dataset_key""").pl()


def _licences(con: duckdb.DuckDBPyConnection, final: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    asked = ", ".join(f"coalesce(bool_or({name}), false) AS {name}" for name in RESTRICTIONS)
    return con.sql(f"""
        SELECT coalesce(license, 'unknown') AS license, count(*) AS pictures, {asked} FROM final
        GROUP BY ALL ORDER BY pictures DESC, license""").pl()


def citation_of(run: Run, snapshot: Snapshot) -> str | None:
    """What GBIF says, else what GBIF would say."""
    rows = run.platform.lake.frame(
        "SELECT citation FROM snapshots WHERE dataset = ? AND snapshot = ? AND citation <> ''",
        [run.dataset.name, run.snapshot],
    )
    if len(rows):
        return str(rows["citation"][0])
    return download_citation({"doi": snapshot.doi, **json.loads(snapshot.metadata)})


def _dataset_citations(run: Run, snapshot: Snapshot, counts: pl.DataFrame) -> list[str]:
    """Citations of the datasets in the final rows; of a lone archive, of all that it names: it names no keys."""
    known = run.platform.lake.frame(
        "SELECT dataset_key, any_value(dataset_doi) AS dataset_doi, any_value(title) AS title, "
        "any_value(citation) AS citation FROM download_datasets WHERE dataset = ? AND snapshot = ? GROUP BY ALL",
        [run.dataset.name, run.snapshot],
    )
    if known.is_empty() and (lines := _archive_citations(run, snapshot)):
        return lines
    return dataset_citations(counts.join(known, on="dataset_key", how="left", maintain_order="left"))


def _archive_citations(run: Run, snapshot: Snapshot) -> list[str]:
    """The lines of the archive's citations.txt below its heading."""
    path = run.platform.objects.path_of(snapshot.archive) if snapshot.archive else None
    if path is None or not path.is_file():
        return []
    try:
        with DarwinCoreArchive(path) as archive:
            lines = archive.metadata.get("citations", "").splitlines()
    except ArchiveError:
        return []
    return [line.strip() for line in lines[1:] if line.strip()]


# The derived dataset


def _derived(run: Run, snapshot: Snapshot, counts: pl.DataFrame, pictures: int, source_url: str) -> dict[str, Any]:
    return derived_dataset(
        counts,
        title=f"{run.dataset.name}: photographs selected from GBIF",
        description=run.dataset.description or f"{pictures:,} pictures, snapshot {run.snapshot}",
        source_url=source_url,
        doi=snapshot.doi or None,
    )


def _registered(run: Run, body: Mapping[str, Any]) -> Registration | None:
    """The registration of a body, wherever that said the data are published."""
    rows = run.platform.lake.frame(
        "SELECT doi, body, registered_at FROM derived_datasets WHERE dataset = ? ORDER BY registered_at",
        [run.dataset.name],
    )
    for row in rows.iter_rows(named=True):
        registered = json.loads(row["body"])
        if {**registered, "sourceUrl": ""} == {**body, "sourceUrl": ""}:
            return Registration(row["doi"], registered, row["registered_at"].astimezone(UTC))
    return None


async def register(gbif: GbifClient, run: Run, body: Mapping[str, Any]) -> str:
    """Register a derived dataset at GBIF, for ever, and record it; one that is registered keeps its DOI.

    Args:
        body: `Credit.derived`, with the address where the data are published.

    Returns:
        The DOI.

    Raises:
        NotRegistered: it lacks an address or datasets, or is registered with another address.
        BadRequest, NotAuthorised, Unreachable
    """
    url = str(body.get("sourceUrl") or "")
    if url == PUBLISHED_LATER or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise NotRegistered(
            f"the derived dataset of {run.dataset.name} has no sourceUrl",
            "publish the data first, e.g. at Zenodo, and give that address (--source-url URL): GBIF keeps it for ever",
        )
    if not body.get("relatedDatasets"):
        raise NotRegistered(
            f"no picture of {run.dataset.name} comes from a GBIF dataset", "there is nothing to register"
        )
    if known := _registered(run, body):
        if known.body["sourceUrl"] != url:
            raise NotRegistered(
                f"these data are registered as {known.doi}, with the address {known.body['sourceUrl']}",
                "cite that DOI; its address can be changed at gbif.org",
            )
        return known.doi
    doi = await _post(gbif, body)
    row = {"body": json.dumps(body, sort_keys=True), "registered_at": datetime.now(UTC)}
    keys = {"dataset": run.dataset.name, "snapshot": run.snapshot, "doi": doi}
    put_rows(run.platform.lake, "derived_datasets", keys, pl.DataFrame([row]), author=run.run_id)
    return doi


async def _post(gbif: GbifClient, body: Mapping[str, Any]) -> str:
    try:
        answer = await gbif.register_derived_dataset(body)
    except Unreachable as error:
        raise Unreachable(
            error.cause, "look at gbif.org/derived-dataset whether it has arrived before you register it again"
        ) from error
    doi = str(answer.get("doi") or "").lower()
    if not doi.startswith("10."):
        raise GbifError(f"GBIF registered a derived dataset, but gave the DOI {doi!r}", "see gbif.org/derived-dataset")
    return doi
