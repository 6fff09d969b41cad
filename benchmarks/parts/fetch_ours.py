"""The platform's own fetcher: fetch_ours.py URL_LIST FOLDER. Shards in FOLDER/objects, their rows as Parquet."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import Row, fetch_images
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore

# What is asked of every contender: 256 px, quality 95 (img2dataset's default).
TRANSFORM = Transform(size=256, resize="keep_ratio", quality=95)
# One host that can bear anything, so that manners towards it are not what is measured.
OPTIONS = FetchOptions(concurrency=64, per_host=32, allow_private=True)


def main() -> None:
    urls, folder = Path(sys.argv[1]).read_text().split(), Path(sys.argv[2])
    rows = folder / "rows"
    rows.mkdir()

    def commit(batch: list[Row]) -> None:
        pq.write_table(pa.Table.from_pylist(batch), rows / f"{len(list(rows.iterdir())):05}.parquet")

    summary = fetch_images(
        [(sha256(url.encode()).hexdigest()[:32], url) for url in urls],
        total=len(urls),
        objects=ObjectStore(str(folder / "objects")),
        commit=commit,
        transform=TRANSFORM,
        options=OPTIONS,
    )
    print(json.dumps({"pictures": summary.ok, "fetch_s": summary.seconds}))


if __name__ == "__main__":
    main()
