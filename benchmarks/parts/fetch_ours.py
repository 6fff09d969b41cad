"""The platform's own fetcher: fetch_ours.py URL_LIST FOLDER. Shards in FOLDER/objects, their rows as Parquet."""

import argparse
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import polars as pl

from gbif_platform.images import renditions
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import Row, fetch_images
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore


def wanted(url_list: Path) -> Iterator[tuple[str, str]]:
    """(url_id, url), a line at a time."""
    with url_list.open() as lines:
        for line in lines:
            yield sha256(line.encode()).hexdigest()[:32], line.strip()


def offer_renditions() -> None:
    """A rule for the loopback host, beside which those of the field's hosts are of no use here."""
    rule = renditions.Rule.model_validate(
        {
            "name": "loopback",
            "host": r"127\.0\.0\.1:\d+",
            "path": r"/(?P<number>\d+)\.\w+(?P<query>\?.*)",
            "url": "{scheme}://{host}/medium/{number}.jpg{query}",
            "sizes": [{"name": "medium", "pixels": 500}],
        }
    )
    renditions.load_rules = lambda: (rule,)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url_list", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-host", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=10)
    parser.add_argument("--renditions", action="store_true")
    given = parser.parse_args()
    if given.renditions:
        offer_renditions()
    rows = given.folder / "rows"
    rows.mkdir()
    started, last = datetime.now(UTC), datetime.now(UTC)

    def commit(batch: list[Row]) -> None:
        nonlocal last
        pl.DataFrame(batch, infer_schema_length=None).write_parquet(rows / f"{len(list(rows.iterdir())):05}.parquet")
        last = max([last, *(row["fetched_at"] for row in batch if row["status"] == "ok")])

    with given.url_list.open() as lines:
        total = sum(1 for _ in lines)
    summary = fetch_images(
        wanted(given.url_list),
        total=total,
        objects=ObjectStore(str(given.folder / "objects")),
        commit=commit,
        # What is asked of every contender: 256 px, quality 95 (img2dataset's default).
        transform=Transform(size=256, resize="keep_ratio", quality=95, renditions=given.renditions),
        options=FetchOptions(
            processes=len(os.sched_getaffinity(0)),
            concurrency=64,
            per_host=given.per_host,
            stall_timeout=given.timeout,
            allow_private=True,
        ),
    )
    result = {"pictures": summary.ok, "fetch_s": summary.seconds, "last_picture_s": (last - started).total_seconds()}
    print(json.dumps(result | {"reasons": summary.reasons}))


if __name__ == "__main__":
    main()
