"""Snapshots: one immutable state of a dataset's source each, and how a dataset gets one."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gbif_platform.dataset import Dataset, ImageFolder
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.gbif.archive_errors import ArchiveMissing
from gbif_platform.gbif.blocking import run_blocking
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.download import DownloadRef, check_status, parse_reference
from gbif_platform.gbif.download_errors import UnknownDownload
from gbif_platform.gbif.errors import NotFound
from gbif_platform.gbif.retry import Progress
from gbif_platform.platform import Platform
from gbif_platform.settings import fingerprint
from gbif_platform.sources import download_requests, gbif_source, image_folder, url_list
from gbif_platform.sources.download_requests import Request
from gbif_platform.sources.list_files import files_of
from gbif_platform.storage import tables


class UnknownSnapshot(PlatformError):
    """The dataset has no such snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """A row of the `snapshots` table, as far as the source needs it.

    Attributes:
        key: the Dagster partition: a DOI, a download key, `search-<date>-<question>`, or file name and digest.
        kind: `archive`, `urls`, `gbif_download` or `gbif_search`.
        reference: what a person named (path, DOI, key), or the question that the dataset file asks.
        archive: key of the archive in the object store.
        metadata: what GBIF says of it, as JSON.
    """

    dataset: str
    key: str
    kind: str
    reference: str
    archive: str
    sha256: str = ""
    doi: str = ""
    metadata: str = "{}"
    added_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def version(self) -> str:
        """Changes when the archive would hold other bytes."""
        return fingerprint(self.kind, self.key)


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_snapshot(
    platform: Platform,
    dataset: Dataset,
    reference: str | None = None,
    *,
    anew: bool = False,
    progress: Progress | None = None,
) -> tuple[str, bool]:
    """Record a snapshot of a dataset.

    An archive or a list is copied into the object store. Of a GBIF download only what GBIF says of it is recorded; its
    file is fetched when it is read. What the dataset file asks GBIF for is requested, and waited for.

    Args:
        reference: DOI, DOI URL, portal URL, download key, or path of an archive or list; default = the dataset's
            source.
        anew: ask GBIF again for what the dataset file asks for (once a day); default = the newest answer that is known.
        progress: called while GBIF prepares a download.

    Returns:
        The snapshot's key, and whether it is new.

    Raises:
        ArchiveError, ListUnreadable, GbifError: there is no such file or download, it is no archive or list, or GBIF
            refuses the request.
        PlatformError: the dataset names no source and none was given.
    """
    if dataset.source.archive is not None:
        path = Path(reference or dataset.source.archive).expanduser().absolute()
        return put(platform, _archive_snapshot(platform, dataset, path))
    if dataset.source.urls is not None:
        path = Path(reference or dataset.source.urls.files).expanduser().absolute()
        return put(platform, _list_snapshot(platform, dataset, path, progress))
    if dataset.source.image_folder is not None:
        return put(platform, _folder_snapshot(platform, dataset, dataset.source.image_folder, progress))
    if reference is None and gbif_source.asks(dataset):
        if not anew and (known := _newest_answer(platform, dataset)):
            return known, False
        if dataset.source.gbif_search:
            return put(platform, _search_snapshot(dataset, datetime.now(UTC)))
        tick = f"{datetime.now(UTC):%Y-%m-%d}" if anew else ""
        return run_blocking(_requested(platform, dataset, tick, progress))
    ref = parse_reference(reference or _doi(dataset))
    return run_blocking(_added(platform, dataset, ref, progress))


def _doi(dataset: Dataset) -> str:
    source = dataset.source.gbif_download
    if source is None or source.doi is None:
        raise PlatformError(
            f"dataset {dataset.name} names no DOI yet", f"gbif-platform snapshot add {dataset.name} DOI"
        )
    return source.doi


def _archive_key(name: str, suffix: str = ".zip") -> str:
    return f"archives/{re.sub(r'[^A-Za-z0-9.-]', '_', name)}{suffix}"


def _archive_snapshot(platform: Platform, dataset: Dataset, path: Path) -> Snapshot:
    if path.is_dir():
        raise ArchiveMissing(f"{path} is a folder", f"zip it first: (cd {path} && zip -r ../{path.name}.zip .)")
    if not path.exists():
        raise ArchiveMissing(f"there is no archive at {path}", "correct source.archive, or download the archive first")
    sha256 = digest(path)
    stem, suffix = re.match(r"(.+?)((?:\.tar)?\.[A-Za-z0-9]+)?$", path.name).groups(default="")  # type: ignore[union-attr]
    name = f"{stem}-{sha256[:12]}"
    key = _archive_key(sha256, suffix)
    if not platform.objects.exists(key):
        with DarwinCoreArchive(path):  # what is none becomes no snapshot, and the message names the person's own file
            pass
        platform.objects.put(key, path)
    return Snapshot(dataset.name, name, "archive", str(path), key, sha256)


