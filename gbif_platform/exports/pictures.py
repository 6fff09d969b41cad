"""Stored pictures for an export, read ahead and checked."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from typing import Any

import polars as pl

from gbif_platform.exports.contents import Read
from gbif_platform.exports.manifest import ExportError

THREADS = 8
AHEAD = 64
"""Pictures that are read or waiting at one time: bounds the memory."""


def read_ahead(rows: pl.DataFrame, read: Read) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row with the bytes of its picture, in order.

    Args:
        rows: media_id, shard, shard_offset, shard_size, sha256, and what else the caller wants back.

    Raises:
        ExportError: a picture is missing, or its bytes are not those that were stored.
    """
    left = rows.iter_rows(named=True)
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[tuple[dict[str, Any], Future[bytes]]] = deque()
        try:
            while True:
                waiting.extend((row, pool.submit(_checked, row, read)) for row in islice(left, AHEAD - len(waiting)))
                if not waiting:
                    return
                row, data = waiting.popleft()
                yield row, data.result()
        finally:
            for _, data in waiting:
                data.cancel()


def read_in_order(rows: pl.DataFrame, read: Read) -> Read:
    """A `read` for a caller that asks for the rows' pictures one by one in their order: read ahead and checked."""
    ahead = read_ahead(rows, read)

    def next_one(shard: str, offset: int, size: int) -> bytes:
        row, data = next(ahead)
        if (row["shard"], row["shard_offset"], row["shard_size"]) != (shard, offset, size):
            raise ValueError("pictures are asked for in another order than that of the rows")
        return data

    return next_one


def _checked(row: dict[str, Any], read: Read) -> bytes:
    again = "run downloaded_images again: it verifies the stored pictures and fetches bad ones anew"
    try:
        data = read(row["shard"], row["shard_offset"], row["shard_size"])
    except FileNotFoundError as error:
        raise ExportError(f"medium {row['media_id']}: shard {row['shard']} does not exist", again) from error
    if sha256(data).hexdigest() != row["sha256"]:
        raise ExportError(f"medium {row['media_id']}: its picture in shard {row['shard']} is damaged", again)
    return data
