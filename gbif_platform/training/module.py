"""The Lightning module: what a step does, and what an epoch is judged by."""

import copy
import math
import os
import shutil
from typing import TYPE_CHECKING, Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from torch import distributed
from typing_extensions import override

from gbif_platform.errors import PlatformError
from gbif_platform.training.data import Batch
from gbif_platform.training.head import Network
from gbif_platform.training.losses import Loss, log_loss
from gbif_platform.training.optimisation import average_into, mixer, parameter_groups, rate_factor
from gbif_platform.training.preprocess import Preprocess
from gbif_platform.training.priors import answer_adjustment

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec

Value = TypeVar("Value")


class CompilerMissingError(PlatformError):
    """torch.compile cannot work on this machine."""


class Classifier(pl.LightningModule):
    """A network under training.

    Args:
        network: logits from a normalised batch, float (N, C), with the weights to start from.
        preprocess: normalises on the device.
        spec: loss, rates and schedule.
        class_counts: training pictures per label, int (C,).
        steps_per_epoch: optimiser steps an epoch: batches over `accumulate_grad_batches`, rounded up.

    Raises:
        CompilerMissingError: spec.compile, and there is no C++ compiler.

    Attributes:
        learning_rate: the peak; None while spec.learning_rate is `find` and nobody has set it. Kept in checkpoints.

    Under DDP, `take_scores` and the saving of a checkpoint speak with the other ranks: every rank must do them.
    """

    def __init__(
        self,
        network: Network,
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
        self.learning_rate = None if spec.learning_rate == "find" else float(spec.learning_rate)
        if spec.freeze_backbone:
            network.freeze_backbone()
        self.average = copy.deepcopy(network).requires_grad_(False) if spec.ema_decay else None
        if spec.compile:
            _require_compiler()
            network.compile()  # in place: the names of the weights stay
        self.loss = Loss(spec, class_counts)
        self.mix = mixer(spec.mixup, spec.cutmix)
        natural = answer_adjustment(class_counts.tolist(), vars(spec), tau=0.0)
        self.register_buffer("natural", torch.tensor(natural, dtype=torch.float32), persistent=False)
        self.natural: torch.Tensor
        self.train_loss = _Mean()
        self.validation = _ValidationScores(len(class_counts))

    def judged_network(self) -> Network:
        """The network that validation measures and a bundle keeps: the moving average, where there is one."""
        return self.network if self.average is None else self.average

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, size, size) → logits float32 (N, C)."""
        return self.network(self.preprocess.normalise(images)).float()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seed_step(self.global_step, batch_idx)
        images = self.preprocess.normalise(batch.image)
        target = self.loss.targets(batch.label, batch.target)
        if self.mix is not None:
            images, target = self.mix(images, target)
        loss = self.loss(self.network(images).float(), target)
        self.train_loss.add(loss, len(batch.label))
        return loss

    def seed_step(self, step: int, batch: int) -> None:
        """Dropout, mixup and the like draw from torch's generator: seeding each step keeps a resumed run exact."""
        torch.manual_seed(_derived_seed(self.spec.seed, step, batch, self.global_rank))

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            average_into(self.average, self.network, self.spec.ema_decay, step)

    def take_scores(self) -> dict[str, float]:
        """The scores of the epoch that ends, over all ranks; the next one starts at zero."""
        scores = {"train_loss": self.train_loss.value(), **self.validation.values()}
        self.train_loss.reset()
        self.validation.reset()
        return scores

    @override
    def on_validation_epoch_start(self) -> None:
        self.validation.reset()

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.judged_network()(self.preprocess.normalise(batch.image)).float()
        target = self.loss.targets(batch.label, batch.target)
        loss = log_loss(logits + self.natural, target, sigmoid=self.loss.sigmoid)
        self.validation.add(loss, logits, batch.label, target)

    @override
    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; linear warm-up, then cosine to zero, per optimiser step."""
        if self.learning_rate is None:
            raise RuntimeError("learning_rate is 'find': set it by find_learning_rate before the training starts")
        spec = self.spec
        groups = parameter_groups(self.network, self.learning_rate, spec.weight_decay, spec.layer_decay)
        optimizer = torch.optim.AdamW(groups)
        total = spec.epochs * self.steps_per_epoch
        warmup = min(round(spec.warmup_epochs * self.steps_per_epoch), total // 2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["train_loss"] = self.train_loss.state()
        checkpoint["learning_rate"] = self.learning_rate

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_loss.restore(checkpoint["train_loss"])
        self.learning_rate = checkpoint["learning_rate"]


def _require_compiler() -> None:
    """torch.compile calls a C++ compiler; without one it would fail late, with a page of its own log."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++", "c++")):
        raise CompilerMissingError(
            "compile: true needs a C++ compiler, and none is on the PATH", "install g++, or set compile: false"
        )


def _derived_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _of_all_ranks(value: Value) -> list[Value]:
    """What each rank gives, in the order of the ranks; alone where there is no DDP."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


class _Mean:
    """A weighted mean that stays on the device until it is asked for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._sum: torch.Tensor | float = 0.0
        self._count = 0

    def add(self, value: torch.Tensor, count: int) -> None:
        if count:  # a rank may have no picture of the last batch: its mean is no number
            self._sum = self._sum + value.detach() * count
            self._count += count

    def value(self) -> float:
        """Over all ranks."""
        ranks = self.state()
        count = sum(rank["count"] for rank in ranks)
        return sum(rank["sum"] for rank in ranks) / count if count else math.nan

    def state(self) -> list[dict[str, float]]:
        """Of each rank: their sums are kept apart, so that a resumed run adds in the same order."""
        return _of_all_ranks({"sum": float(self._sum), "count": self._count})

    def restore(self, state: list[dict[str, float]]) -> None:
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        self.reset()
        if rank < len(state):
            self._sum, self._count = state[rank]["sum"], int(state[rank]["count"])


class _ValidationScores:
    """Of one epoch: log loss at the labels' natural frequencies, top-1, macro accuracy (mean recall over the labels
    that validation has). Where a picture has several labels, an answer is right that is one of them."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.reset()

    def reset(self) -> None:
        self._loss = _Mean()
        self._right = torch.zeros(self._classes, dtype=torch.int64)
        self._support = torch.zeros(self._classes, dtype=torch.int64)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, label: torch.Tensor, target: torch.Tensor) -> None:
        self._loss.add(loss, len(label))
        right = target.gather(1, logits.argmax(1, keepdim=True))[:, 0] > 0
        labelled = label >= 0  # with several labels allowed, a picture may have none
        self._right += torch.bincount(label[right & labelled], minlength=self._classes).cpu()
        self._support += torch.bincount(label[labelled], minlength=self._classes).cpu()

    def values(self) -> dict[str, float]:
        """`val_loss`, `val_top1`, `val_macro` over all ranks; empty where nothing was validated."""
        loss = self._loss.value()
        right, support = (torch.stack(_of_all_ranks(counts)).sum(0) for counts in (self._right, self._support))
        count = int(support.sum())
        if not count:
            return {}
        supported = support > 0
        recall = right[supported] / support[supported]
        return {"val_loss": loss, "val_top1": int(right.sum()) / count, "val_macro": float(recall.double().mean())}
