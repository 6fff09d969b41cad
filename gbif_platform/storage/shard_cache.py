"""Local copies of the shards that are read from S3, with a limit to their size."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from gbif_platform.errors import is_full
from gbif_platform.storage.objects import ObjectStore, ObjectStoreError

IN_USE_SECONDS = 600.0
"""A copy that was asked for so lately stays: a reader may be about to open it."""
TOUCH_SECONDS = 60.0
LOCKS = ".locks"


class Copy(NamedTuple):
    """A local copy: when it was last asked for, its bytes, where it lies."""

    used: float
    size: int
    path: Path


class ShardCache:
    """An object store as a reader of shards sees it: `path_of` and `get_range`, with copies on this machine.

    Several processes may share the folder. Copies make room for others when nobody has asked for them for
    `IN_USE_SECONDS`, those unused for longest first; where there is none to be given up, the shard is read from afar,
    picture by picture. So a set that is larger than the cache never makes shards come again and again.

    Args:
        objects: where the shards are.
        folder: for the copies.
        max_bytes: of all copies together.
    """

    def __init__(self, objects: ObjectStore, folder: Path, max_bytes: int) -> None:
        self._objects = objects
        self._folder = folder
        self._max_bytes = max_bytes
        self._touched: dict[str, float] = {}
        self._refused: dict[str, float] = {}
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[type["ShardCache"], tuple[ObjectStore, Path, int]]:
        return ShardCache, (self._objects, self._folder, self._max_bytes)

    def path_of(self, key: str) -> Path | None:
        """A local file with the shard, to be opened within `IN_USE_SECONDS`; None where there is no room.

        Raises:
            FileNotFoundError: there is no such shard.
            ObjectStoreError: the store does not answer.
        """
        if path := self._objects.path_of(key):
            return path
        path = self._place(key)
        if self._touch(key, path):
            return path
        if time.monotonic() < self._refused.get(key, 0):
            return None
        with self._lock(path.name):
            return path if self._touch(key, path) or self._copy(key, path) else None

    def _copy(self, key: str, path: Path) -> bool:
        with self._room_for(path, self._objects.size(key)) as room:
            try:
                if room:
                    self._objects.copy_to(key, path)
                    return self._touch(key, path)
            except ObjectStoreError as error:
                if not is_full(error.cause):
                    raise
        self._refused[key] = time.monotonic() + TOUCH_SECONDS
        return False

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, from the store itself."""
        return self._objects.get_range(key, offset, size)

    def forget(self, key: str) -> None:
        """Remove the copy of a shard that is gone."""
        self._place(key).unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        return self._folder / key.replace("/", "+")

    def _touch(self, key: str, path: Path) -> bool:
        """Whether the copy is there; it counts as in use from now on."""
        now = time.monotonic()
        if now - self._touched.get(key, -TOUCH_SECONDS) < TOUCH_SECONDS:
            return True
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        self._touched[key] = now
        return True

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process copies a shard while the others wait; the kernel frees the lock of one that dies."""
        with FileLock(self._folder / LOCKS / name):
            yield

    @contextmanager
    def _room_for(self, path: Path, size: int) -> Iterator[bool]:
        """Give up unused copies until `size` bytes fit, and hold that room; yields whether they do."""
        held = path.with_name(f"{path.name}.coming")
        with self._lock("room"):
            copies = sorted(self._copies())
            total = sum(copy.size for copy in copies) + size
            for copy in copies:
                if total <= self._max_bytes or time.time() - copy.used < IN_USE_SECONDS:
                    break
                copy.path.unlink(missing_ok=True)
                total -= copy.size
            if total <= self._max_bytes:
                with held.open("wb") as sparse:
                    sparse.truncate(size)
        try:
            yield total <= self._max_bytes
        finally:
            held.unlink(missing_ok=True)

    def _copies(self) -> Iterator[Copy]:
        """All copies, the room held for those to come, and what killed processes left of both."""
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.is_file():
                    status = path.stat()
                    yield Copy(status.st_mtime, status.st_size, path)
