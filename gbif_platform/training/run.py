"""One training: from samples to the best weights, resumable at any moment.

The work folder holds everything a killed run needs. The same call on the same folder goes on where it was cut and ends
with the weights of an undisturbed run (bit for bit on the CPU); a finished one returns at once. Another spec, other
labels, other samples or other start weights start afresh in the same folder.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from typing_extensions import override

from gbif_platform.errors import PlatformError
from gbif_platform.training.backbone import create_backbone, load_matching, preprocess_for
from gbif_platform.training.bundle import WEIGHTS, load_bundle
from gbif_platform.training.checkpoints import BEST, HISTORY, LAST, AtomicCheckpointIO, Checkpoints, Row
from gbif_platform.training.data import MOST_THREADS, BatchLoader, Objects, Samples
from gbif_platform.training.files import remove_leftovers, write_text_atomically
from gbif_platform.training.lr_finder import find_learning_rate
from gbif_platform.training.module import Classifier
from gbif_platform.training.preprocess import Preprocess
from gbif_platform.training.ranks import Ranks, joined
from gbif_platform.training.weights_file import weights_digest

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec

log = logging.getLogger(__name__)

IDENTITY = "training.json"
RESULT = "result.json"
FOUND_RATE = "learning_rate.json"
CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 0.5
CURVE_SECONDS = 5.0
LOCK_SECONDS = 30.0  # a training that was cancelled a moment ago may still be ending
NOT_LEARNT = ("threads", "evaluation")  # settings that leave the weights as they are


class TrainingDataError(PlatformError):
    """The samples cannot train a classifier."""


class FolderInUseError(PlatformError):
    """Another process trains in the work folder."""


@dataclass(frozen=True)
class Progress:
    """Where a training is. `rate` = pictures a second since the epoch began; epoch and step count from 1."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    rate: float


class Tracker(Protocol):
    """Somebody who is told about a training (`gbif_platform.training.tracking.MlflowTracker`). Must never raise."""

    warnings: list[str]

    def begin(self, params: dict[str, Any]) -> None:
        """Training starts or goes on."""

    def log_epoch(self, row: Row) -> None:
        """One epoch's row of the history."""

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Loss and rate within an epoch, about every 5 seconds; `step` = optimiser steps done."""

    def end(self, status: str) -> None:
        """`FINISHED`, `FAILED` or `KILLED`."""


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with.

    Attributes:
        weights: the best epoch's weights, safetensors.
        preprocess: what the model was trained with.
        class_counts: training pictures per label, in the order of the labels.
        epochs: epochs run.
        best_epoch: the epoch of `weights`, from 0.
        history: one row an epoch: epoch, train_loss, val_loss, val_top1, val_macro, learning_rate, seconds.
        seconds: of all epochs, whatever process ran them.
        warnings: troubles that did not stop the training.
    """

    weights: Path
    preprocess: Preprocess
    class_counts: list[int]
    epochs: int
    best_epoch: int
    history: list[Row]
    seconds: float
    warnings: list[str] = field(default_factory=list)


