"""A ledger with pictures in shards, as a run of the fetcher leaves them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from gbif_platform.images.shards import ShardWriter, read_member
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore

TRANSFORM = "keep_ratio-256-jpeg-92"


def picture(seed: int, kind: str = "JPEG") -> bytes:
    """Noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def store(
    lake: Lake, objects: ObjectStore, pictures: Mapping[str, bytes], transform: str = TRANSFORM, suffix: str = ".jpg"
) -> str:
    """Put pictures into a shard of their own and commit their rows; returns the shard."""
    rows: list[dict[str, Any]] = []
    with ShardWriter(objects, transform) as writer:
        for url_id, data in pictures.items():
            offset, size = writer.add(url_id, data, suffix)
            row = {"url_id": url_id, "transform": transform, "url": f"http://host/{url_id}", "status": "ok"}
            place = {"shard_offset": offset, "shard_size": size, "sha256": sha256(data).hexdigest()}
            rows.append(row | place | {"fetched_at": datetime.now(UTC)})
        shard = writer.close()
    tables.add_images(lake, [row | {"shard": shard} for row in rows], run_id="test")
    return shard


def stored(
    lake: Lake, objects: ObjectStore, transform: str = TRANSFORM, version: int | None = None
) -> dict[str, bytes]:
    """All pictures that the ledger says are stored, read by their places; in an older version of the lake if asked."""
    at = f"AT (VERSION => {version})" if version else ""
    rows = lake.frame(f"SELECT * FROM images {at} WHERE status = 'ok' AND transform = ?", [transform])
    return {
        row["url_id"]: read_member(objects, row["shard"], row["shard_offset"], row["shard_size"])
        for row in rows.iter_rows(named=True)
    }
