"""Resolve and fetch one GBIF download: resumed after a break, checked, and never fetched twice.

Calls and status values: https://techdocs.gbif.org/en/openapi/v1/occurrence#/Occurrence%20downloads
"""

import asyncio
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from filelock import AsyncFileLock

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.blocking import run_blocking
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.download_errors import (
    DownloadDamaged,
    DownloadErased,
    DownloadError,
    DownloadFailed,
    DownloadNotReady,
    DownloadUnreachable,
    InvalidReference,
    UnknownDownload,
)
from gbif_platform.gbif.errors import NotFound, Unreachable
from gbif_platform.gbif.retry import TRANSIENT_STATUS, Patience, Progress, Transient
from gbif_platform.retry_after import retry_after

EXECUTING = ("PREPARING", "RUNNING", "SUSPENDED")
ERASED_SOON = timedelta(days=30)
PATIENCE = Patience()


_KEY = r"\d{7}-\d{15}"
_DOI = r"10\.\d{4,9}/dl\.[a-z0-9._-]*[a-z0-9]"
_CHUNK_BYTES = 1024**2
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
_CREDIT_ATTEMPTS = 2
_AGAIN = "check the network and the endpoint, and run again: what has come is kept"


@dataclass(frozen=True)
class DownloadRef:
    """A download by its key, such as 0022697-200613084148143, or by its DOI, such as 10.15468/dl.4gbcs6."""

    key: str | None = None
    doi: str | None = None

    def __str__(self) -> str:
        return self.key or self.doi or ""


@dataclass(frozen=True)
class DownloadCredit:
    """Whom a download credits, as GBIF says.

    Attributes:
        datasets: those that contribute: datasetKey, datasetTitle, datasetDOI, datasetCitation, numberRecords.
        citation: of the download as a whole.
        missing: which of the two GBIF did not give; they are asked for again the next time.
    """

    datasets: list[dict[str, Any]] = field(default_factory=list)
    citation: str = ""
    missing: tuple[str, ...] = ("datasets", "citation")


@dataclass(frozen=True)
class Download:
    """A download on this machine.

    `path` is the zip, `metadata` what GBIF says of it and `credit` whom it credits (both kept beside it as JSON),
    `fetched` whether this call fetched it.
    """

    key: str
    doi: str | None
    path: Path
    metadata: dict[str, Any]
    fetched: bool
    credit: DownloadCredit = DownloadCredit()

    @property
    def total_records(self) -> int | None:
        """Number of occurrences that GBIF announces."""
        return self.metadata.get("totalRecords")

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """The contributing datasets: datasetKey, datasetTitle, datasetDOI, datasetCitation, numberRecords."""
        return self.credit.datasets

    @property
    def citation(self) -> str:
        """How GBIF asks to cite it; "" where GBIF did not say."""
        return self.credit.citation

    @property
    def warnings(self) -> list[str]:
        """What a person should know: a file that GBIF deletes soon, credit that is missing."""
        missing = [f"GBIF did not give the {name} of {self.key}" for name in self.credit.missing]
        soon = erased_soon(self.metadata)
        return [soon, *missing] if soon else missing


def parse_reference(text: str) -> DownloadRef:
    """Read a DOI, a DOI's URL, a download key, or an address at GBIF that ends in one. Raises InvalidReference."""
    wanted = text.strip()
    if match := re.fullmatch(rf"(?:https?://\S*/download/(?:request/)?)?({_KEY})(?:\.zip|/?)(?:[?#]\S*)?", wanted):
        return DownloadRef(key=match[1])
    lead = r"(?:doi:\s*|https?://(?:dx\.|www\.)?doi\.org/|https?://\S*/download/)?"
    if match := re.fullmatch(rf"{lead}({_DOI})/?", wanted.lower()):
        return DownloadRef(doi=match[1])
    hint = "give the DOI of a download (10.15468/dl.…), its key (0022697-200613084148143) or its page at gbif.org"
    if re.search(r"10\.\d{4,9}/", wanted):
        hint = "the DOI of a dataset names no file: filter by it at gbif.org/occurrence, and request a download there"
    raise InvalidReference(f"{text!r} names no GBIF download", hint)