def train(
    spec: "ModelSpec",
    training: Samples,
    validation: Samples,
    labels: Sequence[str],
    objects: Objects,
    work_dir: Path,
    *,
    tracker: Tracker | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    start: Path | None = None,
) -> TrainResult:
    """Train, or go on training, `spec` on `training`, in this process.

    For several devices it must run in each process that torchrun starts; the first of them writes and reports.

    Args:
        spec: the model.
        training: at least one picture of at least two labels.
        validation: chooses the best epoch and stops early; may be empty: then the last epoch is taken.
        labels: the names behind the label indices; one output each.
        objects: where the shards are.
        work_dir: this training's own folder; shared by all machines that take part.
        tracker: told of each epoch.
        progress: called about twice a second.
        checkpoint_seconds: a resume point at least so often within an epoch.
        start: a bundle whose weights the training starts from; outputs go to the labels of the same name.

    Raises:
        TrainingDataError: fewer than two labels have training pictures.
        TrainingDivergedError: the loss is no longer a number.
        FolderInUseError: another process trains in `work_dir`.
        RanksError: not as many processes or GPUs as the model asks for.
        SampleError: a picture cannot be read.
        BundleError: `start` is no bundle.
        UnknownBackboneError, WeightsError, PictureSizeError: the backbone.
    """
    counts = training.counts(len(labels))
    _check_labels(counts, labels)
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    preprocess = preprocess_for(spec.backbone, spec.image_size)
    identity = _identity(spec, training, validation, labels, preprocess, start)
    with joined(spec.devices, spec.num_nodes) as ranks, alone(work_dir) if ranks.first else nullcontext():
        notes = ranks.once(lambda: _claim(work_dir, identity))
        listener = tracker if ranks.first else None
        with tracked(listener, tracked_parameters(spec, training, validation, labels)):
            if not ranks.once((work_dir / RESULT).exists):
                job = _Job(
                    spec,
                    training,
                    validation,
                    labels,
                    counts,
                    preprocess,
                    objects,
                    work_dir,
                    start,
                    ranks,
                    checkpoint_seconds,
                )
                job.run(listener, progress if ranks.first else None)
            result = read_result(spec, training, labels, work_dir)
            if listener is not None:
                for row in result.history:
                    listener.log_epoch(row)
    result.warnings.extend(notes + (listener.warnings if listener is not None else []))
    return result


def read_result(spec: "ModelSpec", training: Samples, labels: Sequence[str], work_dir: Path) -> TrainResult:
    """What the finished training in `work_dir` ended with."""
    result = json.loads((work_dir / RESULT).read_text(encoding="utf-8"))
    history = result["history"]
    return TrainResult(
        weights=work_dir / BEST,
        preprocess=preprocess_for(spec.backbone, spec.image_size),
        class_counts=training.counts(len(labels)).tolist(),
        epochs=len(history),
        best_epoch=result["best_epoch"],
        history=history,
        seconds=sum(row["seconds"] for row in history),
    )


def tracked_parameters(
    spec: "ModelSpec", training: Samples, validation: Samples, labels: Sequence[str]
) -> dict[str, Any]:
    """What a tracker is told of a training when it begins."""
    return {**vars(spec), "labels": len(labels), "training": len(training), "validation": len(validation)}


@contextmanager
def tracked(tracker: Tracker | None, parameters: dict[str, Any]) -> Iterator[None]:
    """Tell `tracker` of the beginning of the block and of how it ended; an interrupt counts as KILLED."""
    if tracker is None:
        yield
        return
    tracker.begin(parameters)
    try:
        yield
    except BaseException as error:
        tracker.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.end("FINISHED")


@contextmanager
def alone(work_dir: Path, file: str | None = None) -> Iterator[None]:
    """Hold a training's folder, or `file` in it, against a second one; the system lets go when this process ends.

    Raises:
        FolderInUseError: it is still held after 30 seconds.
    """
    held = os.open(work_dir / file, os.O_RDWR | os.O_CREAT, 0o644) if file else os.open(work_dir, os.O_RDONLY)
    try:
        _lock(held, work_dir)
        yield
    finally:
        os.close(held)


