"""Pictures in, names out: decoded by threads, answered in batches, read with the model's temperature and prior."""

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gbif_platform.errors import PlatformError
from gbif_platform.images.transform import ImageRefused
from gbif_platform.serving.kept_answers import keep_part, read_parts
from gbif_platform.serving.pictures import Pictures, Problem
from gbif_platform.training.bundle import CALIBRATION, DESCRIPTION, Bundle
from gbif_platform.training.data import SampleError
from gbif_platform.training.predict import Inference
from gbif_platform.training.preprocess import Preprocess
from gbif_platform.training.priors import answer_adjustment

log = logging.getLogger(__name__)

RANKS = ("species", "genus", "family", "order", "class", "phylum", "kingdom")
"""Of Darwin Core, from the finest."""
BATCHES_AHEAD = 3
MOST_THREADS = 16
SAFE_SECONDS = 20.0  # a killed prediction loses at most so much


class AnswerError(PlatformError):
    """The model cannot answer what is asked."""


class Reading:
    """How logits become answers: probabilities of labels, or of the taxa of a rank.

    Args:
        bundle: labels, taxonomy, class counts, temperature and tau.
        tau: prior of the answers; None = the bundle's. 0 = as frequent as in training, 1 = all equally likely.
        rank: roll up to it by summed probabilities; None = the labels. A label without a taxon at the rank is what it
            is at the next finer rank.

    Attributes:
        names, keys: of each of T answers; the GBIF key (text) is None where the bundle does not know it.

    Raises:
        AnswerError: no such rank in the taxonomy; a rank or tau asked of a sigmoid model.
    """

    def __init__(self, bundle: Bundle, *, tau: float | None = None, rank: str | None = None) -> None:
        self._sigmoid = bundle.output == "sigmoid"
        if self._sigmoid and (rank or tau):
            raise AnswerError("a sigmoid model answers for each label alone", "leave out rank and tau")
        self._temperature = np.float32(bundle.temperature)
        tau = 0.0 if self._sigmoid else bundle.tau if tau is None else tau
        self._adjustment = answer_adjustment(bundle.class_counts, bundle.spec, tau).astype(np.float32)
        lineages = [bundle.taxonomy.get(label, {}) for label in bundle.labels]
        if rank is None:
            taxa = [(label, gbif_key(label, lineage)) for label, lineage in zip(bundle.labels, lineages, strict=True)]
            self._order = None
        else:
            _check_rank(rank, lineages)
            of_label = [taxon_at(rank, label, own) for label, own in zip(bundle.labels, lineages, strict=True)]
            taxa = sorted(set(of_label), key=lambda taxon: (taxon[0], taxon[1] or ""))
            number = {taxon: place for place, taxon in enumerate(taxa)}
            taxon = np.array([number[taxon] for taxon in of_label])
            self._order = np.argsort(taxon, kind="stable")  # labels by taxon, and where each taxon begins
            self._starts = np.searchsorted(taxon[self._order], np.arange(len(taxa)))
        self.names = [name for name, _ in taxa]
        self.keys = [key for _, key in taxa]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float32 (N, C) → float32 (N, T), of softmax models summing to one."""
        scaled = logits / self._temperature + self._adjustment
        if self._sigmoid:
            return 0.5 + 0.5 * np.tanh(0.5 * scaled)  # the same, without overflow
        power = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        shares = power / power.sum(axis=1, keepdims=True)
        return shares if self._order is None else np.add.reduceat(shares[:, self._order], self._starts, axis=1)

    def best(self, logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best answers of each row: int32 (N, k), best first, ties by lower index, and float32 (N, k)."""
        shares = self.probabilities(logits)
        top = np.argsort(-shares, axis=1, kind="stable")[:, :k]
        return top.astype(np.int32), np.take_along_axis(shares, top, axis=1)


def gbif_key(label: str, lineage: Mapping[str, Any]) -> str | None:
    """The key of a label: of the rank whose name it is, else of the taxon that its pictures are of."""
    for rank in RANKS:
        if lineage.get(rank) == label:
            return _text(lineage.get(f"{rank}_key"))
    return _text(lineage.get("taxon_key"))


def taxon_at(rank: str, label: str, lineage: Mapping[str, Any]) -> tuple[str, str | None]:
    """Name and GBIF key of a label's taxon at a rank, else at the next finer one that it has, at last its own."""
    for finer in reversed(RANKS[: RANKS.index(rank) + 1]):
        if name := lineage.get(finer):
            return str(name), _text(lineage.get(f"{finer}_key"))
    return label, gbif_key(label, lineage)


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def _check_rank(rank: str, lineages: list[dict[str, Any]]) -> None:
    known = [name for name in RANKS if any(lineage.get(name) for lineage in lineages)]
    if rank not in known:
        raise AnswerError(
            f"the model's taxonomy has no rank {rank!r}; it has: {', '.join(known) or 'none'}",
            "name one of these, or no rank" if known else "name no rank",
        )


