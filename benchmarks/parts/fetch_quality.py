"""How good the pictures are: fetch_quality.py ORIGINALS OURS PEER, two folders that fetch.py's sides left behind.

The reference is the original's mean over exact areas in floating point, never compressed. Pictures that EXIF turns are
left out: img2dataset stores them lying.
"""

import json
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

Pixels = npt.NDArray[np.float64]
ORIENTATION_TAG = 0x0112


def ours(folder: Path) -> Iterator[tuple[str, bytes]]:
    """File name of the original and stored bytes, of the platform's shards."""
    for row in pq.read_table(folder / "rows").to_pylist():
        with (folder / "objects" / row["shard"]).open("rb") as shard:
            shard.seek(row["shard_offset"])
            yield Path(urlsplit(row["url"]).path).name, shard.read(row["shard_size"])


def img2dataset(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The same of img2dataset's."""
    for file in (folder / "out").glob("*.tar"):
        with tarfile.open(file) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if name.endswith(".json"):
                yield Path(urlsplit(json.loads(data)["url"]).path).name, members[name.removesuffix("json") + "jpg"]


def area(pixels: Pixels, size: int, axis: int) -> Pixels:
    """Exact mean over equal spans along an axis: differences of the running integral at the spans' borders."""
    length = pixels.shape[axis]
    integral = np.insert(np.cumsum(pixels, axis), 0, 0, axis)
    borders = np.linspace(0, length, size + 1)
    below = np.minimum(borders.astype(int), length - 1)
    part = np.expand_dims(borders - below, [other for other in range(pixels.ndim) if other != axis])
    at = integral.take(below, axis) * (1 - part) + integral.take(below + 1, axis) * part
    return np.diff(at, axis=axis) * size / length


def decibels(pixels: Pixels, reference: Pixels) -> float:
    """Peak signal to noise."""
    return float(10 * np.log10(255**2 / np.mean((pixels - reference) ** 2)))


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"), np.float64)


def similarity(one: Pixels, other: Pixels) -> float:
    first, second = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (one, other))
    return float(structural_similarity_index_measure(first, second, data_range=255.0))  # type: ignore[arg-type]


def main() -> None:
    originals, own, peer = map(Path, sys.argv[1:])
    theirs = dict(img2dataset(peer))
    own_db, peer_db, alike = [], [], []
    for name, data in ours(own):
        original = Image.open(originals / name)
        if original.getexif().get(ORIENTATION_TAG, 1) != 1 or name not in theirs:
            continue
        mine, other = decoded(data), decoded(theirs[name])
        full = np.asarray(original.convert("RGB"), np.float64)
        reference = area(area(full, mine.shape[0], 0), mine.shape[1], 1)
        own_db.append(decibels(mine, reference))
        peer_db.append(decibels(other, reference))
        alike.append(similarity(mine, other))
    print(
        json.dumps(
            {
                "pictures": len(alike),
                "db": round(float(np.mean(own_db)), 2),
                "db_peer": round(float(np.mean(peer_db)), 2),
                "ssim": round(float(np.mean(alike)), 4),
                "ssim_lowest": round(min(alike), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