def _lock(held: int, work_dir: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise FolderInUseError(
                    f"another process trains in {work_dir}", "wait until it has ended, or end it"
                ) from error
            time.sleep(0.2)
        except OSError:
            return  # some network file systems lock nothing
        else:
            return


def _check_labels(counts: np.ndarray, labels: Sequence[str]) -> None:
    present = np.flatnonzero(counts)
    if len(present) < 2:
        seen = f"only {labels[present[0]]!r}" if len(present) else "none at all"
        raise TrainingDataError(
            f"a model needs training pictures of at least two labels; here is {seen}",
            "widen the source, lower sampling.min_per_label or filters, or choose another label column",
        )


def _identity(
    spec: "ModelSpec",
    training: Samples,
    validation: Samples,
    labels: Sequence[str],
    preprocess: Preprocess,
    start: Path | None,
) -> dict[str, Any]:
    """What makes two trainings the same."""
    return {
        "spec": {name: value for name, value in vars(spec).items() if name not in NOT_LEARNT},
        "labels": hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "training": training.digest(),
        "validation": validation.digest(),
        "preprocess": json.loads(json.dumps(preprocess.to_json())),
        "start": load_bundle(start).weights_digest() if start is not None else None,
        "pretrained": weights_digest(spec.pretrained),  # the spec has the path alone
    }


def _claim(work_dir: Path, identity: dict[str, Any]) -> list[str]:
    """Keep the folder's state where it is of the same training, else clear it."""
    remove_leftovers(work_dir)
    path = work_dir / IDENTITY
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == identity:
        return []
    stale = [name for name in (RESULT, LAST, BEST, HISTORY, FOUND_RATE) if (work_dir / name).exists()]
    for name in stale:
        (work_dir / name).unlink()
    write_text_atomically(path, json.dumps(identity, indent=1))
    return ["the work folder held a training of other settings or samples: started afresh"] if stale else []


@dataclass
class _Job:
    """The parts of one training, put together for Lightning."""

    spec: "ModelSpec"
    training: Samples
    validation: Samples
    labels: Sequence[str]
    counts: np.ndarray
    preprocess: Preprocess
    objects: Objects
    work_dir: Path
    start: Path | None
    ranks: Ranks
    checkpoint_seconds: float

    def run(self, tracker: Tracker | None, progress: Callable[[Progress], None] | None) -> None:
        """Fit from the start or from the resume point; leaves the history and the best epoch in `result.json`."""
        last = self.work_dir / LAST
        resume = last if self.ranks.once(last.exists) else None
        checkpoints = Checkpoints(self.work_dir, self.spec.patience, self.checkpoint_seconds, _told(tracker))
        reporters: list[Callback] = []
        if progress is not None or tracker is not None:
            reporters = [_Reporter(self.spec, self.ranks.world, progress, tracker)]
        loaders = [
            self._loader(self.training, self.ranks, train=True),
            self._loader(self.validation, self.ranks, train=False),
        ]
        try:
            # The caller's own random numbers go on as if nothing had been trained here.
            with torch.random.fork_rng(devices=[]), _quiet():
                module = self._module(len(loaders[0]), fresh=resume is None)
                self._trainer([*reporters, checkpoints]).fit(
                    module, loaders[0], loaders[1], ckpt_path=resume, weights_only=True
                )
        finally:
            for loader in loaders:
                loader.close()
        if self.ranks.first:
            result = {"history": checkpoints.history, "best_epoch": int(checkpoints.best["epoch"])}
            write_text_atomically(self.work_dir / RESULT, json.dumps(result))
            last.unlink(missing_ok=True)
        self.ranks.once(lambda: None)  # nobody looks for the result before it is there

    def _module(self, batches: int, *, fresh: bool) -> Classifier:
        """The network, at its start weights where it is fresh, else to be filled from the resume point."""
        spec = self.spec
        torch.manual_seed(spec.seed)
        network = create_backbone(
            spec.backbone,
            len(self.labels),
            self.preprocess.size,
            spec.pretrained if fresh and self.start is None else False,
            pooling=spec.pooling,
            hidden=spec.hidden,
            dropout=spec.dropout,
        )
        if fresh and self.start is not None:
            bundle = load_bundle(self.start)
            taken = load_matching(network, load_file(bundle.folder / WEIGHTS), bundle.labels, self.labels)
            log.info("weights of %s; %d of %d labels keep their outputs", self.start, taken, len(self.labels))
        module = Classifier(network, self.preprocess, spec, self.counts, -(-batches // spec.accumulate_grad_batches))
        if spec.learning_rate == "find":
            module.learning_rate = self.ranks.once(lambda: self._found_rate(module))
        return module

    def _found_rate(self, module: Classifier) -> float:
        """The rate of the range test, which is made once: a resumed training learns at the same."""
        path = self.work_dir / FOUND_RATE
        if path.exists():
            return float(json.loads(path.read_text(encoding="utf-8")))
        log.info("looking for a learning rate")
        loader = self._loader(self.training, Ranks(), train=True)
        try:
            rate = find_learning_rate(module, loader, device="cuda" if torch.cuda.is_available() else "cpu")
        finally:
            loader.close()
        log.info("learning rate %.2g", rate)
        write_text_atomically(path, json.dumps(rate))
        return rate

    def _loader(self, samples: Samples, ranks: Ranks, *, train: bool) -> BatchLoader:
        spec = self.spec
        cores = max(1, (os.cpu_count() or 1) // spec.devices)
        return BatchLoader(
            samples,
            self.objects,
            self.preprocess,
            spec.batch_size,
            seed=spec.seed if train else None,
            augment=spec.augment == "standard",
            threads=spec.threads or min(cores, MOST_THREADS),
            sampler=spec.sampler if train else "natural",
            rank=ranks.rank,
            world_size=ranks.world,
        )

    def _trainer(self, callbacks: list[Callback]) -> pl.Trainer:
        return pl.Trainer(
            accelerator="auto",
            devices=self.spec.devices,
            num_nodes=self.spec.num_nodes,
            strategy="ddp" if self.ranks.world > 1 else "auto",
            precision=resolve_precision(self.spec.precision),
            max_epochs=self.spec.epochs,
            accumulate_grad_batches=self.spec.accumulate_grad_batches,
            gradient_clip_val=self.spec.gradient_clip_val,
            limit_val_batches=1.0 if len(self.validation) else 0,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.work_dir,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
        )


def _told(tracker: Tracker | None) -> Callable[[Row], None]:
    """Each epoch's row into the log, and to the tracker."""

    def tell(row: Row) -> None:
        scores = ", ".join(f"{name} {row[name]:.4g}" for name in row if name not in ("epoch", "seconds"))
        log.info("epoch %d: %s; %.0f s", row["epoch"] + 1, scores, row["seconds"])
        if tracker is not None:
            tracker.log_epoch(row)

    return tell


def resolve_precision(precision: str) -> Any:
    """`auto` becomes bf16-mixed where the hardware multiplies in bfloat16 (1.9 times as fast on such CPUs)."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    capabilities = torch.cpu.get_capabilities()
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


class _Reporter(Callback):
    """Tells of progress about twice a second and at each epoch's last step; a tracker hears of it every 5 seconds."""

    def __init__(
        self, spec: "ModelSpec", world: int, report: Callable[[Progress], None] | None, tracker: Tracker | None
    ) -> None:
        self._spec = spec
        self._world = world
        self._report = report
        self._tracker = tracker
        self._began = self._told = self._drawn = time.monotonic()
        self._seen = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began, self._seen = time.monotonic(), 0

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += len(batch.label) * self._world
        now = time.monotonic()
        steps = int(trainer.num_training_batches)
        if now - self._told < PROGRESS_SECONDS and batch_idx + 1 < steps:
            return
        self._told = now
        rate = self._seen / max(now - self._began, 1e-9)
        loss = float(outputs["loss"]) * self._spec.accumulate_grad_batches  # Lightning gives its share of the step
        if self._tracker is not None and now - self._drawn >= CURVE_SECONDS:
            self._drawn = now
            self._tracker.log_step(trainer.global_step, {"loss": loss, "pictures_per_second": rate})
        if self._report is not None:
            epoch, epochs = trainer.current_epoch + 1, self._spec.epochs
            self._report(Progress(epoch, epochs, batch_idx + 1, steps, loss, rate))


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's tips, device lines and warnings stay out of the log while it fits."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
