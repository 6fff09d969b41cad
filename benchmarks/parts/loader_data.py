"""Draw pictures for the loaders: loader_data.py SIZE DISTINCT COPIES FOLDER.

Photo-like as those of fetch_data.py, landscape or portrait, JPEG quality 92: SIZE 256 = 341 x 256 as the platform
stores them, 1024 = 1024 x 768. `folder/<label>/` is an ImageFolder of COPIES of each, `shards/*.tar` hold the same with
their labels as WebDataset reads them, and index.npz says where each lies in them.
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from fetch_data import SEED, picture, texture
from PIL import Image

LABELS = 10
SHARDS = 8
QUALITY = 92
SIDES = {"256": (341, 256), "1024": (1024, 768)}


def main() -> None:
    longer, shorter = SIDES[sys.argv[1]]
    distinct, copies, folder = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    textures = [texture(np.random.default_rng([SEED, number])) for number in range(2)]
    drawn = []
    for number in range(distinct):
        image = picture(np.random.default_rng([SEED, 100 + number]), textures, (1600, 1200))
        sides = (longer, shorter) if image.width > image.height else (shorter, longer)
        encoded = io.BytesIO()
        image.resize(sides, Image.Resampling.LANCZOS).save(encoded, "JPEG", quality=QUALITY)
        drawn.append(encoded.getvalue())
    store(drawn, copies, folder)


def store(drawn: list[bytes], copies: int, folder: Path) -> None:
    """As a folder and as shards."""
    (folder / "shards").mkdir(parents=True)
    for label in range(LABELS):
        (folder / "folder" / str(label)).mkdir(parents=True)
    index: list[tuple[int, int, int, int]] = []
    for shard in range(SHARDS):
        with tarfile.open(folder / "shards" / f"{shard:03}.tar", "w") as tar:
            for number in range(shard, len(drawn) * copies, SHARDS):
                data, label = drawn[number % len(drawn)], number % LABELS
                (folder / "folder" / str(label) / f"{number:06}.jpg").write_bytes(data)
                offset = add(tar, f"{number:06}.jpg", data)
                add(tar, f"{number:06}.cls", str(label).encode())
                index.append((label, shard, offset, len(data)))
    np.savez(folder / "index.npz", index=np.array(index, np.int64))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; where its bytes begin."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(info, io.BytesIO(data))
    return offset


if __name__ == "__main__":
    main()
