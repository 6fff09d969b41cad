"""Pictures out of the shards: samples, random access by (shard, offset, size), and batches in a fixed order.

Order and augmentation are pure functions of (seed, epoch, index), so that a run that was killed goes on as if it had
not been. Threads decode, not processes: the decoder frees the GIL, and a killed run leaves no orphans.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from gbif_platform.errors import PlatformError
from gbif_platform.training.decode import decode_rgb
from gbif_platform.training.preprocess import Preprocess

OPEN_SHARDS = 256  # files kept open; shards past these are opened for each read
BATCHES_AHEAD = 3
MOST_THREADS = 16
SAMPLE_SCHEMA = pa.schema(
    {"media_id": pa.string(), "label": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
)


class SampleError(PlatformError):
    """A sample cannot be used: unknown label, missing shard, or bytes that are no picture."""


class Objects(Protocol):
    """What is needed of an object store (`gbif_platform.storage.objects.ObjectStore` is one)."""

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes of object `key` from `offset`."""

    def path_of(self, key: str) -> Path | None:
        """The local file behind `key`, where there is one."""


@dataclass(frozen=True)
class Samples:
    """Labelled pictures in shards, ordered by media id.

    Attributes:
        media_id: string array, N.
        label: int64 (N,), index into the labels.
        shard: dictionary-encoded string array, N: keys in the object store.
        offset, size: int64 (N,), bytes.
    """

    media_id: pa.Array
    label: np.ndarray
    shard: pa.DictionaryArray
    offset: np.ndarray
    size: np.ndarray

    @classmethod
    def from_table(cls, table: Any, labels: Sequence[str]) -> "Samples":
        """From any Arrow-like table (pyarrow, Polars, DuckDB) with `media_id`, `label`, `shard`, `offset`, `size`.

        Rows are put in the order of their media ids, so that training does not depend on how a query returned them.

        Raises:
            SampleError: a label is not in `labels`, or a value is missing.
        """
        rows = pa.table(table).select(SAMPLE_SCHEMA.names).cast(SAMPLE_SCHEMA).combine_chunks()
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            if column.null_count:
                raise SampleError(f"{column.null_count} samples have no {name}", "write the splits anew")
        rows = rows.sort_by("media_id")
        return cls(
            media_id=pa.concat_arrays(rows["media_id"].chunks),
            label=_label_indices(pa.concat_arrays(rows["label"].chunks), labels),
            shard=pa.concat_arrays(rows["shard"].chunks).dictionary_encode(),
            offset=rows["offset"].to_numpy(),
            size=rows["size"].to_numpy(),
        )

    def __len__(self) -> int:
        return len(self.label)

    def shard_of(self, index: int) -> str:
        """The key of the shard that holds sample `index`."""
        return self.shard[index].as_py()

    def counts(self, classes: int) -> np.ndarray:
        """Pictures per label: int64 (classes,)."""
        return np.bincount(self.label, minlength=classes)

    def digest(self) -> str:
        """SHA-256 over media ids and labels: the same samples give the same digest wherever the pictures lie."""
        digest = hashlib.sha256()
        for media_id, label in zip(self.media_id.to_pylist(), self.label.tolist(), strict=True):
            digest.update(f"{media_id}\t{label}\n".encode())
        return digest.hexdigest()


def _label_indices(names: pa.Array, labels: Sequence[str]) -> np.ndarray:
    index = {label: position for position, label in enumerate(labels)}
    encoded = names.dictionary_encode()
    known = encoded.dictionary.to_pylist()
    unknown = sorted(set(known) - set(index))
    if unknown:
        raise SampleError(
            f"{len(unknown)} labels are not among the model's {len(labels)}: {', '.join(unknown[:5])}",
            "pass every label of the dataset, also those without training pictures",
        )
    mapping = np.array([index[name] for name in known], dtype=np.int64)
    return mapping[encoded.indices.to_numpy()] if len(names) else np.zeros(0, dtype=np.int64)


