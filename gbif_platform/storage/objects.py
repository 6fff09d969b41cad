"""The object store: archives, image shards, bundles and reports, in a folder or in S3.

A URL selects it: `file:///…` (or a plain path) on one machine, `s3://bucket/prefix` past it. S3 credentials and the
endpoint come from the usual `AWS_*` variables. Every `put` is atomic: a reader sees the whole object or none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import SplitResult, urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from gbif_platform.errors import PlatformError, first_line

REQUEST_TIMEOUT = "2m"
"""For one request: twelve parts of an upload may share a thin line; downloads go on where they stopped."""


class ObjectStoreError(PlatformError):
    """The object store refused or lost a request."""


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
            self._store: LocalStore | S3Store = _s3_store(parts)
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
        """Write an object whole, replacing what was there; `data` is the bytes, or a local file to upload."""
        try:
            with self._request("write", key, "check free space and access"):
                obstore.put(self._store, key, data)
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

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under `prefix`, a folder of keys, in no promised order."""
        with self._request("list", prefix):
            for batch in obstore.list(self._store, prefix or None):
                for meta in batch:
                    yield meta["path"]

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        with suppress(FileNotFoundError), self._request("delete", key):
            obstore.delete(self._store, key)

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
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise ObjectStoreError(
                f"cannot {doing} {key} in {self.url}: {first_line(str(error))}", next_step
            ) from error


@cache
def _client_process() -> int:
    """The process that made the first request: obstore's threads work for it, and a fork does not inherit them."""
    return os.getpid()


def _s3_store(url: SplitResult) -> S3Store:
    """A bucket; an endpoint without TLS is meant when it is named."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        virtual_hosted_style_request=False,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": REQUEST_TIMEOUT},
    )
