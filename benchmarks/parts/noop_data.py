"""Make a home whose pictures are all there: noop_data.py COUNT FOLDER.

Rows of the sample, the media and the ledger are written as the steps write them. The pictures that a run looks at (the
newest shards, the sample grid) are real, the shards of the others are names.
"""

import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
from noop_ours import dataset
from PIL import Image

from gbif_platform.images.shards import ShardWriter
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps.run import Run
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome

SHARD, REAL_SHARDS = 1_000, 4


def picture(seed: int) -> bytes:
    """A small JPEG of blobs."""
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).resize((341, 256)).save(file, "JPEG", quality=92)
    return file.getvalue()


def real_rows(platform: Platform, count: int) -> pl.DataFrame:
    """url_id, shard, shard_offset, shard_size, sha256 of stored pictures."""
    shards = []
    for first in range(0, count, SHARD):
        rows = []
        with ShardWriter(platform.objects, dataset().images.key) as writer:
            for number in range(first, min(first + SHARD, count)):
                data = picture(number)
                offset, size = writer.add(f"{number:032x}", data, ".jpg")
                rows.append((f"{number:032x}", offset, size, sha256(data).hexdigest()))
            shards.append(pl.DataFrame(rows, ["url_id", "shard_offset", "shard_size", "sha256"], orient="row"))
            shards[-1] = shards[-1].with_columns(shard=pl.lit(writer.close()))
    return pl.concat(shards)


def main() -> None:
    count, home = int(sys.argv[1]), Path(sys.argv[2])
    platform = Platform(Settings(home=home))
    run = Run(platform, dataset(), "first", "benchmark")
    numbers = pl.select(number=pl.int_range(count)).with_columns(
        url_id=pl.format("{}", pl.int_range(count).map_elements(lambda n: f"{n:032x}", pl.String)),
        url=pl.format("https://host{}.example/photos/{}/original.jpg", pl.int_range(count) % 50, pl.int_range(count)),
    )
    real = real_rows(platform, min(count, REAL_SHARDS * SHARD))
    now = datetime.now(UTC)
    ledger = numbers.join(real, "url_id", "left").select(
        "url_id",
        "url",
        shard=pl.coalesce("shard", pl.format("images/none/{}.tar", pl.col("number") // SHARD)),
        shard_offset=pl.col("shard_offset").fill_null(0),
        shard_size=pl.col("shard_size").fill_null(30_000),
        sha256=pl.coalesce("sha256", pl.format("{}{}", "url_id", "url_id")),
        transform=pl.lit(dataset().images.key),
        status=pl.lit("ok"),
        source_bytes=pl.lit(300_000),
        fetched_at=pl.when(pl.col("shard").is_not_null()).then(now).otherwise(now - timedelta(days=30)),
    )
    for start in range(0, count, 100 * SHARD):
        tables.add_images(platform.lake, ledger[start : start + 100 * SHARD].to_dicts(), run_id="benchmark")
    media = numbers.select("url_id", "url", media_id="url_id", gbif_id=pl.col("number").cast(pl.String))
    samples = media.select("media_id", "url_id", label=pl.format("species {}", pl.int_range(count) % 10))
    for stage, frames in (("media_urls", {"media_urls": media}), ("balanced_samples", {"balanced_samples": samples})):
        outcome = Outcome(dict(frames), count, count)
        tables.write_stage(platform.lake, run.stage(stage), "first", outcome, run_id="benchmark")


if __name__ == "__main__":
    main()