def erased_soon(metadata: Mapping[str, Any], now: datetime | None = None) -> str | None:
    """A warning where GBIF deletes the file within `ERASED_SOON`, or may have done so.

    Args:
        metadata: GBIF's JSON of the download, with `key` and `eraseAfter`.
    """
    try:
        erase = datetime.fromisoformat(str(metadata.get("eraseAfter")))
    except ValueError:
        return None
    erase = erase if erase.tzinfo else erase.replace(tzinfo=UTC)
    left = erase - (now or datetime.now(UTC))
    if left > ERASED_SOON:
        return None
    when = f"in {left.days} days" if left > timedelta(0) else "that is past"
    return f"GBIF deletes the file of download {metadata.get('key')} after {erase:%Y-%m-%d} ({when}); keep the archive"


def check_status(reference: object, status: str) -> None:
    """Raise what a download's status says, unless it is SUCCEEDED.

    Raises:
        DownloadNotReady, DownloadErased, DownloadFailed
    """
    if status in EXECUTING:
        raise DownloadNotReady(
            f"GBIF is still preparing download {reference} (status {status})", "try again in some minutes"
        )
    if status == "FILE_ERASED":
        raise DownloadErased(reference)
    if status != "SUCCEEDED":
        raise DownloadFailed(f"download {reference} has no file (status {status})", "request a new one at gbif.org")


def download(
    reference: str | DownloadRef, endpoint: str, folder: Path, *, user_agent: str, progress: Progress | None = None
) -> Download:
    """As `fetch_download`, for code that is not asynchronous, also where an event loop runs already (Jupyter)."""
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    return run_blocking(fetch_download(ref, endpoint, folder, user_agent=user_agent, progress=progress))