class ShardReader:
    """Bytes of samples: `pread` on shards that are local files, range requests else. Safe to share among threads."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._open: dict[str, int] = {}
        self._lock = Lock()

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises SampleError where the shard is missing or shorter."""
        path = self._objects.path_of(key)
        try:
            data = self._objects.get_range(key, offset, size) if path is None else self._pread(path, offset, size)
        except FileNotFoundError as error:
            raise SampleError(f"shard {key} does not exist", "run downloaded_images again") from error
        if len(data) != size:
            raise SampleError(
                f"shard {key} ends before byte {offset + size}: it is torn", "run downloaded_images again"
            )
        return data

    def _pread(self, path: Path, offset: int, size: int) -> bytes:
        name = str(path)
        with self._lock:
            descriptor = self._open.get(name)
            if descriptor is None and len(self._open) < OPEN_SHARDS:
                descriptor = self._open[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor is not None:
            return os.pread(descriptor, size, offset)
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def close(self) -> None:
        """Close the files. No thread may be reading."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The shuffled indices 0..count-1 of one epoch: int64, the same for the same arguments."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def sample_random(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of all chance in augmenting sample `index` in `epoch`."""
    return np.random.default_rng([seed, epoch, index])


@dataclass(frozen=True)
class Batch:
    """Pictures on their way to the device.

    Attributes:
        index: int64 (N,), positions in the samples.
        image: uint8 (N, 3, size, size).
        label: int64 (N,).
    """

    index: torch.Tensor
    image: torch.Tensor
    label: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = True) -> "Batch":
        """The batch on `device` (Lightning calls this); the index stays on the CPU."""
        return Batch(
            self.index,
            self.image.to(device, non_blocking=non_blocking),
            self.label.to(device, non_blocking=non_blocking),
        )


class BatchLoader:
    """Batches of decoded pictures, read ahead by threads.

    Args:
        samples: what to read.
        objects: where the shards are.
        preprocess: makes the model's input.
        batch_size: pictures a batch at most; an epoch is cut into batches of near-equal size, so none is left over.
        seed: of the order and the augmentation; None = in order.
        augment: random crops and colours (needs a seed) instead of the evaluation crop.
        threads: None = one per core, at most 16.

    Lightning calls `set_epoch` and keeps `state_dict` in its checkpoints: a run resumed within an epoch sees exactly
    the batches that it has not seen yet.
    """

    def __init__(
        self,
        samples: Samples,
        objects: Objects,
        preprocess: Preprocess,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: bool = False,
        threads: int | None = None,
    ) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment and seed is not None
        self.threads = threads or min(os.cpu_count() or 1, MOST_THREADS)
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        self.epoch = 0
        self._done = 0  # batches of this epoch that were handed out
        self._reader = ShardReader(objects)

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, unless it is the one that a loaded state is already in."""
        if epoch != self.epoch:
            self.epoch, self._done = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch and the batches of it that were handed out."""
        return {"epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a `state_dict` counts."""
        self.epoch, self._done = state["epoch"], state["done"]

    def batches(self) -> list[np.ndarray]:
        """The sample indices of each batch of the present epoch."""
        if not len(self.samples):
            return []
        count = len(self.samples)
        order = np.arange(count) if self.seed is None else epoch_order(self.seed, self.epoch, count)
        return np.array_split(order, len(self))

    def __iter__(self) -> Iterator[Batch]:
        if self._done == len(self):
            self._done = 0
        batches = self.batches()[self._done :]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            ahead: deque[tuple[np.ndarray, list[Future[torch.Tensor]]]] = deque()
            try:
                for indices in batches:
                    ahead.append((indices, [pool.submit(self._load, int(index), self.epoch) for index in indices]))
                    if len(ahead) > BATCHES_AHEAD:
                        yield self._collect(*ahead.popleft())
                while ahead:
                    yield self._collect(*ahead.popleft())
            finally:
                for _, pending in ahead:
                    for future in pending:
                        future.cancel()

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def _collect(self, indices: np.ndarray, pending: list[Future[torch.Tensor]]) -> Batch:
        images = torch.stack([future.result() for future in pending])
        self._done += 1
        return Batch(torch.from_numpy(indices.copy()), images, torch.from_numpy(self.samples.label[indices]))

    def _load(self, index: int, epoch: int) -> torch.Tensor:
        samples = self.samples
        data = self._reader.read(samples.shard_of(index), int(samples.offset[index]), int(samples.size[index]))
        try:
            image = decode_rgb(data)
        except ValueError as error:
            raise SampleError(
                f"medium {samples.media_id[index]} in shard {samples.shard_of(index)} is no picture: {error}",
                "run downloaded_images again; it verifies the shards",
            ) from error
        if self.augment and self.seed is not None:
            return self.preprocess.augment(image, sample_random(self.seed, epoch, index))
        return self.preprocess.evaluate(image)
