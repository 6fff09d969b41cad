"""A model's raw answers: a .npy file of float16 logits, read block by block from a folder or an object store."""

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from gbif_platform.errors import PlatformError

BLOCK_BYTES = 4 * 2**20
_HEADER_BYTES = 4096


class AnswersError(PlatformError):
    """The file of answers cannot be used."""


class Store(Protocol):
    """What is needed of an object store, see `storage.objects.ObjectStore`."""

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`."""

    def size(self, key: str) -> int:
        """Bytes of an object."""


@dataclass(frozen=True)
class _File:
    path: Path

    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass(frozen=True)
class _Object:
    store: Store
    key: str

    def size(self) -> int:
        return self.store.size(self.key)

    def read(self, offset: int, size: int) -> bytes:
        return self.store.get_range(self.key, offset, size)


@dataclass(frozen=True)
class _Memory:
    data: np.ndarray

    def size(self) -> int:
        return self.data.nbytes

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size].tobytes()


@dataclass(frozen=True)
class Answers:
    """N rows of C float16 numbers (logits or embeddings), as `training.predict` writes them; nothing is read ahead.

    Attributes:
        name: of the file, for messages.
        classes: C.
        rows: int64 (n,), the rows of the file that count, in this order; None = all N.
        total: N.
    """

    name: str
    classes: int
    total: int
    source: _File | _Object | _Memory
    offset: int
    rows: np.ndarray | None = None

    @classmethod
    def open(cls, path: Path) -> "Answers":
        """A local file.

        Raises:
            AnswersError: there is none, or it is no whole float16 (N, C) .npy file in C order.
        """
        try:
            return cls._of(_File(path), str(path))
        except OSError as error:
            raise AnswersError(f"{path} cannot be read: {error.strerror}", "evaluate the model again") from error

    @classmethod
    def of_object(cls, store: Store, key: str) -> "Answers":
        """An object, read by ranges. Raises AnswersError as `open` does."""
        try:
            return cls._of(_Object(store, key), key)
        except FileNotFoundError as error:
            raise AnswersError(f"there is no object {key}", "evaluate the model again") from error

    @classmethod
    def of_array(cls, array: np.ndarray, name: str = "answers") -> "Answers":
        """Numbers (N, C) in memory; they are rounded to float16."""
        kept = np.ascontiguousarray(array, dtype="<f2")
        return cls(name, kept.shape[1], kept.shape[0], _Memory(kept.reshape(-1).view(np.uint8)), 0)

    @classmethod
    def _of(cls, source: _File | _Object, name: str) -> "Answers":
        size = source.size()
        head = io.BytesIO(source.read(0, min(size, _HEADER_BYTES)))
        try:
            version = np.lib.format.read_magic(head)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(head)
        except ValueError as error:
            raise AnswersError(f"{name} is no .npy file: {error}", "evaluate the model again") from error
        if len(shape) != 2 or fortran or dtype != np.dtype("<f2") or shape[1] < 1:
            raise AnswersError(f"{name} holds {dtype} {shape}, not float16 (N, C) in C order", "evaluate again")
        if size != head.tell() + 2 * shape[0] * shape[1]:
            raise AnswersError(f"{name} has {size} bytes, which is not what {shape} needs", "evaluate the model again")
        return cls(name, shape[1], shape[0], source, head.tell())

    def __len__(self) -> int:
        return self.total if self.rows is None else len(self.rows)

    def select(self, rows: np.ndarray) -> "Answers":
        """These rows alone: positions among the present ones, in any order, or a bool mask.

        Raises:
            AnswersError: a row that there is not.
        """
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise AnswersError(f"{self.name} has {len(self)} rows, not {chosen.max() + 1}", "evaluate the model again")
        return replace(self, rows=chosen if self.rows is None else self.rows[chosen])

    def spans(self) -> Iterator[tuple[int, int]]:
        """Start and end of the blocks of about 4 MB that hold a row."""
        step = max(1, BLOCK_BYTES // (2 * self.classes))
        starts = range(0, self.total, step)
        if self.rows is not None:
            starts = (np.unique(self.rows // step) * step).tolist()
        for start in starts:
            yield start, min(start + step, self.total)

    def read(self, start: int, end: int) -> np.ndarray:
        """float16 (end − start, C): rows of the file, whichever are selected. Threads may read at once."""
        data = self.source.read(self.offset + 2 * self.classes * start, 2 * self.classes * (end - start))
        block = np.frombuffer(data, "<f2")
        if sys.byteorder == "big":
            block = block.astype(np.float16)
        if block.size != (end - start) * self.classes:
            raise AnswersError(f"{self.name} ended while it was read", "evaluate the model again")
        return block.reshape(end - start, self.classes)

    def block(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The selected rows of one span: their places in the selection, int64 (b,), and float16 (b, C)."""
        if self.rows is None:
            return np.arange(start, end), self.read(start, end)
        places = np.flatnonzero((self.rows >= start) & (self.rows < end))
        return places, self.read(start, end)[self.rows[places] - start]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`block` of every span."""
        for start, end in self.spans():
            yield self.block(start, end)

    def array(self) -> np.ndarray:
        """All selected rows in memory: float16 (n, C)."""
        whole = np.empty((len(self), self.classes), np.float16)
        for places, block in self.blocks():
            whole[places] = block
        return whole
