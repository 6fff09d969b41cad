"""A shard on its way to the object store, in a thread, while the next one fills."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from threading import Event

from gbif_platform.errors import is_full
from gbif_platform.images.shards import ShardWriter
from gbif_platform.storage.objects import ObjectStoreError

PATIENCE_SECONDS = 120.0
"""How long a store that does not answer is asked again."""
LONGEST_PAUSE_SECONDS = 30.0


class Upload:
    """The shards that are committed together, being stored one after the other.

    Args:
        writers: by the name of the shard's folder.

    Attributes:
        trouble: what the store said when it last refused, while it is asked again; else empty.
    """

    def __init__(self, threads: ThreadPoolExecutor, writers: Mapping[str, ShardWriter]) -> None:
        self.trouble = ""
        self._given_up = Event()
        self._writers = writers
        self._keys = threads.submit(self._store)

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._keys.done()

    def wait(self, timeout: float) -> bool:
        """Wait for its end, at most so many seconds; whether it has come."""
        return not wait_for([self._keys], timeout).not_done

    def keys(self) -> dict[str, str]:
        """Keys of the stored shards, by name; blocks until they are there.

        Raises:
            ShardError, ObjectStoreError: no room, or the store has not answered for `PATIENCE_SECONDS`.
        """
        return self._keys.result()

    def give_up(self) -> None:
        """Ask the store no more, wait for a request that is under way, and throw away what is not stored."""
        self._given_up.set()
        wait_for([self._keys])
        for writer in self._writers.values():
            writer.discard()

    def _store(self) -> dict[str, str]:
        return {name: self._store_one(writer) for name, writer in self._writers.items()}

    def _store_one(self, writer: ShardWriter) -> str:
        started = time.monotonic()
        for pause in _pauses():
            try:
                key = writer.close()
            except ObjectStoreError as error:
                impatient = time.monotonic() - started > PATIENCE_SECONDS
                if impatient or is_full(error.cause) or self._given_up.is_set():
                    raise
                self.trouble = f"waiting for the object store: {error.cause}"
                self._given_up.wait(pause)
            else:
                self.trouble = ""
                return key
        raise AssertionError("pauses never end")


def _pauses() -> Iterator[float]:
    pause = 1.0
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
