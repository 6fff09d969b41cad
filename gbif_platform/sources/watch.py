"""What has become available of a dataset: its own requests, a list of DOIs, and an account's downloads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gbif_platform.dataset import Dataset, Watch
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.download import EXECUTING, parse_reference
from gbif_platform.gbif.errors import GbifError, Unreachable
from gbif_platform.platform import Platform
from gbif_platform.sources import download_requests
from gbif_platform.sources.snapshots import add_download, add_requested, download_snapshot, put
from gbif_platform.storage import tables


@dataclass
class Sighting:
    """What a look at GBIF found.

    Attributes:
        snapshots: every recorded snapshot of the dataset, oldest first, those found just now among them.
        notes: what is not ready or of no use, a line each.
        since: where the next look at the account's downloads begins.
    """

    snapshots: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    since: datetime | None = None


async def look(platform: Platform, dataset: Dataset, gbif: GbifClient, since: datetime | None = None) -> Sighting:
    """Record what has been finished at GBIF.

    Args:
        since: `Sighting.since` of the last look; None = this is the first one, which leaves an account's older
            downloads alone unless `watch.since` says otherwise.

    Raises:
        Unreachable: GBIF does not answer; what was recorded before that stays.
        NotAuthorised: the account is missing or wrong.
    """
    sighting = Sighting(since=since)
    source = dataset.source.gbif_download
    if source is not None:
        await _own_requests(platform, dataset, gbif, sighting)
        if source.watch:
            await _listed(platform, dataset, gbif, source.watch, sighting)
            await _account(platform, dataset, gbif, source.watch, sighting)
    sighting.snapshots = tables.snapshots(platform.lake, dataset.name)["snapshot"].to_list()
    return sighting


async def _own_requests(platform: Platform, dataset: Dataset, gbif: GbifClient, sighting: Sighting) -> None:
    for request in download_requests.open_requests(platform.lake, dataset.name):
        asked = await download_requests.step(gbif, platform.lake, request)
        if asked.is_finished:
            await add_requested(platform, dataset, gbif, asked)
        else:
            sighting.notes.append(f"request {asked.key}: {asked.reason or asked.status}")


async def _listed(platform: Platform, dataset: Dataset, gbif: GbifClient, watch: Watch, sighting: Sighting) -> None:
    for doi in watch.dois:
        try:
            await add_download(platform, dataset, gbif, parse_reference(doi))
        except Unreachable:
            raise
        except GbifError as error:  # one wrong or unfinished DOI does not hold up the others
            sighting.notes.append(error.cause)


async def _account(platform: Platform, dataset: Dataset, gbif: GbifClient, watch: Watch, sighting: Sighting) -> None:
    """The downloads of the account that were made since the last look, and those that were unfinished then."""
    if watch.user is None:
        return
    given = datetime.combine(watch.since, datetime.min.time(), UTC) if watch.since else None
    start = sighting.since or given or datetime.now(UTC)
    unfinished, newest = [], start
    newest_first = await gbif.user_downloads(watch.user, since=f"{start:%Y-%m-%d}")
    for metadata in reversed(newest_first):  # snapshots build on those before them
        created, status = datetime.fromisoformat(metadata["created"]), str(metadata.get("status"))
        if created < start:
            continue
        newest = max(newest, created)
        if status in EXECUTING:
            unfinished.append(created)
            sighting.notes.append(f"{metadata['key']}: {status}")
        elif status == "SUCCEEDED":
            if trouble := _not_meant(dataset, metadata.get("request") or {}):
                sighting.notes.append(f"{metadata['key']} {trouble}")
            else:
                put(platform, download_snapshot(dataset, metadata, metadata.get("doi") or metadata["key"]))
    sighting.since = min(unfinished, default=newest)


def _not_meant(dataset: Dataset, request: Mapping[str, Any]) -> str | None:
    """Why a download of the account is no snapshot of the dataset."""
    if (kind := request.get("format", "DWCA")) != "DWCA":
        return f"is in format {kind}, which has no media"
    owner = download_requests.requested_for(request)
    return None if owner in (None, dataset.name) else f"was requested for dataset {owner}"
