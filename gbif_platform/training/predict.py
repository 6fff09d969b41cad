"""A model's answers as data: every logit and every embedding, from which all metrics are computed afterwards."""

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from gbif_platform.errors import PlatformError
from gbif_platform.training.bundle import Bundle
from gbif_platform.training.data import BatchLoader, Objects, Samples
from gbif_platform.training.files import write_text_atomically

LOGITS, EMBEDDINGS, STATE = "logits.npy", "embeddings.npy", "answers.json"
LARGEST = 60000.0  # float16 ends at 65504
SAFE_SECONDS = 20.0  # a killed prediction loses at most so much


class PredictionError(PlatformError):
    """A model cannot answer, or with what is no number."""


@dataclass(frozen=True)
class Predicted:
    """Where answers lie.

    Attributes:
        logits: .npy, float16 (N, C), rows in the order of the samples; softmax models: each row less its maximum,
            where float16 is precise for what matters; sigmoid models: as they are. Nothing beyond ±60000.
        embeddings: .npy, float16 (N, D), pooled features before the head.
        rows: N.
        seconds: spent on them, whatever process spent it.
    """

    logits: Path
    embeddings: Path
    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.rows / self.seconds if self.seconds else 0.0


class Inference:
    """A bundle's network on a device.

    Args:
        bundle: the model.
        device: None = the first GPU, else the CPU.

    The backbone computes in the precision of the training, where the device has it; the head always in float32, for a
    logit in bfloat16 has three digits.

    Attributes:
        device: where it computes.
        width: D, the length of an embedding.
    """

    def __init__(self, bundle: Bundle, device: torch.device | str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.bundle = bundle
        self._network = bundle.network(self.device)
        self._dtype = inference_dtype(bundle.spec.get("precision", "32-true"), self.device)
        size = bundle.preprocess.size
        self.width = self(torch.zeros(1, 3, size, size, dtype=torch.uint8))[1].shape[1]

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (N, 3, size, size) → logits float32 (N, C) and embedding float32 (N, D), on the device.

        Raises:
            PredictionError: the device has no memory for so many pictures.
        """
        try:
            images = images.to(self.device, non_blocking=True)
            with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
                embedding = self._network.embed(self.bundle.preprocess.normalise(images))
            embedding = embedding.float()
            return self._network.head(embedding), embedding
        except torch.OutOfMemoryError as error:
            raise PredictionError(
                f"{self.device} has no memory for {len(images)} pictures at a time", "use a smaller batch size"
            ) from error


def inference_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What a model trained with Lightning's `precision` computes in on `device`; None = float32.

    `auto` is bfloat16 where the hardware multiplies in it, as in training.
    """
    if precision == "32-true":
        return None
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if precision == "bf16-mixed" or (precision == "auto" and native) else torch.float16
    capabilities = torch.cpu.get_capabilities()
    native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return torch.bfloat16 if native and device.type == "cpu" else None


def predict(
    bundle: Bundle,
    samples: Samples,
    objects: Objects,
    folder: Path,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Write what the model answers to each sample into `folder`.

    A call that was killed goes on where it was, with the same rows as an undisturbed one; a finished one returns at
    once. Another model, other samples or another batch size start afresh.

    Args:
        bundle: the model.
        samples: of any labels; only their pictures are looked at.
        objects: where the shards are.
        folder: for the two arrays and the state.
        batch_size: pictures at a time.
        threads: that read and decode; None = one per core.
        device: None = the first GPU, else the CPU.
        progress: called with (rows done, rows).

    Raises:
        BundleError, SampleError.
        PredictionError: an answer is no number, or the device has no memory for such a batch.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    answers = _Answers(Path(folder), _identity(bundle, samples, batch_size, device))
    if not answers.finished:
        inference = Inference(bundle, device)
        loader = BatchLoader(samples, objects, bundle.preprocess, batch_size, threads=threads)
        with answers.opened(len(samples), len(bundle.labels), inference.width):
            loader.load_state_dict({**loader.state_dict(), "done": answers.batches})
            try:
                # An exhausted loader would begin anew.
                for batch in loader if answers.batches < len(loader) else ():
                    answers.append(*_as_stored(inference, batch.image))
                    if progress is not None:
                        progress(answers.rows, len(samples))
            finally:
                loader.close()
    return Predicted(answers.folder / LOGITS, answers.folder / EMBEDDINGS, answers.rows, answers.seconds)


def _as_stored(inference: Inference, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """float16 (N, C) and (N, D); shifted and rounded on the device, so that little is carried."""
    logits, embedding = inference(images)
    if not (torch.isfinite(logits).all() and torch.isfinite(embedding).all()):
        raise PredictionError(
            f"the model in {inference.bundle.folder} answers with what is no number",
            "train it anew with precision: 32-true",
        )
    if inference.bundle.output == "softmax":
        logits = logits - logits.amax(dim=1, keepdim=True)
    return tuple(part.clamp(-LARGEST, LARGEST).half().cpu().numpy() for part in (logits, embedding))  # type: ignore[return-value]


def _identity(bundle: Bundle, samples: Samples, batch_size: int, device: torch.device) -> dict[str, Any]:
    """What decides every bit of the answers."""
    places = hashlib.sha256()
    for array in (samples.offset, samples.size):
        places.update(np.ascontiguousarray(array).tobytes())
    return {
        "weights": bundle.weights_digest(),
        "preprocess": json.loads(json.dumps(bundle.preprocess.to_json())),
        "samples": samples.digest(),
        "places": places.hexdigest(),
        "batch_size": batch_size,
        "device": device.type,
        "dtype": str(inference_dtype(bundle.spec.get("precision", "32-true"), device)),
    }


class _Answers:
    """The two arrays while they grow, and how far they are known to be on the disk."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = self.batches = 0
        self.seconds = 0.0
        self.finished = False
        self._identity = identity
        self._parts: list[_GrowingArray] = []
        self._saved = self._since = time.monotonic()
        self._read_state()

    def _read_state(self) -> None:
        try:
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        if state["identity"] != self._identity:
            return
        there = [path for path in (self.folder / LOGITS, self.folder / EMBEDDINGS) if path.exists()]
        self.finished = bool(state["finished"]) and len(there) == 2
        if self.finished or not state["finished"]:
            self.rows, self.batches, self.seconds = state["rows"], state["batches"], state["seconds"]

    def opened(self, rows: int, *widths: int) -> "_Answers":
        """Ready to take what is missing of `rows` rows; to be used as a context manager."""
        paths = (self.folder / LOGITS, self.folder / EMBEDDINGS)
        self._parts = [_GrowingArray(path, (rows, width)) for path, width in zip(paths, widths, strict=True)]
        if not (self.rows and all(part.resume(self.rows) for part in self._parts)):
            self.rows, self.batches, self.seconds = 0, 0, 0.0
            for part in self._parts:
                part.begin()
        return self

    def __enter__(self) -> "_Answers":
        self._saved = self._since = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            self._save()
            for part in self._parts:
                part.finish()
            self.finished = True
            self._write_state()
        for part in self._parts:
            part.close()

    def append(self, *blocks: np.ndarray) -> None:
        """One batch's rows of each array."""
        for part, block in zip(self._parts, blocks, strict=True):
            part.append(block)
        self.rows += len(blocks[0])
        self.batches += 1
        if time.monotonic() - self._saved > SAFE_SECONDS:
            self._save()

    def _save(self) -> None:
        for part in self._parts:
            part.sync()
        now = time.monotonic()
        self.seconds += now - self._since
        self._saved = self._since = now
        self._write_state()

    def _write_state(self) -> None:
        state = {name: getattr(self, name) for name in ("rows", "batches", "seconds", "finished")}
        write_text_atomically(self.folder / STATE, json.dumps({**state, "identity": self._identity}, indent=1))


class _GrowingArray:
    """A .npy of float16 and known shape that is written row by row, under its name only when it is whole.

    Plain writes, no memory map: a full disk is an error then, not a signal that kills the process.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": shape})
        self._header = header.getvalue()
        self._file: BinaryIO
        self._row_bytes = shape[1] * np.dtype("<f2").itemsize

    def begin(self) -> None:
        """Without any row; what was there before is gone."""
        self._path.unlink(missing_ok=True)
        self._file = self._part.open("wb")
        self._file.write(self._header)

    def resume(self, rows: int) -> bool:
        """After so many rows; False where there are fewer, or of another shape."""
        if self._path.exists():  # the kill came between the renaming of one array and the other
            self._path.replace(self._part)
        end = len(self._header) + rows * self._row_bytes
        if not self._part.exists() or self._part.stat().st_size < end:
            return False
        self._file = self._part.open("rb+")
        if self._file.read(len(self._header)) != self._header:
            self._file.close()
            return False
        self._file.truncate(end)
        self._file.seek(end)
        return True

    def append(self, block: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(block, dtype="<f2").tobytes())

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        self._file.close()
        self._part.replace(self._path)

    def close(self) -> None:
        self._file.close()
