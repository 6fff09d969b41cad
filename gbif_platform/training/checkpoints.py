"""What a training leaves on disk while it runs: the resume point, the best weights, the history, all atomic."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from safetensors.torch import save_file
from torch import nn
from typing_extensions import override

from gbif_platform.errors import PlatformError
from gbif_platform.training.files import write_atomically, write_text_atomically
from gbif_platform.training.module import Classifier

AGREE_STEPS = 10  # batches between two moments at which several processes ask each other whether to save
LAST = "last.ckpt"
BEST = "best.safetensors"
HISTORY = "history.jsonl"

Row = dict[str, float]


class TrainingDivergedError(PlatformError):
    """The loss is no longer a number."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside and renames; Lightning's own goes through the temporary folder, which may be another disk."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))


class Checkpoints(Checkpoint):
    """Saves the resume point, keeps the best weights, decides when to stop.

    Best = lowest loss of validation (macro accuracy jumps by a tenth with one picture of a label that has few); without
    validation the last epoch. Training stops after `patience` epochs in which neither loss nor macro improved.

    Args:
        folder: receives `last.ckpt`, `best.safetensors`, `history.jsonl`.
        patience: epochs; 0 = never stop early.
        every_seconds: a resume point at least so often within an epoch, besides the one at its end.
        on_epoch: called with each epoch's row once it is on disk.

    Of several processes the first writes; all of them must save at the same step.
    """

    def __init__(self, folder: Path, patience: int, every_seconds: float, on_epoch: Callable[[Row], None]) -> None:
        self.folder = folder
        self.patience = patience
        self.every_seconds = every_seconds
        self.on_epoch = on_epoch
        self.history: list[Row] = []
        self._saved = self._began = time.monotonic()

    @property
    def best(self) -> Row:
        """The row of the epoch whose weights are kept. Raises IndexError before the first epoch has ended."""
        if "val_loss" not in self.history[-1]:
            return self.history[-1]
        return min(self.history, key=_val_loss)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run killed after its last epoch must not train one more: Lightning forgets that it was told to stop.
        trainer.should_stop = self._exhausted()
        self._saved = self._began = time.monotonic()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_of_epoch = batch_idx + 1 >= trainer.num_training_batches
        # Gradients gathered for a later optimiser step are in no checkpoint.
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole_step and not last_of_epoch and self._due(trainer, batch_idx):
            self._save(trainer)

    def _due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether it is time for a resume point; the first process's clock decides for all."""
        due = time.monotonic() - self._saved >= self.every_seconds
        if trainer.world_size == 1 or self.every_seconds == 0:
            return due
        steps = (batch_idx + 1) // trainer.accumulate_grad_batches
        return steps % AGREE_STEPS == 0 and bool(trainer.strategy.broadcast(due))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        row = {
            "epoch": trainer.current_epoch,
            **pl_module.take_scores(),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.monotonic() - self._began,
        }
        if not math.isfinite(row["train_loss"]):
            raise TrainingDivergedError(
                f"the training loss is {row['train_loss']} in epoch {row['epoch']}",
                f"lower learning_rate (now {pl_module.spec.learning_rate}) or set precision: 32-true",
            )
        self.history.append(row)
        if self.best is row and trainer.is_global_zero:
            save_weights(pl_module.judged_network(), self.folder / BEST)
        self._save(trainer)
        trainer.should_stop = self._exhausted()
        if trainer.is_global_zero:
            write_text_atomically(self.folder / HISTORY, "".join(json.dumps(row) + "\n" for row in self.history))
            self.on_epoch(row)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self._saved = time.monotonic()

    def _exhausted(self) -> bool:
        if not self.patience or not self.history or "val_loss" not in self.history[-1]:
            return False
        improved = max(
            min(range(len(self.history)), key=lambda index: _val_loss(self.history[index])),
            max(range(len(self.history)), key=lambda index: self.history[index]["val_macro"]),
        )
        return len(self.history) - 1 - improved >= self.patience


def _val_loss(row: Row) -> float:
    """What the best epoch has the lowest of; one that is no number compares with nothing, and is the worst."""
    return row["val_loss"] if math.isfinite(row["val_loss"]) else math.inf


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's state as safetensors, in plain memory order, atomically."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary))
