"""One training: from samples to the best weights, resumable at any moment.

The work folder holds everything a killed run needs. The same call on the same folder goes on where it was cut and ends
with the weights of an undisturbed run (bit for bit on the CPU); a finished one returns at once. Another spec, other
labels or other samples start afresh in the same folder.
"""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from gbif_platform.errors import PlatformError
from gbif_platform.training.backbone import create_backbone, preprocess_for
from gbif_platform.training.checkpoints import BEST, HISTORY, LAST, AtomicCheckpointIO, Checkpoints, Row
from gbif_platform.training.data import BatchLoader, Objects, Samples
from gbif_platform.training.files import write_text_atomically
from gbif_platform.training.module import Classifier
from gbif_platform.training.preprocess import Preprocess

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec

IDENTITY = "training.json"
RESULT = "result.json"
CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 0.5


class TrainingDataError(PlatformError):
    """The samples cannot train a classifier."""


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
) -> TrainResult:
    """Train, or go on training, `spec` on `training`.

    Args:
        spec: the model.
        training: at least one picture of at least two labels.
        validation: chooses the best epoch and stops early; may be empty: then the last epoch is taken.
        labels: the names behind the label indices; one output each.
        objects: where the shards are.
        work_dir: this training's own folder.
        tracker: told of each epoch.
        progress: called about twice a second.
        checkpoint_seconds: a resume point at least so often within an epoch.

    Raises:
        TrainingDataError: fewer than two labels have training pictures.
        TrainingDivergedError: the loss is no longer a number.
        SampleError: a picture cannot be read.
        UnknownBackboneError, WeightsError, PictureSizeError: the backbone.
    """
    counts = training.counts(len(labels))
    _check_labels(counts, labels)
    work_dir = Path(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    preprocess = preprocess_for(spec.backbone, spec.image_size)
    notes = _claim(work_dir, _identity(spec, training, validation, labels, preprocess))
    job = _Job(spec, training, validation, counts, preprocess, objects, work_dir, checkpoint_seconds)
    if tracker is not None:
        tracker.begin({**vars(spec), "labels": len(labels), "training": len(training), "validation": len(validation)})
    try:
        history, best_epoch = _finished(work_dir) or job.run(_teller(tracker), progress)
    except BaseException as error:
        if tracker is not None:
            tracker.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    if tracker is not None:
        for row in history:
            tracker.log_epoch(row)
        tracker.end("FINISHED")
        notes += tracker.warnings
    return TrainResult(
        weights=work_dir / BEST,
        preprocess=preprocess,
        class_counts=counts.tolist(),
        epochs=len(history),
        best_epoch=best_epoch,
        history=history,
        seconds=sum(row["seconds"] for row in history),
        warnings=notes,
    )


def _check_labels(counts: np.ndarray, labels: Sequence[str]) -> None:
    present = np.flatnonzero(counts)
    if len(present) < 2:
        seen = f"only {labels[present[0]]!r}" if len(present) else "none at all"
        raise TrainingDataError(
            f"a model needs training pictures of at least two labels; here is {seen}",
            "widen the source, lower sampling.min_per_label or filters, or choose another label column",
        )


def _identity(
    spec: "ModelSpec", training: Samples, validation: Samples, labels: Sequence[str], preprocess: Preprocess
) -> dict[str, Any]:
    """What makes two trainings the same; the number of threads does not."""
    return {
        "spec": {name: value for name, value in vars(spec).items() if name != "threads"},
        "labels": hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "training": training.digest(),
        "validation": validation.digest(),
        "preprocess": json.loads(json.dumps(preprocess.to_json())),
    }


def _claim(work_dir: Path, identity: dict[str, Any]) -> list[str]:
    """Keep the folder's state where it is of the same training, else clear it."""
    path = work_dir / IDENTITY
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) == identity:
        return []
    stale = [name for name in (RESULT, LAST, BEST, HISTORY) if (work_dir / name).exists()]
    for name in stale:
        (work_dir / name).unlink()
    write_text_atomically(path, json.dumps(identity, indent=1))
    return ["the work folder held a training of other settings or samples: started afresh"] if stale else []


