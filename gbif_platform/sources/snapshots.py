"""Snapshots: one immutable state of a dataset's source, and the archive that holds it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.gbif.archive_errors import ArchiveMissing
from gbif_platform.gbif.download import download, parse_reference
from gbif_platform.platform import Platform
from gbif_platform.settings import fingerprint
from gbif_platform.storage import tables


class UnknownSnapshot(PlatformError):
    """The dataset has no such snapshot."""


@dataclass(frozen=True)
class Snapshot:
    """A row of the `snapshots` table, as far as the source needs it.

    Attributes:
        key: the Dagster partition: a DOI, a download key, or file name and digest.
        kind: `archive` or `gbif_download`.
        reference: what a person named: path, DOI or key.
        archive: key of the archive in the object store.
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


def add_snapshot(platform: Platform, dataset: Dataset, reference: str | None = None) -> tuple[str, bool]:
    """Record a snapshot of a dataset; an archive file is copied into the object store, a download is fetched later.

    Args:
        reference: DOI, DOI URL, portal URL, download key, or path of an archive; default = the dataset's source.

    Returns:
        The snapshot's key, and whether it is new.

    Raises:
        ArchiveError, DownloadError: there is no such file, it is no archive, or the reference is none.
        PlatformError: the dataset names no source and none was given.
    """
    reference = reference or dataset.source.archive or _doi(dataset)
    if dataset.source.archive is not None:
        snapshot = _archive_snapshot(platform, dataset, Path(reference).expanduser().absolute())
    else:
        ref = parse_reference(reference)
        snapshot = Snapshot(
            dataset.name, str(ref), "gbif_download", reference, _archive_key(str(ref)), doi=ref.doi or ""
        )
    known = tables.snapshots(platform.lake, dataset.name)
    if snapshot.key in known["snapshot"].to_list():
        return snapshot.key, False
    _record(platform, snapshot)
    return snapshot.key, True


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


def _record(platform: Platform, snapshot: Snapshot, **known: object) -> None:
    row = {
        "kind": snapshot.kind,
        "reference": snapshot.reference,
        "doi": snapshot.doi or None,
        "archive": snapshot.archive,
        "sha256": snapshot.sha256 or None,
        "metadata": snapshot.metadata,
        "added_at": snapshot.added_at,
    }
    tables.put_snapshot(
        platform.lake, snapshot.dataset, snapshot.key, row | known, author=f"snapshot add {snapshot.dataset}"
    )


def find_snapshot(platform: Platform, dataset: Dataset, key: str) -> Snapshot:
    """The snapshot of a Dagster partition; a DOI that was added in the web UI alone is recorded now.

    Raises:
        UnknownSnapshot: it is neither recorded nor a DOI or download key.
    """
    known = tables.snapshots(platform.lake, dataset.name)
    rows = known.filter(known["snapshot"] == key).to_dicts()
    if not rows:
        if dataset.source.archive is not None:
            names = ", ".join(known["snapshot"].to_list()) or "none yet"
            raise UnknownSnapshot(
                f"dataset {dataset.name} has no snapshot {key!r}; it has: {names}",
                f"gbif-platform snapshot add {dataset.name} PATH",
            )
        added, _ = add_snapshot(platform, dataset, key)
        return find_snapshot(platform, dataset, added)
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


def local_archive(
    platform: Platform,
    dataset: Dataset,
    snapshot: Snapshot,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:
    """A local file with the snapshot's archive; a GBIF download is fetched once and kept in the object store."""
    if not platform.objects.exists(snapshot.archive):
        _fetch(platform, dataset, snapshot, progress)
    if path := platform.objects.path_of(snapshot.archive):
        return path
    cached = platform.work_folder("archives") / Path(snapshot.archive).name
    if not cached.exists():
        platform.objects.copy_to(snapshot.archive, cached)
    return cached


def _fetch(
    platform: Platform,
    dataset: Dataset,
    snapshot: Snapshot,
    progress: Callable[[int, int | None, str], None] | None,
) -> None:
    source = dataset.source.gbif_download
    endpoint = (source.endpoint if source else None) or platform.settings.gbif_url
    folder = platform.work_folder("downloads", fingerprint(endpoint, snapshot.key))
    got = download(
        parse_reference(snapshot.key), endpoint, folder, user_agent=platform.settings.user_agent, progress=progress
    )
    platform.objects.put(snapshot.archive, got.path)
    metadata = got.metadata
    platform.objects.put(f"{snapshot.archive}.json", json.dumps(metadata, indent=1).encode())
    _record(
        platform,
        snapshot,
        doi=metadata.get("doi"),
        download_key=metadata.get("key"),
        sha256=digest(got.path),
        size=metadata.get("size"),
        total_records=metadata.get("totalRecords"),
        license=metadata.get("license"),
        metadata=json.dumps(metadata),
    )
    shutil.rmtree(folder, ignore_errors=True)
