"""A dataset's source at GBIF: whom to ask, what the dataset file asks for, and how a download is requested for it."""

import polars as pl

from gbif_platform.dataset import Dataset, GbifSearch
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.predicates import from_query
from gbif_platform.gbif.retry import Patience, Progress, telling
from gbif_platform.platform import Platform
from gbif_platform.settings import fingerprint
from gbif_platform.sources.download_requests import Request, request_body, request_download
from gbif_platform.sources.names import chosen_checklist, resolved_query
from gbif_platform.sources.search.search import search_version
from gbif_platform.storage import tables


def endpoint(platform: Platform, dataset: Dataset) -> str:
    """The API that the dataset asks."""
    source = dataset.source.gbif
    return (source.endpoint if source else None) or platform.settings.gbif_url


def client(
    platform: Platform, dataset: Dataset, progress: Progress | None = None, *, attempts: int = Patience.attempts
) -> GbifClient:
    """A client for the dataset's endpoint; the account comes from the environment when a call needs one.

    Args:
        progress: told when GBIF has to be waited for.
    """
    patience = telling(progress, attempts)
    return GbifClient(endpoint(platform, dataset), user_agent=platform.settings.user_agent, patience=patience)


def asks(dataset: Dataset) -> bool:
    """Whether the dataset file says what to ask GBIF for, rather than naming a finished download."""
    source = dataset.source
    return source.gbif_search is not None or (source.gbif_download is not None and source.gbif_download.requests)


def asked_for(dataset: Dataset) -> str:
    """What the dataset file asks for, under a short name: equal questions have equal names, e.g. `query 3fa97c01`."""
    source = dataset.source.gbif
    if source is None:
        raise PlatformError(f"dataset {dataset.name} does not ask GBIF", "its source is an archive")
    if isinstance(source, GbifSearch):
        return f"search {search_version(source)[:8]}"
    said = fingerprint(search_version(source), source.predicate, sorted(source.verbatim_extensions))
    return f"query {said[:8]}"


async def request_now(platform: Platform, dataset: Dataset, gbif: GbifClient, tick: str = "") -> Request:
    """Request the download that the dataset file describes, unless an equal request is there already.

    Args:
        tick: "" for the first request; the date of a refresh, which makes it another request.

    Raises:
        GbifError: GBIF refuses it, an account is missing, or three downloads are open.
    """
    source = dataset.source.gbif_download
    if source is None or not source.requests:
        raise PlatformError(
            f"dataset {dataset.name} does not say what to ask GBIF for",
            "give source.gbif_download a query, names or a predicate, or add a snapshot by its DOI",
        )
    checklist = chosen_checklist(source)
    predicate = source.predicate
    if predicate is None:
        folder = platform.work_folder("names", fingerprint(gbif.endpoint, tick))
        query, matches = await resolved_query(gbif, source, folder)
        put_name_matches(platform, dataset, f"request {tick}".strip(), matches)
        predicate = from_query(query, checklist)
    body = request_body(
        dataset.name,
        predicate,
        checklist_key=checklist,
        verbatim_extensions=source.verbatim_extensions,
        description=dataset.description,
        tick=tick,
        asked=asked_for(dataset),
    )
    return await request_download(gbif, platform.lake, dataset.name, body, Credentials.from_environment())


def put_name_matches(platform: Platform, dataset: Dataset, snapshot: str, matches: pl.DataFrame) -> None:
    """Keep what became of each name, for review."""
    if len(matches):
        keys = {"dataset": dataset.name, "snapshot": snapshot}
        tables.put_rows(platform.lake, "name_matches", keys, matches, author=f"names of {dataset.name}")