def _finished(work_dir: Path) -> tuple[list[Row], int] | None:
    path = work_dir / RESULT
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["history"], result["best_epoch"]


def _teller(tracker: Tracker | None) -> Callable[[Row], None]:
    return tracker.log_epoch if tracker is not None else lambda row: None


@dataclass
class _Job:
    """The parts of one training, put together for Lightning."""

    spec: "ModelSpec"
    training: Samples
    validation: Samples
    counts: np.ndarray
    preprocess: Preprocess
    objects: Objects
    work_dir: Path
    checkpoint_seconds: float

    def run(
        self, on_epoch: Callable[[Row], None], progress: Callable[[Progress], None] | None
    ) -> tuple[list[Row], int]:
        """Fit from the start or from the resume point. Returns the history and the best epoch."""
        resume = self.work_dir / LAST
        checkpoints = Checkpoints(self.work_dir, self.spec.patience, self.checkpoint_seconds, on_epoch)
        reporters: list[Callback] = [_Reporter(self.spec.epochs, progress)] if progress is not None else []
        loaders = [self._loader(self.training, train=True), self._loader(self.validation, train=False)]
        try:
            # The caller's own random numbers go on as if nothing had been trained here.
            with torch.random.fork_rng(devices=[]), _quiet():
                torch.manual_seed(self.spec.seed)
                module = self._module(len(loaders[0]), weights=not resume.exists())
                self._trainer([*reporters, checkpoints]).fit(
                    module, loaders[0], loaders[1], ckpt_path=resume if resume.exists() else None, weights_only=True
                )
        finally:
            for loader in loaders:
                loader.close()
        best_epoch = int(checkpoints.best["epoch"])
        result = {"history": checkpoints.history, "best_epoch": best_epoch}
        write_text_atomically(self.work_dir / RESULT, json.dumps(result))
        resume.unlink(missing_ok=True)
        return checkpoints.history, best_epoch

    def _module(self, steps: int, *, weights: bool) -> Classifier:
        pretrained = self.spec.pretrained if weights else False
        network = create_backbone(self.spec.backbone, len(self.counts), self.preprocess.size, pretrained)
        return Classifier(network, self.preprocess, self.spec, self.counts, steps)

    def _loader(self, samples: Samples, *, train: bool) -> BatchLoader:
        return BatchLoader(
            samples,
            self.objects,
            self.preprocess,
            self.spec.batch_size,
            seed=self.spec.seed if train else None,
            augment=self.spec.augment == "standard",
            threads=self.spec.threads,
        )

    def _trainer(self, callbacks: list[Callback]) -> pl.Trainer:
        return pl.Trainer(
            accelerator="auto",
            devices=1,
            precision=resolve_precision(self.spec.precision),
            max_epochs=self.spec.epochs,
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


def resolve_precision(precision: str) -> Any:
    """`auto` becomes bf16-mixed where the hardware multiplies in bfloat16 (1.9 times as fast on such CPUs)."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    capabilities = torch.cpu.get_capabilities()
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


class _Reporter(Callback):
    """Calls back about twice a second, and at each epoch's last step."""

    def __init__(self, epochs: int, report: Callable[[Progress], None]) -> None:
        self._epochs = epochs
        self._report = report
        self._began = self._told = time.monotonic()
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
        self._seen += len(batch.label)
        now = time.monotonic()
        steps = int(trainer.num_training_batches)
        if now - self._told < PROGRESS_SECONDS and batch_idx + 1 < steps:
            return
        self._told = now
        rate = self._seen / max(now - self._began, 1e-9)
        loss = float(outputs["loss"])
        self._report(Progress(trainer.current_epoch + 1, self._epochs, batch_idx + 1, steps, loss, rate))


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
