"""The Lightning module: loss, optimiser, schedule, and what an epoch is judged by."""

import math
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import timm.optim
import torch
from torch import nn
from typing_extensions import override

from gbif_platform.training.data import Batch
from gbif_platform.training.preprocess import Preprocess

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec


class Classifier(pl.LightningModule):
    """A backbone under training.

    Args:
        network: logits from a normalised batch, float (N, C).
        preprocess: normalises on the device.
        spec: loss, rates and schedule.
        class_counts: training pictures per label, int (C,).
        steps_per_epoch: optimiser steps an epoch.

    `logit_adjusted` adds the log of the training counts to the logits in the loss (balanced softmax, Ren et al. 2020),
    so the bare logits are those of a world with equal classes.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        spec: "ModelSpec",
        class_counts: np.ndarray,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.spec = spec
        self.steps_per_epoch = steps_per_epoch
        adjusted = spec.loss == "logit_adjusted"
        prior = np.log(np.maximum(class_counts, 1)) if adjusted else np.zeros(len(class_counts))
        self.register_buffer("log_prior", torch.tensor(prior, dtype=torch.float32), persistent=False)
        self.log_prior: torch.Tensor
        self.train_loss = _Mean()
        self.validation = _ValidationScores(len(class_counts))

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, size, size) → logits float32 (N, C)."""
        return self.network(self.preprocess.normalise(images)).float()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        # Dropout and the like draw from the global generator: seeding each step keeps a resumed run exact.
        torch.manual_seed(int(np.random.SeedSequence([self.spec.seed, self.global_step]).generate_state(1)[0]))
        loss = nn.functional.cross_entropy(
            self(batch.image) + self.log_prior, batch.label, label_smoothing=self.spec.label_smoothing
        )
        self.train_loss.add(loss.detach(), len(batch.label))
        return loss

    def take_scores(self) -> dict[str, float]:
        """The scores of the epoch that ends; the next one starts at zero."""
        scores = {"train_loss": self.train_loss.value(), **self.validation.values()}
        self.train_loss.reset()
        self.validation.reset()
        return scores

    @override
    def on_validation_epoch_start(self) -> None:
        self.validation.reset()

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation.add(self(batch.image), batch.label, self.log_prior)

    @override
    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW without decay on norms and biases; linear warm-up, then cosine to zero, per step."""
        optimizer = timm.optim.create_optimizer_v2(
            self.network, opt="adamw", lr=self.spec.learning_rate, weight_decay=self.spec.weight_decay
        )
        total = self.spec.epochs * self.steps_per_epoch
        warmup = min(round(self.spec.warmup_epochs * self.steps_per_epoch), total // 2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_loss"] = self.train_loss.state()

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_loss.restore(checkpoint["train_loss"])


def rate_factor(step: int, warmup: int, total: int) -> float:
    """Share of the peak rate at `step` of `total`: up linearly over `warmup` steps, down as a half cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


class _Mean:
    """A weighted mean that stays on the device until it is asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self._count = 0

    def add(self, value: torch.Tensor, count: int) -> None:
        self._sum = self._sum + value * count
        self._count += count

    def value(self) -> float:
        return float(self._sum) / self._count if self._count else math.nan

    def state(self) -> dict[str, float]:
        return {"sum": float(self._sum), "count": self._count}

    def restore(self, state: dict[str, float]) -> None:
        self._sum, self._count = state["sum"], int(state["count"])


class _ValidationScores:
    """Loss, top-1 and macro accuracy (mean recall over the labels that validation has) of one epoch."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.reset()

    def reset(self) -> None:
        self._loss = _Mean()
        self._right = torch.zeros(self._classes, dtype=torch.int64)
        self._support = torch.zeros(self._classes, dtype=torch.int64)

    def add(self, logits: torch.Tensor, label: torch.Tensor, log_prior: torch.Tensor) -> None:
        self._loss.add(nn.functional.cross_entropy(logits + log_prior, label), len(label))
        right = label[logits.argmax(1) == label]
        self._right += torch.bincount(right, minlength=self._classes).cpu()
        self._support += torch.bincount(label, minlength=self._classes).cpu()

    def values(self) -> dict[str, float]:
        """`val_loss`, `val_top1`, `val_macro`; empty where nothing was validated."""
        count = int(self._support.sum())
        if not count:
            return {}
        supported = self._support > 0
        recall = self._right[supported] / self._support[supported]
        return {
            "val_loss": self._loss.value(),
            "val_top1": int(self._right.sum()) / count,
            "val_macro": float(recall.double().mean()),
        }