@dataclass(frozen=True)
class Answered:
    """The best answers to N pictures.

    Attributes:
        names: of the pictures.
        top: int32 (N, k), into `Reading.names`; -1 for a picture that could not be read.
        score: float32 (N, k); NaN there.
        problems: by the picture's place.
        seconds: reading and answering, whatever process did it.
        earlier: the first so many of them are of a call that was killed.
    """

    names: list[str]
    top: np.ndarray
    score: np.ndarray
    problems: dict[int, Problem]
    seconds: float
    earlier: int = 0

    @property
    def rate(self) -> float:
        """Pictures answered a second."""
        return (len(self.names) - len(self.problems)) / self.seconds if self.seconds else 0.0


def answer(
    inference: Inference,
    pictures: Pictures,
    reading: Reading,
    *,
    k: int = 5,
    batch_size: int = 64,
    threads: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    folder: Path | None = None,
) -> Answered:
    """Answer every picture; one that cannot be read is a problem with its reason, and the others go on.

    With a folder, a call that was killed goes on where it was, to the same bits as an undisturbed one.

    Args:
        inference: the model on its device.
        pictures: what is asked about.
        reading: how its logits are read.
        k: answers a picture; fewer where there are fewer.
        batch_size: pictures at a time on the device.
        threads: that read and decode; None = one per core, at most 16.
        progress: called with (pictures done, pictures, pictures a second).
        folder: where finished parts are kept; of these pictures, this model and these options alone, see `call_digest`.
            The caller removes it when the answers are safe.

    Raises:
        PredictionError: the device has no memory for such a batch.
    """
    count, k = len(pictures.names), min(k, len(reading.names))
    top = np.full((count, k), -1, np.int32)
    score = np.full((count, k), np.nan, np.float32)
    problems: dict[int, Problem] = {}
    earlier, spent = read_parts(folder, top, score, problems) if folder is not None else (0, 0.0)
    kept, began = earlier, time.monotonic()
    since = began
    # A part ends with a batch, so that the batches after it are the same ones, whoever makes them.
    for places, images in _batches(pictures, inference.bundle.preprocess, batch_size, threads, problems, earlier):
        top[places], score[places] = reading.best(inference(images)[0].cpu().numpy(), k)
        done, now = places[-1] + 1, time.monotonic()
        if folder is not None and now - since > SAFE_SECONDS:
            try:
                keep_part(folder, kept, top[kept:done], score[kept:done], problems, now - since)
            except OSError as error:  # a full disk, a home of somebody else: no reason to stop
                log.warning("a kill would cost the answers so far, which cannot be kept in %s: %s", folder, error)
                folder = None
            kept, since = done, now
        if progress is not None:
            progress(done, count, (done - earlier) / (now - began))
    return Answered(list(pictures.names), top, score, problems, spent + time.monotonic() - began, earlier)


def call_digest(bundle: Bundle, pictures: Pictures, *options: object) -> str:
    """SHA-256 (hex) of what decides every bit of the answers: the model, the pictures and the options."""
    digest = hashlib.sha256(f"{bundle.weights_digest()}\n{pictures.digest()}\n{options}\n".encode())
    for path in (bundle.folder / DESCRIPTION, bundle.folder / CALIBRATION):
        digest.update(path.read_bytes() if path.exists() else b"none")
    return digest.hexdigest()


def _batches(
    pictures: Pictures, preprocess: Preprocess, size: int, threads: int | None, problems: dict[int, Problem], first: int
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(places, uint8 (N, 3, S, S)) of the readable pictures from `first` on; `problems` grows by the others."""
    places: list[int] = []
    images: list[torch.Tensor] = []
    for place, image in _loaded(pictures, preprocess, size * BATCHES_AHEAD, threads, first):
        if isinstance(image, Problem):
            problems[place] = image
            continue
        places.append(place)
        images.append(image)
        if len(images) == size:
            yield places, torch.stack(images)
            places, images = [], []
    if images:
        yield places, torch.stack(images)


def _loaded(
    pictures: Pictures, preprocess: Preprocess, ahead: int, threads: int | None, first: int
) -> Iterator[tuple[int, torch.Tensor | Problem]]:
    """Each picture from `first` on, or what is wrong with it, in order, read ahead by threads."""

    def load(place: int) -> torch.Tensor | Problem:
        name = pictures.names[place]
        try:
            return preprocess.read(pictures.load(place))
        except ImageRefused as refused:
            return Problem(name, refused.reason, refused.detail)
        except (SampleError, ValueError) as error:  # of a dataset's own picture
            return Problem(name, "damaged", getattr(error, "cause", str(error)))

    waiting: deque[tuple[int, Future[torch.Tensor | Problem]]] = deque()
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, MOST_THREADS), thread_name_prefix="decode") as pool:
        try:
            for place in range(first, len(pictures.names)):
                waiting.append((place, pool.submit(load, place)))
                if len(waiting) > ahead:
                    eldest, future = waiting.popleft()
                    yield eldest, future.result()
            while waiting:
                eldest, future = waiting.popleft()
                yield eldest, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
