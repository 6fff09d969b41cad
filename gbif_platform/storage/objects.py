"""The object store: archives, image shards, bundles and reports, in a folder or in S3.

A URL selects it: `file:///…` (or a plain path) on one machine, `s3://bucket/prefix` past it. S3 credentials and the
endpoint come from the usual `AWS_*` variables. Every `put` is atomic: a reader sees the whole object or none.

A server that has answered once and is lost then is waited for: `PATIENCE` for each request. One that has never answered
is probably not where it is sought, and is given up after `FIRST_PATIENCE`.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import LocalStore, S3Store

from gbif_platform.errors import PlatformError, first_line

REQUEST_TIMEOUT = timedelta(minutes=2)
"""For one request: the parts of an upload may share a thin line; downloads go on where they stopped."""
PATIENCE, FIRST_PATIENCE = timedelta(seconds=75), timedelta(seconds=5)
"""How long a refused, cut or failed (5xx) request is tried again: a server may be down for a minute."""
CUT_LISTING, LISTING_TRIES = "list response body", 3
"""A listing that is cut while it is read is the one answer that the library does not try again; tries from one key."""
PART_BYTES, PARTS_AT_ONCE = 8 * 2**20, 4
"""An upload holds this many parts of this size in memory; what is not larger than one goes in one request."""
MOST_PARTS = 10_000
"""That S3 takes of one object; of a very large one the parts are larger."""
MERGED_GAP_BYTES = 2**18
"""Ranges no further apart come in one request: as long as a request takes to be answered, so much comes in passing."""
STAGED = re.compile(r".+#\d+")
"""What a folder's put in work, or one that was killed, is called (of the `object_store` library)."""


class ObjectStoreError(PlatformError):
    """The object store refused or lost a request."""


class Entry(NamedTuple):
    """What a listing tells of an object: key, bytes, when it was written (UTC)."""

    key: str
    size: int
    modified: datetime


