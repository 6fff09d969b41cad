"""Resolve and fetch one GBIF download: resumed after a break, checked, and never fetched twice.

Calls and status values: https://techdocs.gbif.org/en/openapi/v1/occurrence#/Occurrence%20downloads
"""

import asyncio
import email.utils
import json
import random
import re
import time
import zipfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from filelock import AsyncFileLock

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

GBIF = "https://api.gbif.org"
EXECUTING = ("PREPARING", "RUNNING", "SUSPENDED")

T = TypeVar("T")
Progress = Callable[[int, int | None, str], None]

_KEY = r"\d{7}-\d{15}"
_DOI = r"10\.\d{4,9}/dl\.[a-z0-9._-]*[a-z0-9]"
_ATTEMPTS = 6
_LONGEST_WAIT_S = 120.0
_CHUNK_BYTES = 1024**2
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
# 420 is what GBIF's code answers to too many requests at once, where its documentation says 429.
_TRANSIENT_STATUS = (408, 420, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class DownloadRef:
    """A download by its key, such as 0022697-200613084148143, or by its DOI, such as 10.15468/dl.4gbcs6."""

    key: str | None = None
    doi: str | None = None

    def __str__(self) -> str:
        return self.key or self.doi or ""


@dataclass(frozen=True)
class Download:
    """A download on this machine.

    `path` is the zip, `metadata` what GBIF says of it (kept beside it as JSON), `fetched` whether this call fetched it.
    """

    key: str
    doi: str | None
    path: Path
    metadata: dict[str, Any]
    fetched: bool

    @property
    def total_records(self) -> int | None:
        """Number of occurrences that GBIF announces."""
        return self.metadata.get("totalRecords")


class _Transient(Exception):
    """A trouble that passes; `wait_s` is how long the server asks to wait."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


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


def download(
    reference: str | DownloadRef, endpoint: str, folder: Path, *, user_agent: str, progress: Progress | None = None
) -> Download:
    """As `fetch_download`, for code that is not asynchronous, also where an event loop runs already (Jupyter)."""
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    fetch = fetch_download(ref, endpoint, folder, user_agent=user_agent, progress=progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(fetch)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, fetch).result()


async def fetch_download(
    ref: DownloadRef,
    endpoint: str,
    folder: Path,
    *,
    user_agent: str,
    progress: Progress | None = None,
    first_wait_s: float = 1.0,
) -> Download:
    """The download as `folder/<key>.zip`, with its metadata as `folder/<key>.json`.

    A sound file in the folder is taken as it is, without any request. Otherwise the file grows as `<key>.zip.part`,
    also over several calls, is compared with the announced size, tested, and renamed.

    Args:
        ref: from `parse_reference`.
        endpoint: address of the API, such as https://api.gbif.org.
        folder: made if it is not there.
        user_agent: names the application and a contact, as GBIF asks for.
        progress: called with the bytes that are here, those that are announced (if any are), and "bytes".
        first_wait_s: seconds to wait before the first repetition; doubled each time, unless the server says how long.

    Raises UnknownDownload, DownloadNotReady, DownloadErased, DownloadFailed, DownloadDamaged, DownloadUnreachable,
    DownloadError.
    """
    endpoint = endpoint.rstrip("/")
    _make_folder(folder)
    if present := _present(ref, folder):
        return present
    async with aiohttp.ClientSession(headers={"User-Agent": user_agent}, timeout=_TIMEOUT) as session:
        retries = _Retries(first_wait_s)
        metadata = await retries.run(lambda: _metadata(session, endpoint, ref))
        key = metadata["key"]
        async with AsyncFileLock(folder / f".{key}.lock"):
            if present := _present(DownloadRef(key=key), folder):
                return present
            part = _PartFile(folder / f"{key}.zip.part", _announced_size(metadata))
            url = _file_url(metadata, endpoint)
            for last_try in (False, True):
                await retries.run(lambda: _fetch(session, url, part, progress), part)
                if trouble := await asyncio.to_thread(part.trouble):
                    part.remove()
                    if last_try:
                        raise DownloadDamaged(
                            f"{url} is damaged: {trouble}", "try again later, or tell helpdesk@gbif.org"
                        )
                else:
                    break
            return _finished(part, metadata, folder)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"cannot make the folder {folder}: {error.strerror}", "choose another folder") from error


def _finished(part: "_PartFile", metadata: dict[str, Any], folder: Path) -> Download:
    key = metadata["key"]
    draft = folder / f"{key}.json.part"
    draft.write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    draft.replace(folder / f"{key}.json")
    path = part.path.replace(folder / f"{key}.zip")
    return Download(key, metadata.get("doi"), path, metadata, fetched=True)


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


def _announced_size(metadata: dict[str, Any]) -> int | None:
    size = metadata.get("size")
    return size if isinstance(size, int) and size > 0 else None


async def _metadata(session: aiohttp.ClientSession, endpoint: str, ref: DownloadRef) -> dict[str, Any]:
    url = f"{endpoint}/v1/occurrence/download/{ref}"
    async with session.get(url) as response:
        _check_status(response, UnknownDownload(f"GBIF knows no download {ref} ({url})", "check the DOI or the key"))
        try:
            metadata = await response.json(content_type=None)
        except ValueError as error:
            raise DownloadError(
                f"{url} did not answer with JSON: {error}", "check that the endpoint is GBIF's API"
            ) from error
    key = str(metadata.get("key")) if isinstance(metadata, dict) else ""
    if not re.fullmatch(_KEY, key) or key != (ref.key or key):
        raise DownloadError(f"{url} answered with the download key {key!r}", "check that the endpoint is GBIF's API")
    _check_download_status(ref, str(metadata.get("status")))
    return metadata


def _check_download_status(ref: DownloadRef, status: str) -> None:
    if status in EXECUTING:
        raise DownloadNotReady(f"GBIF is still preparing download {ref} (status {status})", "try again in some minutes")
    if status == "FILE_ERASED":
        raise DownloadErased(
            f"GBIF has deleted the file of download {ref}", "repeat its request at gbif.org, and use the new DOI"
        )
    if status != "SUCCEEDED":
        raise DownloadFailed(f"download {ref} has no file (status {status})", "request a new one at gbif.org")


def _file_url(metadata: dict[str, Any], endpoint: str) -> str:
    """GBIF's own link, unless it leads to another host than the endpoint: a mirror repeats GBIF's links."""
    link = str(metadata.get("downloadLink") or "")
    if urlsplit(link).netloc == urlsplit(endpoint).netloc:
        return link
    return f"{endpoint}/v1/occurrence/download/request/{metadata['key']}.zip"


async def _fetch(session: aiohttp.ClientSession, url: str, part: "_PartFile", progress: Progress | None) -> None:
    """Append what is missing to the part file. Raises _Transient where the transfer broke off."""
    have = part.size()
    if have == part.announced:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    async with session.get(url, headers=headers) as response:
        if response.status == 416:
            part.remove()
            raise _Transient(f"{url} has no more than {have} bytes")
        _check_status(response, DownloadNotReady(f"{url} is not there", "try again in some minutes"))
        if response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.remove()
            have = 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            part.append(chunk)
            have += len(chunk)
            if progress:
                progress(have, part.announced, "bytes")
            if part.announced and have > part.announced:
                return
    if part.announced and have < part.announced:
        raise _Transient(f"{url} ended after {have} of {part.announced} bytes")


def _check_status(response: aiohttp.ClientResponse, not_found: DownloadError) -> None:
    if response.status == 404:
        raise not_found
    if response.status == 410:
        raise DownloadErased(f"{response.url} has been deleted", "repeat its request at gbif.org, and use the new DOI")
    if response.status in _TRANSIENT_STATUS:
        cause = f"{response.url} answered {response.status}"
        raise _Transient(cause, _retry_after_s(response.headers.get("Retry-After")))
    if response.status >= 300:
        raise DownloadError(f"{response.url} answered {response.status} {response.reason}", "check the endpoint")


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


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
            raise DownloadError(f"cannot write {self.path}: {error.strerror}", "free space on the disk") from error

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


class _Retries:
    """Repeats what failed in passing, and gives up after several failures without any progress."""

    def __init__(self, first_wait_s: float) -> None:
        self._first_wait_s = first_wait_s

    async def run(self, action: Callable[[], Awaitable[T]], part: _PartFile | None = None) -> T:
        """The action's result. Raises DownloadUnreachable."""
        failures = 0
        while True:
            size_before = part.size() if part else 0
            try:
                return await action()
            except (_Transient, aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                progressed = part is not None and part.size() > size_before
                failures = 1 if progressed else failures + 1
                if failures >= _ATTEMPTS:
                    raise DownloadUnreachable(
                        f"GBIF cannot be reached: {error or type(error).__name__}",
                        "check the network and the endpoint, and run again: what has come is kept",
                    ) from error
                wait_s = self._first_wait_s * 2 ** (failures - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
                if isinstance(error, _Transient) and error.wait_s is not None:
                    wait_s = error.wait_s
                await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