def _list_snapshot(platform: Platform, dataset: Dataset, path: Path, progress: Progress | None) -> Snapshot:
    files = files_of(path)
    digests = {file.name: digest(file) for file in files}
    sha256 = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    key = _archive_key(f"urls-{sha256}", ".parquet")
    if not platform.objects.exists(key):
        work = platform.work_folder("lists", sha256)
        url_list.collect(files, work / "list.parquet", progress)
        platform.objects.put(key, work / "list.parquet")
        shutil.rmtree(work, ignore_errors=True)
    name = path.name if path.is_dir() else path.name.split(".")[0]
    return Snapshot(dataset.name, f"{name}-{sha256[:12]}", url_list.KIND, str(path), key, sha256)


def _folder_snapshot(platform: Platform, dataset: Dataset, folder: ImageFolder, progress: Progress | None) -> Snapshot:
    """The pictures that a folder holds now, as a list; the pixels stay where they are until they are sampled."""
    work = platform.work_folder("lists", dataset.name)
    sha256 = image_folder.write_list(folder, work / "list.parquet", progress)
    key = _archive_key(f"images-{sha256}", ".parquet")
    if not platform.objects.exists(key):
        platform.objects.put(key, work / "list.parquet")
    shutil.rmtree(work, ignore_errors=True)
    return Snapshot(dataset.name, f"{Path(folder.path).name}-{sha256[:12]}", url_list.KIND, folder.path, key, sha256)


def _search_snapshot(dataset: Dataset, moment: datetime) -> Snapshot:
    asked = gbif_source.asked_for(dataset)
    key = f"search-{moment:%Y-%m-%d}-{asked.split()[-1]}"
    return Snapshot(dataset.name, key, "gbif_search", asked, _archive_key(f"{dataset.name}-{key}"))


async def _requested(platform: Platform, dataset: Dataset, tick: str, progress: Progress | None) -> tuple[str, bool]:
    """Request what the dataset file asks for, and wait until GBIF has prepared it."""
    async with gbif_source.client(platform, dataset, progress) as gbif:
        request = await gbif_source.request_now(platform, dataset, gbif, tick)
        request = await download_requests.wait(gbif, platform.lake, request, progress)
        return await add_requested(platform, dataset, gbif, request)


async def add_requested(platform: Platform, dataset: Dataset, gbif: GbifClient, request: Request) -> tuple[str, bool]:
    """Record the snapshot that a finished request of the platform is."""
    metadata = await gbif.download(request.key)
    return put(platform, download_snapshot(dataset, metadata, request.asked))


async def _added(platform: Platform, dataset: Dataset, ref: DownloadRef, progress: Progress | None) -> tuple[str, bool]:
    async with gbif_source.client(platform, dataset, progress) as gbif:
        return await add_download(platform, dataset, gbif, ref)


async def add_download(platform: Platform, dataset: Dataset, gbif: GbifClient, ref: DownloadRef) -> tuple[str, bool]:
    """Record a finished download as a snapshot, under its DOI, however it was named.

    Raises:
        UnknownDownload, DownloadNotReady, DownloadErased, DownloadFailed, Unreachable
    """
    if known := _known_download(platform, dataset, ref):
        return known, False
    try:
        metadata = await gbif.download(str(ref))
    except NotFound as error:
        raise UnknownDownload(f"GBIF knows no download {ref}", "check the DOI or the key") from error
    check_status(ref, str(metadata.get("status")))
    return put(platform, download_snapshot(dataset, metadata, str(ref)))


def download_snapshot(dataset: Dataset, metadata: Mapping[str, Any], reference: str) -> Snapshot:
    """The snapshot that a finished download is; its key is the DOI, however it was named."""
    doi, key = str(metadata.get("doi") or "").lower(), str(metadata["key"])
    return Snapshot(
        dataset.name,
        doi or key,
        "gbif_download",
        reference,
        _archive_key(doi or key),
        doi=doi,
        metadata=json.dumps(metadata),
    )


def _newest_answer(platform: Platform, dataset: Dataset) -> str | None:
    """The newest snapshot that answers what the dataset file asks."""
    known = tables.snapshots(platform.lake, dataset.name)
    answers = known.filter(known["reference"] == gbif_source.asked_for(dataset))
    return answers["snapshot"][-1] if len(answers) else None


def _known_download(platform: Platform, dataset: Dataset, ref: DownloadRef) -> str | None:
    """The recorded snapshot that a DOI or a download key names."""
    known = tables.snapshots(platform.lake, dataset.name).iter_rows(named=True)
    names = ("snapshot", "doi", "download_key")
    return next((row["snapshot"] for row in known if str(ref) in [row[name] for name in names]), None)