async def fetch_download(
    ref: DownloadRef,
    endpoint: str,
    folder: Path,
    *,
    user_agent: str,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Download:
    """The download as `folder/<key>.zip`, with its metadata as `<key>.json` and whom it credits as `<key>.credit.json`.

    A sound file in the folder is taken as it is, without any request but for credit that is missing. Otherwise the
    file grows as `<key>.zip.part`, also over several calls, is compared with the announced size, tested, and renamed.

    Args:
        ref: from `parse_reference`.
        endpoint: address of the API, such as https://api.gbif.org.
        folder: made if it is not there.
        user_agent: names the application and a contact, as GBIF asks for.
        progress: called with the bytes that are here, those that are announced (if any are), and "bytes" or what is
            waited for.
        patience: how often a call that failed in passing is repeated.

    Raises:
        UnknownDownload, DownloadNotReady, DownloadErased, DownloadFailed, DownloadDamaged, DownloadUnreachable,
        DownloadError, GbifError
    """
    fetcher = _Fetcher(endpoint.rstrip("/"), folder, user_agent, progress, patience or PATIENCE)
    fetcher.make_folder()
    got = _present(ref, folder) or await fetcher.fetch(ref)
    return await fetcher.with_credit(got)


async def ask_credit(gbif: GbifClient, key: str, known: DownloadCredit | None = None) -> DownloadCredit:
    """Whom a download credits; what cannot be had just now is named as missing.

    Args:
        known: what an earlier call got; only the rest is asked for.
    """
    known = known or DownloadCredit()
    datasets, citation, missing = known.datasets, known.citation, []
    if "datasets" in known.missing:
        try:
            datasets = await gbif.download_datasets(key)
        except (PlatformError, KeyError, TypeError):
            missing.append("datasets")
    if "citation" in known.missing:
        try:
            citation = await gbif.download_citation(key)
        except PlatformError:
            missing.append("citation")
    return DownloadCredit(datasets, citation, tuple(missing))


def _announced_size(metadata: Mapping[str, Any]) -> int | None:
    size = metadata.get("size")
    return size if isinstance(size, int) and size > 0 else None


def _present(ref: DownloadRef, folder: Path) -> Download | None:
    """The download where the folder holds it, whole."""
    names = [folder / f"{ref.key}.json"] if ref.key else sorted(folder.glob("*.json"))
    for name in names:
        path = name.with_suffix(".zip")
        if not (name.is_file() and path.is_file()):
            continue
        try:
            metadata = json.loads(name.read_text(encoding="utf-8"))
            wanted = ref.key or (metadata.get("doi") or "").lower() == ref.doi
        except (ValueError, AttributeError):
            continue
        if wanted and _announced_size(metadata) in (None, path.stat().st_size) and zipfile.is_zipfile(path):
            return Download(name.stem, metadata.get("doi"), path, metadata, fetched=False)
    return None


def _known_credit(path: Path) -> DownloadCredit:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return DownloadCredit(list(said["datasets"]), str(said["citation"]), tuple(said["missing"]))
    except (OSError, ValueError, KeyError, TypeError):
        return DownloadCredit()


def _unwritable(path: Path, error: OSError) -> DownloadError:
    return DownloadError(
        f"cannot write {path}: {error.strerror}", "free space on the disk, and run again: what has come is kept"
    )


def _write_json(path: Path, content: object) -> None:
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


@dataclass
class _Fetcher:
    """What one call of `fetch_download` works with."""

    endpoint: str
    folder: Path
    user_agent: str
    progress: Progress | None
    patience: Patience

    def make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DownloadError(
                f"cannot make the folder {self.folder}: {error.strerror}", "choose another folder"
            ) from error

    def client(self, patience: Patience) -> GbifClient:
        return GbifClient(self.endpoint, user_agent=self.user_agent, patience=patience)

    def telling(self, part: "_PartFile | None" = None) -> Patience:
        """The patience, with its waits told as progress."""
        progress = self.progress
        if progress is None:
            return self.patience

        def notice(says: str) -> None:
            progress(part.size() if part else 0, part.announced if part else None, says)

        return replace(self.patience, notice=notice)

    async def fetch(self, ref: DownloadRef) -> Download:
        metadata = await self.metadata(ref)
        key = metadata["key"]
        async with AsyncFileLock(self.folder / f".{key}.lock"):
            if present := _present(DownloadRef(key=key), self.folder):
                return present
            part = _PartFile(self.folder / f"{key}.zip.part", _announced_size(metadata))
            await self.fill(part, _file_url(metadata, self.endpoint), ref)
            _write_json(self.folder / f"{key}.json", metadata)
            path = part.path.replace(self.folder / f"{key}.zip")
        return Download(key, metadata.get("doi"), path, metadata, fetched=True)

    async def metadata(self, ref: DownloadRef) -> dict[str, Any]:
        """What GBIF says of a finished download."""
        url = f"{self.endpoint}/v1/occurrence/download/{ref}"
        try:
            async with self.client(self.telling()) as gbif:
                metadata = await gbif.download(str(ref))
        except NotFound as error:
            raise UnknownDownload(f"GBIF knows no download {ref} ({url})", "check the DOI or the key") from error
        except Unreachable as error:
            raise DownloadUnreachable(error.cause, _AGAIN) from error
        key = str(metadata.get("key")) if isinstance(metadata, dict) else ""
        if not re.fullmatch(_KEY, key) or key != (ref.key or key):
            raise DownloadError(
                f"{url} answered with the download key {key!r}", "check that the endpoint is GBIF's API"
            )
        check_status(ref, str(metadata.get("status")))
        return metadata

    async def fill(self, part: "_PartFile", url: str, ref: DownloadRef) -> None:
        """Fetch the rest of a file and test it; a damaged one is fetched once more."""
        patience = self.telling(part)
        async with aiohttp.ClientSession(headers={"User-Agent": self.user_agent}, timeout=_TIMEOUT) as session:
            for last_try in (False, True):
                await patience.run(lambda: _fetch(session, url, ref, part, self.progress), _unreachable, part.size)
                trouble = await asyncio.to_thread(part.trouble)
                if trouble is None:
                    return
                part.remove()
                if last_try:
                    raise DownloadDamaged(f"{url} is damaged: {trouble}", "try again later, or tell helpdesk@gbif.org")

    async def with_credit(self, got: Download) -> Download:
        """The download with its datasets and its citation; the file is worth having without them."""
        path = self.folder / f"{got.key}.credit.json"
        credit = _known_credit(path)
        if credit.missing:
            async with self.client(replace(self.patience, attempts=_CREDIT_ATTEMPTS)) as gbif:
                credit = await ask_credit(gbif, got.key, credit)
            said = {"datasets": credit.datasets, "citation": credit.citation, "missing": credit.missing}
            _write_json(path, said)
        return replace(got, credit=credit)


def _unreachable(cause: str) -> DownloadUnreachable:
    return DownloadUnreachable(f"GBIF cannot be reached: {cause}", _AGAIN)


def _file_url(metadata: Mapping[str, Any], endpoint: str) -> str:
    """GBIF's own link, unless it leads to another host than the endpoint: a mirror repeats GBIF's links."""
    link = str(metadata.get("downloadLink") or "")
    if urlsplit(link).netloc == urlsplit(endpoint).netloc:
        return link
    return f"{endpoint}/v1/occurrence/download/request/{metadata['key']}.zip"


async def _fetch(
    session: aiohttp.ClientSession, url: str, ref: DownloadRef, part: "_PartFile", progress: Progress | None
) -> None:
    """Append what is missing to the part file. Raises Transient where the transfer broke off."""
    have = part.size()
    if have == part.announced:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    async with session.get(url, headers=headers) as response:
        if response.status == 416:
            part.remove()
            raise Transient(f"{url} has no more than {have} bytes")
        _check_response(response, ref)
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if resumed else 0
        fresh = not resumed
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            if fresh:
                _check_start(response, chunk)
                part.remove()
                fresh = False
            part.append(chunk)
            have += len(chunk)
            if progress:
                progress(have, part.announced, "bytes")
            if part.announced and have > part.announced:
                return
    if part.announced and have < part.announced:
        raise Transient(f"{url} ended after {have} of {part.announced} bytes")


def _check_start(response: aiohttp.ClientResponse, chunk: bytes) -> None:
    """Refuse what is no zip before it replaces what has come: a portal's log-in page has status 200 too."""
    if len(chunk) >= len(_ZIP_STARTS[0]) and not chunk.startswith(_ZIP_STARTS):
        raise DownloadDamaged(
            f"{response.url} answered with {response.content_type}, not with a zip",
            "check that no proxy or log-in page stands between, and run again: what has come is kept",
        )


def _check_response(response: aiohttp.ClientResponse, ref: DownloadRef) -> None:
    if response.status == 404:
        raise DownloadNotReady(f"{response.url} is not there", "try again in some minutes")
    if response.status == 410:
        raise DownloadErased(ref)
    if response.status in TRANSIENT_STATUS:
        cause = f"{response.url} answered {response.status}"
        raise Transient(cause, retry_after(response.headers.get("Retry-After")))
    if response.status >= 300:
        raise DownloadError(f"{response.url} answered {response.status} {response.reason}", "check the endpoint")


class _PartFile:
    """The growing file, and how many bytes of it are announced."""

    def __init__(self, path: Path, announced: int | None) -> None:
        self.path = path
        self.announced = announced

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def append(self, chunk: bytes) -> None:
        try:
            with self.path.open("ab") as stream:
                stream.write(chunk)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def trouble(self) -> str | None:
        """What is wrong with the finished file; every member is unpacked once, into nothing."""
        if self.announced and self.size() != self.announced:
            return f"{self.size()} bytes instead of {self.announced}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            return str(error)
        return f"{bad} does not have its checksum" if bad else None