class ObjectStore:
    """Named byte objects under one URL.

    Args:
        url: `file:///absolute/folder`, a plain folder path, or `s3://bucket/prefix`.

    The store pickles as its URL, so that it can be handed to worker processes; these must be spawned, not forked.

    Raises:
        ObjectStoreError: another kind of URL, or the folder cannot be made. Every method raises it when the store
            refuses or does not answer; its `cause` is one line.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.folder: Path | None = None
        if parts.scheme == "s3" and parts.netloc:
            self.url = url.rstrip("/")
            self._store: LocalStore | S3Store = _s3_store(parts, FIRST_PATIENCE)
            self._answered = False
        elif parts.scheme in ("", "file"):
            path = Path(url2pathname(parts.path) if parts.scheme else url).absolute()
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ObjectStoreError(
                    f"cannot make the folder {path}: {error.strerror}", "set GBIF_PLATFORM_HOME to a folder of yours"
                ) from error
            self.folder = path
            self.url = path.as_uri()
            self._store = LocalStore(path)
        else:
            raise ObjectStoreError(
                f"object store URL {url!r} is not supported", "use a folder, file:///… or s3://bucket/prefix"
            )

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str]]:
        return ObjectStore, (self.url,)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object whole, replacing what was there; `data` is the bytes, or a local file to upload.

        A file is read as it is sent: at most `PARTS_AT_ONCE` parts are in memory. Where the upload fails its parts are
        given back; those of a killed process stay in the bucket, unseen, until its rule for incomplete uploads ends
        them (AbortIncompleteMultipartUpload).
        """
        try:
            with self._request("write", key, "check free space and access"):
                size = data.stat().st_size if isinstance(data, Path) else len(data)
                part = max(PART_BYTES, -(-size // MOST_PARTS))
                obstore.put(self._store, key, data, chunk_size=part, max_concurrency=PARTS_AT_ONCE)
        except FileNotFoundError as error:  # the bucket, or the file to upload
            raise ObjectStoreError(f"cannot write {key} to {self.url}: {first_line(str(error))}") from error

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError where there is none."""
        with self._request("read", key):
            return bytes(obstore.get(self._store, key).bytes())

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` (at least 1) bytes from `offset`. Raises FileNotFoundError where there is no such object.

        Raises:
            ObjectStoreError: also when the object ends before.
        """
        with self._request("read", key):
            data = bytes(obstore.get_range(self._store, key, start=offset, length=size))
        if len(data) != size:
            raise ObjectStoreError(
                f"{key} in {self.url} ends {size - len(data)} bytes before {offset + size}", "restore the object"
            )
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, size), in their order; ranges that lie close together come in one request.

        Raises FileNotFoundError where there is no such object, ObjectStoreError also when it ends before.
        """
        starts, sizes = [offset for offset, _ in ranges], [size for _, size in ranges]
        if not ranges:
            return []
        with self._request("read", key):
            found = obstore.get_ranges(self._store, key, starts=starts, lengths=sizes, coalesce=MERGED_GAP_BYTES)
            parts = [bytes(part) for part in found]
        if [len(part) for part in parts] != sizes:
            raise ObjectStoreError(f"{key} in {self.url} ends before {max(map(sum, ranges))}", "restore the object")
        return parts

    def copy_to(self, key: str, path: Path) -> None:
        """Copy an object into a local file, in bounded memory; the file is whole or not there.

        Raises FileNotFoundError where there is no such object.
        """
        with self._request("read", key), NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as part:
            for chunk in obstore.get(self._store, key).stream():
                part.write(chunk)
            part.flush()
            with suppress(FileExistsError):  # another process was faster; objects with one key are the same
                path.hardlink_to(part.name)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with self._request("look for", key):
                obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        """Bytes of an object. Raises FileNotFoundError where there is none."""
        with self._request("look for", key):
            return obstore.head(self._store, key)["size"]

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under `prefix`, a folder of keys, in no promised order."""
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The objects under `prefix`, a folder of keys, in no promised order."""
        last, tries = None, 0
        with self._request("list", prefix):
            while tries < LISTING_TRIES:
                try:
                    for batch in obstore.list(self._store, prefix or None, offset=last):
                        for meta in batch:
                            yield Entry(meta["path"], meta["size"], meta["last_modified"])
                            last, tries = meta["path"], 0
                    return
                except GenericError as error:
                    tries += 1
                    if CUT_LISTING not in str(error) or tries == LISTING_TRIES:
                        raise

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with suppress(FileNotFoundError), self._request("delete", key):
            obstore.delete(self._store, key)

    def sweep(self, age: timedelta) -> int:
        """Remove what killed puts left in a folder longer ago than `age`; returns how many files. S3: see `put`."""
        swept = 0
        for path in self.folder.rglob("*#*") if self.folder else ():
            with suppress(FileNotFoundError):  # the put ended just now
                if STAGED.fullmatch(path.name) and path.stat().st_mtime < time.time() - age.total_seconds():
                    path.unlink()
                    swept += 1
        return swept

    def url_of(self, key: str) -> str:
        """The URL by which a person or another program finds the object."""
        return f"{self.url}/{key}"

    def path_of(self, key: str) -> Path | None:
        """The local file that holds the object, where the store is a folder."""
        return self.folder / key if self.folder else None

    @contextmanager
    def _request(self, doing: str, key: str, next_step: str = "") -> Iterator[None]:
        """Make every failure an ObjectStoreError but that of an object that is not there."""
        if _client_process() != os.getpid():  # it would wait for ever
            raise ObjectStoreError(
                f"{self.url} is used in a forked process", "start processes with multiprocessing.get_context('spawn')"
            )
        try:
            yield
            self._trust()
        except FileNotFoundError:
            self._trust()
            raise
        except (BaseError, OSError, ValueError) as error:
            raise ObjectStoreError(
                f"cannot {doing} {key} in {self.url}: {first_line(str(error))}", next_step
            ) from error

    def _trust(self) -> None:
        """Be patient from now on: the server has answered."""
        if self.folder is None and not self._answered:
            self._store, self._answered = _s3_store(urlsplit(self.url), PATIENCE), True


@cache
def _client_process() -> int:
    """The process that made the first request: obstore's threads work for it, and a fork does not inherit them."""
    return os.getpid()


def _s3_store(url: SplitResult, patience: timedelta) -> S3Store:
    """A bucket; an endpoint without TLS is meant when it is named."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        virtual_hosted_style_request=False,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": REQUEST_TIMEOUT},
        retry_config={
            "retry_timeout": patience,
            "max_retries": 1000,  # the time decides
            # A pause is drawn between the first and `base` times the one before: with 2 they would hardly grow.
            "backoff": {
                "init_backoff": timedelta(milliseconds=200),
                "max_backoff": patience / 15,
                "base": 4,
            },
        },
    )
