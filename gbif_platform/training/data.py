"""Pictures out of the shards: samples, random access by (shard, offset, size), and batches in a fixed order.

Order and augmentation are pure functions of the seed, the epoch and the place in it, whatever the number of threads and
processes, so that a run that was killed goes on as if it had not been. Threads decode, not processes: the decoders free
the GIL, and a killed run leaves no orphans.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from gbif_platform.errors import PlatformError
from gbif_platform.training.decode import BrokenPicture, decode_batch
from gbif_platform.training.preprocess import CHANCES, COLOUR, Preprocess
from gbif_platform.training.sampling import Sampler, chances, epoch_order, share

OPEN_SHARDS = 256  # files kept open; shards past these are opened for each read
BATCHES_AHEAD = 3
MOST_THREADS = 16
PICTURES_A_TASK = 8  # what a thread takes at a time: a task for each picture would cost a twentieth of its decode
SAMPLE_SCHEMA = pa.schema(
    {"media_id": pa.string(), "label": pa.string(), "shard": pa.string(), "offset": pa.int64(), "size": pa.int64()}
)
LABEL_SETS = pa.field("labels", pa.list_(pa.string()))


class SampleError(PlatformError):
    """A sample cannot be used: unknown label, missing shard, or bytes that are no picture."""


class Objects(Protocol):
    """What is needed of an object store (`gbif_platform.storage.objects.ObjectStore` is one)."""

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes of object `key` from `offset`."""

    def path_of(self, key: str) -> Path | None:
        """The local file behind `key`, where there is one."""


@dataclass(frozen=True)
class LabelSets:
    """Any number of labels for each sample.

    Attributes:
        start: int64 (N + 1,); the labels of sample i are label[start[i] : start[i + 1]].
        label: int64, indices into the labels.
        classes: how many labels the model knows.
    """

    start: np.ndarray
    label: np.ndarray
    classes: int

    def target(self, indices: np.ndarray) -> np.ndarray:
        """float32 (len(indices), classes): 1 where a sample has the label, else 0."""
        target = np.zeros((len(indices), self.classes), np.float32)
        for row, index in enumerate(indices):
            target[row, self.label[self.start[index] : self.start[index + 1]]] = 1
        return target


@dataclass(frozen=True)
class Samples:
    """Labelled pictures in shards, ordered by media id.

    Attributes:
        media_id: string array, N.
        label: int64 (N,), index into the labels.
        shard: dictionary-encoded string array, N: keys in the object store.
        offset, size: int64 (N,), bytes.
        sets: all labels of each sample, where the table has them.
    """

    media_id: pa.Array
    label: np.ndarray
    shard: pa.DictionaryArray
    offset: np.ndarray
    size: np.ndarray
    sets: LabelSets | None = None

    @classmethod
    def from_table(cls, table: Any, labels: Sequence[str]) -> "Samples":
        """From any Arrow-like table (pyarrow, Polars, DuckDB) with `media_id`, `label`, `shard`, `offset`, `size`.

        A column `labels` (list of string) gives each picture any number of labels, for a model of several; `label`
        then is the one that samplers go by.

        Rows are put in the order of their media ids, so that training does not depend on how a query returned them.

        Raises:
            SampleError: a label is not in `labels`, or a value is missing.
        """
        rows = pa.table(table)
        schema = SAMPLE_SCHEMA.append(LABEL_SETS) if LABEL_SETS.name in rows.column_names else SAMPLE_SCHEMA
        rows = rows.select(schema.names).cast(schema).combine_chunks()
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
            sets=_label_sets(pa.concat_arrays(rows["labels"].chunks), labels) if "labels" in schema.names else None,
        )

    def __len__(self) -> int:
        return len(self.label)

    def shard_of(self, index: int) -> str:
        """The key of the shard that holds sample `index`."""
        return self.shard[index].as_py()

    def counts(self, classes: int) -> np.ndarray:
        """Pictures per label, all labels of each counted: int64 (classes,)."""
        return np.bincount(self.label if self.sets is None else self.sets.label, minlength=classes)

    def digest(self) -> str:
        """SHA-256 over media ids and labels: the same samples give the same digest wherever the pictures lie."""
        digest = hashlib.sha256()
        for media_id, label in zip(self.media_id.to_pylist(), self.label.tolist(), strict=True):
            digest.update(f"{media_id}\t{label}\n".encode())
        if self.sets is not None:
            digest.update(self.sets.start.tobytes() + self.sets.label.tobytes())
        return digest.hexdigest()


def _label_sets(names: pa.ListArray, labels: Sequence[str]) -> LabelSets:
    flat = names.flatten()
    if flat.null_count:
        raise SampleError(f"{flat.null_count} of the samples' labels are empty", "write the splits anew")
    lengths = pc.list_value_length(names).to_numpy(zero_copy_only=False)
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return LabelSets(start, _label_indices(flat, labels), len(labels))


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


@dataclass(frozen=True)
class Batch:
    """Pictures on their way to the device.

    Attributes:
        index: int64 (N,), positions in the samples.
        image: uint8 (N, 3, size, size); in page-locked memory where there is CUDA.
        label: int64 (N,).
        target: float32 (N, C), 1 for each label of a picture, where the samples have several.
    """

    index: torch.Tensor
    image: torch.Tensor
    label: torch.Tensor
    target: torch.Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = True) -> "Batch":
        """The batch on `device` (Lightning calls this); the index stays on the CPU."""
        return Batch(
            self.index,
            self.image.to(device, non_blocking=non_blocking),
            self.label.to(device, non_blocking=non_blocking),
            None if self.target is None else self.target.to(device, non_blocking=non_blocking),
        )


