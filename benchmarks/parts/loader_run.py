"""One loader over the pictures of loader_data.py: loader_run.py ours|imagefolder|webdataset FOLDER PICTURES.

Random crop of 35 to 100 % of the area to 224 px, bilinear, mirror, no colours; normalised float batches of 32 for a
model on the CPU. Two workers (processes of the peers, threads of ours). An epoch is read before the clock starts. The
last line gives pictures a second and CPU seconds of all processes for 1000 pictures.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

SIZE, BATCH, WORKERS = 224, 32, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Folder:
    """The shards as the platform's loader reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, key: str) -> Path:
        """The file of a shard."""
        return self.folder / "shards" / key

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """Not needed: all shards are files."""
        raise NotImplementedError


def index_table(folder: Path) -> pa.Table:
    """What the platform's index says of the pictures."""
    index = np.load(folder / "index.npz")["index"]
    return pa.table(
        {
            "media_id": [f"{number:06}" for number in range(len(index))],
            "label": [str(label) for label in index[:, 0]],
            "shard": [f"{shard:03}.tar" for shard in index[:, 1]],
            "offset": index[:, 2],
            "size": index[:, 3],
        }
    )


def ours(folder: Path) -> Iterable[torch.Tensor]:
    """The platform's loader."""
    from gbif_platform.training.data import BatchLoader, Samples
    from gbif_platform.training.preprocess import Preprocess

    table = index_table(folder)
    samples = Samples.from_table(table, sorted(set(table["label"].to_pylist())))
    preprocess = Preprocess(SIZE, MEAN, STD, "bilinear")
    loader = BatchLoader(samples, Folder(folder), preprocess, BATCH, seed=1, augment=True, colour=0.0, threads=WORKERS)

    class Epoch:
        def __iter__(self) -> Iterator[torch.Tensor]:
            loader.set_epoch(loader.epoch + 1)
            for batch in loader:
                yield preprocess.normalise(batch.image)

    return Epoch()


def imagefolder(folder: Path) -> Iterable[torch.Tensor]:
    """torchvision's ImageFolder with its usual transforms in a DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder / "folder"), transform())
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    return _First(loader)


def webdataset(folder: Path) -> Iterable[torch.Tensor]:
    """webdataset over the same tars, decoded by PIL, with the same transforms."""
    import webdataset as wds  # type: ignore[import-untyped]

    shards = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(200)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform(), int)
        .batched(BATCH)
    )
    return _First(wds.WebLoader(dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True))


def transform() -> object:
    """What examples of torchvision do, with the platform's least crop."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, scale=(0.35, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


class _First:
    def __init__(self, batches: Iterable[tuple[torch.Tensor, object]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (batch[0] for batch in self.batches)


def cpu_seconds() -> float:
    """User and system seconds of this process and of its living children."""
    import psutil

    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def main() -> None:
    loader = {"ours": ours, "imagefolder": imagefolder, "webdataset": webdataset}[sys.argv[1]](Path(sys.argv[2]))
    wanted = int(sys.argv[3])
    for batch in loader:
        assert batch.dtype == torch.float32, batch.dtype
        assert batch.shape[1:] == (3, SIZE, SIZE), batch.shape
    pictures, cpu, start = 0, cpu_seconds(), time.monotonic()
    while pictures < wanted:
        for batch in loader:
            pictures += len(batch)
    seconds, cpu = time.monotonic() - start, cpu_seconds() - cpu
    print(json.dumps({"per_second": pictures / seconds, "cpu_s_per_1000": 1000 * cpu / pictures}))


if __name__ == "__main__":
    main()