def ask_again(platform: Platform, dataset: Dataset, tick: str) -> str:
    """Ask GBIF anew for what the dataset file asks for, without waiting for it; what was done, in a line.

    Args:
        tick: date of the refresh; asking twice for one tick asks once.
    """
    if dataset.source.gbif_search:
        key, new = put(platform, _search_snapshot(dataset, datetime.fromisoformat(tick)))
        return f"snapshot {key} {'added' if new else 'is there already'}"
    request = run_blocking(_request(platform, dataset, tick))
    return f"request {request.key}: {request.reason or request.status}"


def replay_snapshot(
    platform: Platform, dataset: Dataset, reference: str, progress: Progress | None = None
) -> tuple[str, bool]:
    """Request the predicate of an erased download again, and wait for it; its snapshot's key, and whether it is new.

    Raises:
        GbifError: there is no such download, its file still exists, or GBIF refuses.
    """
    return run_blocking(_replayed(platform, dataset, reference, progress))


async def _replayed(
    platform: Platform, dataset: Dataset, reference: str, progress: Progress | None
) -> tuple[str, bool]:
    async with gbif_source.client(platform, dataset, progress) as gbif:
        account = Credentials.from_environment()
        request = await download_requests.replay(gbif, platform.lake, dataset.name, reference, account)
        request = await download_requests.wait(gbif, platform.lake, request, progress)
        metadata = await gbif.download(request.key)
    return put(platform, download_snapshot(dataset, metadata, f"replay of {parse_reference(reference)}"))


async def _request(platform: Platform, dataset: Dataset, tick: str) -> Request:
    async with gbif_source.client(platform, dataset) as gbif:
        return await gbif_source.request_now(platform, dataset, gbif, tick)


def put(platform: Platform, snapshot: Snapshot) -> tuple[str, bool]:
    """Record a snapshot unless it is recorded; its key, and whether it is new."""
    known = tables.snapshots(platform.lake, snapshot.dataset)["snapshot"].to_list()
    if snapshot.key in known:
        return snapshot.key, False
    record(platform, snapshot)
    return snapshot.key, True


def record(platform: Platform, snapshot: Snapshot, **known: object) -> None:
    """Write what is known of a snapshot; columns that GBIF's metadata tell are taken from there."""
    metadata = json.loads(snapshot.metadata)
    erase_after = metadata.get("eraseAfter")
    row = {
        "kind": snapshot.kind,
        "reference": snapshot.reference,
        "doi": snapshot.doi or None,
        "download_key": metadata.get("key"),
        "archive": snapshot.archive,
        "sha256": snapshot.sha256 or None,
        "size": metadata.get("size"),
        "total_records": metadata.get("totalRecords"),
        "license": metadata.get("license"),
        "erase_after": datetime.fromisoformat(erase_after) if erase_after else None,
        "metadata": snapshot.metadata,
        "added_at": snapshot.added_at,
    }
    tables.put_snapshot(
        platform.lake, snapshot.dataset, snapshot.key, row | known, author=f"snapshot add {snapshot.dataset}"
    )


def find_snapshot(platform: Platform, dataset: Dataset, key: str) -> Snapshot:
    """The snapshot of a Dagster partition; one that was added in the web UI alone is recorded now.

    Raises:
        UnknownSnapshot: it is neither recorded nor a DOI, a download key or a search of this dataset.
    """
    known = tables.snapshots(platform.lake, dataset.name)
    rows = known.filter(known["snapshot"] == key).to_dicts()
    if not rows:
        return find_snapshot(platform, dataset, _add_named(platform, dataset, key, known["snapshot"].to_list()))
    row = rows[0]
    return Snapshot(
        dataset=dataset.name,
        key=key,
        kind=row["kind"],
        reference=row["reference"],
        archive=row["archive"],
        sha256=row["sha256"] or "",
        doi=row["doi"] or "",
        metadata=row["metadata"] or "{}",
        added_at=row["added_at"],
    )


def _add_named(platform: Platform, dataset: Dataset, key: str, known: list[str]) -> str:
    """Record a snapshot that exists as a partition only."""
    if dataset.source.gbif_download:
        return add_snapshot(platform, dataset, key)[0]
    if dataset.source.gbif_search and (dated := re.fullmatch(r"search-(\d{4}-\d\d-\d\d)-\w+", key)):
        snapshot = _search_snapshot(dataset, datetime.fromisoformat(dated[1]))
        if snapshot.key == key:
            return put(platform, snapshot)[0]
    raise UnknownSnapshot(
        f"dataset {dataset.name} has no snapshot {key!r}; it has: {', '.join(known) or 'none yet'}",
        f"gbif-platform snapshot add {dataset.name}" + ("" if dataset.source.gbif else " PATH"),
    )