class _Pending(NamedTuple):
    """A batch that threads are filling."""

    indices: np.ndarray
    image: torch.Tensor
    tasks: list[Future[None]]


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
        sampler: how often a label's pictures come in an epoch (needs a seed); see `epoch_order`.
        rank, world_size: which of how many processes this is. All have as many batches. With a seed all have as many
            pictures too: a few come twice in an epoch. In order each picture is in one process, once; the last ranks
            may have one less, and where there are fewer pictures than processes or batch_size is 1, an empty batch.
        colour: share by which augmentation varies the colours.
        decode_device: a CUDA device decodes by nvJPEG, crops and resizes there; None = the CPU.

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
        sampler: Sampler = "natural",
        rank: int = 0,
        world_size: int = 1,
        colour: float = COLOUR,
        decode_device: torch.device | None = None,
    ) -> None:
        self.samples = samples
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.seed = seed
        self.augment = augment and seed is not None
        self.threads = threads or min(os.cpu_count() or 1, MOST_THREADS)
        self.sampling = sampler
        self.rank, self.world_size = rank, world_size
        self.colour = colour
        self.decode_device = decode_device
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for set_epoch
        self.epoch = 0
        self._done = 0  # batches of this epoch that were handed out
        self._reader = ShardReader(objects)

    def __len__(self) -> int:
        most = -(-len(self.samples) // self.world_size)  # pictures of rank 0
        return -(-most // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`, unless it is the one that a loaded state is already in."""
        if epoch != self.epoch:
            self.epoch, self._done = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch and the batches of it that were handed out: the same in all processes."""
        return {"epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a `state_dict` counts."""
        self.epoch, self._done = state["epoch"], state["done"]

    def batches(self) -> list[np.ndarray]:
        """The sample indices of each batch of the present epoch, int64, as this process has them."""
        order = self._order()
        return [order[places] for places in self._places()]

    def __iter__(self) -> Iterator[Batch]:
        if self._done == len(self):
            self._done = 0
        order, epoch = self._order(), self.epoch
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            ahead: deque[_Pending] = deque()
            try:
                for places in self._places()[self._done :]:
                    ahead.append(self._begin(pool, order[places], places, epoch))
                    if len(ahead) > BATCHES_AHEAD:
                        yield self._collect(ahead.popleft())
                while ahead:
                    yield self._collect(ahead.popleft())
            finally:
                for pending in ahead:
                    for task in pending.tasks:
                        task.cancel()

    def close(self) -> None:
        """Close the shards."""
        self._reader.close()

    def _order(self) -> np.ndarray:
        if self.seed is None:
            return np.arange(len(self.samples))
        return epoch_order(self.seed, self.epoch, self.samples.label, self.sampling)

    def _places(self) -> list[np.ndarray]:
        """The places in the order that are in each batch of this process."""
        if not len(self.samples):
            return []
        places = np.arange(len(self.samples))
        return np.array_split(share(places, self.rank, self.world_size, equal=self.seed is not None), len(self))

    def _begin(self, pool: ThreadPoolExecutor, indices: np.ndarray, places: np.ndarray, epoch: int) -> _Pending:
        size = self.preprocess.size
        image = torch.empty(
            (len(indices), 3, size, size),
            dtype=torch.uint8,
            device=self.decode_device,
            pin_memory=self.decode_device is None and torch.cuda.is_available(),
        )
        chance = chances(self.seed, epoch, places, CHANCES) if self.augment and self.seed is not None else None
        tasks = [
            pool.submit(self._load, indices[part], image[part], None if chance is None else chance[part])
            for part in (slice(at, at + PICTURES_A_TASK) for at in range(0, len(indices), PICTURES_A_TASK))
        ]
        return _Pending(indices, image, tasks)

    def _collect(self, pending: _Pending) -> Batch:
        for task in pending.tasks:
            task.result()
        self._done += 1
        target = None if self.samples.sets is None else torch.from_numpy(self.samples.sets.target(pending.indices))
        label = torch.from_numpy(self.samples.label[pending.indices])
        return Batch(torch.from_numpy(pending.indices), pending.image, label, target)

    def _load(self, indices: np.ndarray, images: torch.Tensor, chance: np.ndarray | None) -> None:
        """Fill `images`, uint8 (len(indices), 3, size, size)."""
        if self.decode_device is not None:
            self._load_on_device(indices, images, chance)
            return
        for row, index in enumerate(indices.tolist()):
            try:
                data = self._bytes(index)
                images[row] = self.preprocess.read(data, None if chance is None else chance[row], self.colour)
            except BrokenPicture as error:
                raise self._no_picture(index, error) from error

    def _load_on_device(self, indices: np.ndarray, images: torch.Tensor, chance: np.ndarray | None) -> None:
        try:
            decoded = decode_batch([self._bytes(index) for index in indices.tolist()], images.device)
        except BrokenPicture as error:
            raise self._no_picture(int(indices[error.position]), error) from error
        for row, image in enumerate(decoded):
            if chance is None:
                images[row] = self.preprocess.evaluate(image)
            else:
                images[row] = self.preprocess.augment(image, chance[row], self.colour)

    def _bytes(self, index: int) -> bytes:
        samples = self.samples
        return self._reader.read(samples.shard_of(index), int(samples.offset[index]), int(samples.size[index]))

    def _no_picture(self, index: int, error: BrokenPicture) -> SampleError:
        return SampleError(
            f"medium {self.samples.media_id[index]} in shard {self.samples.shard_of(index)} is no picture: {error}",
            "run downloaded_images again; it verifies the shards",
        )
