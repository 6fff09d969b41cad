"""The archive that holds a snapshot: fetched or written once, kept in the object store, read from a local file."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl

from gbif_platform.dataset import Dataset
from gbif_platform.gbif.citations import dataset_rows
from gbif_platform.gbif.download import download, parse_reference
from gbif_platform.gbif.retry import Progress
from gbif_platform.platform import Platform
from gbif_platform.settings import fingerprint
from gbif_platform.sources import gbif_source
from gbif_platform.sources.names import REVIEW
from gbif_platform.sources.search.search import search_archive
from gbif_platform.sources.snapshots import Snapshot, digest, record
from gbif_platform.storage import tables

log = logging.getLogger("gbif_platform")


def local_archive(platform: Platform, dataset: Dataset, snapshot: Snapshot, progress: Progress | None = None) -> Path:
    """A local file with the snapshot's archive; whatever the source, everything after it reads a Darwin Core Archive.

    Raises:
        GbifError: it cannot be had from GBIF; what has come already is kept, and asked for no more.
    """
    if not platform.objects.exists(snapshot.archive):
        fetch = _fetch_search if snapshot.kind == "gbif_search" else _fetch_download
        fetch(platform, dataset, snapshot, progress)
    if path := platform.objects.path_of(snapshot.archive):
        return path
    cached = platform.work_folder("archives") / Path(snapshot.archive).name
    if not cached.exists():
        platform.objects.copy_to(snapshot.archive, cached)
    return cached


def _fetch_download(platform: Platform, dataset: Dataset, snapshot: Snapshot, progress: Progress | None) -> None:
    endpoint = gbif_source.endpoint(platform, dataset)
    folder = platform.work_folder("downloads", fingerprint(endpoint, snapshot.key))
    got = download(
        parse_reference(snapshot.key), endpoint, folder, user_agent=platform.settings.user_agent, progress=progress
    )
    keys = {"dataset": snapshot.dataset, "snapshot": snapshot.key}
    tables.put_rows(
        platform.lake, "download_datasets", keys, dataset_rows(got.datasets), author=f"download {snapshot.key}"
    )
    for warning in got.warnings:
        log.warning("%s", warning)
    _keep(platform, snapshot, got.path, got.metadata, citation=got.citation or None)
    shutil.rmtree(folder, ignore_errors=True)


def _fetch_search(platform: Platform, dataset: Dataset, snapshot: Snapshot, progress: Progress | None) -> None:
    source = dataset.source.gbif_search
    assert source is not None
    work = platform.work_folder("searches", fingerprint(snapshot.dataset, snapshot.key))
    path = work / "archive.zip"
    metadata = search_archive(
        source,
        path,
        work / "pages",
        endpoint=gbif_source.endpoint(platform, dataset),
        user_agent=platform.settings.user_agent,
        progress=progress,
    )
    gbif_source.put_name_matches(platform, dataset, snapshot.key, pl.DataFrame(metadata.pop("matches"), schema=REVIEW))
    _keep(platform, snapshot, path, metadata)
    shutil.rmtree(work, ignore_errors=True)


def _keep(platform: Platform, snapshot: Snapshot, path: Path, metadata: dict[str, object], **known: object) -> None:
    """Record what is known of a snapshot, and put its archive into the object store."""
    kept = replace(snapshot, sha256=digest(path), metadata=json.dumps(metadata))
    platform.objects.put(f"{snapshot.archive}.json", json.dumps(metadata, indent=1).encode())
    record(platform, kept, **known)
    platform.objects.put(snapshot.archive, path)  # last: where the archive is, nothing is asked for again
