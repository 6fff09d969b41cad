"""Losses for few and many pictures a label, with one label a picture (softmax) or several (sigmoid)."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from typing_extensions import override

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec


class Loss(nn.Module):
    """Negative log-likelihood of the targets, float scalar: mean over pictures, summed over labels.

    - `balanced_softmax` (Ren et al. 2020), `logit_adjusted` (Menon et al. 2021): tau times the log of the training
      counts, relative to the largest, is added to the logits here and nowhere else. With tau 1 the bare logits are
      those of a world with equal labels.
    - `class_balanced` (Cui et al. 2019): labels weigh (1 - beta) / (1 - beta^n), which sum to C. With sigmoid only
      where they are present, relative to the largest label.
    - `focal` (Lin et al. 2017, without alpha): each term times (1 - p)^gamma, p the probability of what is true.

    Args:
        spec: loss, tau, beta, gamma, output, label_smoothing.
        class_counts: training pictures per label, int (C,).
    """

    def __init__(self, spec: "ModelSpec", class_counts: np.ndarray) -> None:
        super().__init__()
        self.sigmoid = spec.output == "sigmoid"
        self.smoothing = spec.label_smoothing
        self.gamma = spec.gamma if spec.loss == "focal" else 0.0
        counts = np.maximum(class_counts, 1).astype(np.float64)
        tau = {"balanced_softmax": 1.0, "logit_adjusted": spec.tau}.get(spec.loss, 0.0)
        weight = 1 / (1 - spec.beta**counts) if spec.loss == "class_balanced" else np.ones(len(counts))
        weight = weight / (weight.min() if self.sigmoid else weight.mean())
        self.shift: torch.Tensor
        self.weight: torch.Tensor
        self.register_buffer("shift", _float32(tau * np.log(counts / counts.max())), persistent=False)
        self.register_buffer("weight", _float32(weight), persistent=False)

    def targets(self, label: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """What the logits should say: float (N, C), from labels int64 (N,) or, with sigmoid, several, float (N, C)."""
        if self.sigmoid and target is not None:
            return target.float()
        return nn.functional.one_hot(label, len(self.weight)).float()

    @override
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits and targets (also mixed ones), float (N, C)."""
        logits = logits + self.shift
        return self._sigmoid(logits, target) if self.sigmoid else self._softmax(logits, target)

    def _softmax(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target = target * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        return -(target * self.weight * _focused(logits.log_softmax(1), self.gamma)).sum(1).mean()

    def _sigmoid(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        target = target * (1 - self.smoothing) + self.smoothing / 2
        present = target * self.weight * _focused(nn.functional.logsigmoid(logits), self.gamma)
        absent = (1 - target) * _focused(nn.functional.logsigmoid(-logits), self.gamma)
        return -(present + absent).sum(1).mean()


def log_loss(logits: torch.Tensor, target: torch.Tensor, *, sigmoid: bool) -> torch.Tensor:
    """The plain negative log-likelihood of targets, float (N, C), in nats a picture: what validation measures."""
    if sigmoid:
        return nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)
    return nn.functional.cross_entropy(logits, target)


def _focused(log_probability: torch.Tensor, gamma: float) -> torch.Tensor:
    return log_probability if gamma == 0 else (1 - log_probability.exp()) ** gamma * log_probability


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)
