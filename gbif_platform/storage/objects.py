"""The object store: archives, image shards, bundles and reports, in a folder or in S3.

A URL selects it: `file:///…` (or a plain path) on one machine, `s3://bucket/prefix` past it. S3 credentials and the
endpoint come from the usual `AWS_*` variables. Every `put` is atomic: a reader sees the whole object or none.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from gbif_platform.errors import PlatformError


class ObjectStoreError(PlatformError):
    """The object store refused or lost a request."""


class ObjectStore:
    """Named byte objects under one URL.

    Args:
        url: `file:///absolute/folder`, a plain folder path, or `s3://bucket/prefix`.

    The store pickles as its URL, so that it can be handed to worker processes.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.folder: Path | None = None
        if parts.scheme == "s3":
            self.url = url.rstrip("/")
            self._store: LocalStore | S3Store = S3Store(
                parts.netloc, prefix=parts.path.strip("/") or None, virtual_hosted_style_request=False
            )
        elif parts.scheme in ("", "file"):
            path = Path(url2pathname(parts.path) if parts.scheme else url).absolute()
            path.mkdir(parents=True, exist_ok=True)
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
            obstore.put(self._store, key, data)
        except (BaseError, OSError) as error:
            raise ObjectStoreError(
                f"cannot write {key} to {self.url}: {error}", "check free space and access"
            ) from error

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError where there is none."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise ObjectStoreError(f"cannot read {key} from {self.url}: {error}") from error

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. Raises FileNotFoundError where there is no such object."""
        try:
            return bytes(obstore.get_range(self._store, key, start=offset, length=size))
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise ObjectStoreError(f"cannot read {key} from {self.url}: {error}") from error

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            obstore.head(self._store, key)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys under `prefix`, in no promised order."""
        for batch in obstore.list(self._store, prefix or None):
            for meta in batch:
                yield meta["path"]

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        obstore.delete(self._store, key)

    def url_of(self, key: str) -> str:
        """The URL by which a person or another program finds the object."""
        return f"{self.url}/{key}"

    def path_of(self, key: str) -> Path | None:
        """The local file that holds the object, where the store is a folder."""
        return self.folder / key if self.folder else None
