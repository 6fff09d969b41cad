"""The network that is trained: a timm backbone without its classifier, and the head that takes its place."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from typing_extensions import override

BACKBONE = "backbone."


class Head(nn.Module):
    """Embedding to logits, float (N, D) → (N, C): a linear layer, or a hidden ReLU layer before it.

    Args:
        features: D.
        classes: C.
        hidden: width of the hidden layer; None = none.
        dropout: before each layer.
    """

    def __init__(self, features: int, classes: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.output = nn.Linear(hidden or features, classes)

    @override
    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        if self.hidden is not None:
            embedding = self.hidden(self.dropout(embedding)).relu()
        return self.output(self.dropout(embedding))

    @torch.no_grad()
    def take_rows(self, weights: Mapping[str, torch.Tensor], old: Sequence[str], new: Sequence[str]) -> int:
        """Copy from another head's state what stands for the same label; the rest stays as it is.

        Args:
            weights: state of a `Head` of len(old) outputs.
            old, new: the labels of its outputs and of this head's.

        Returns:
            Labels taken over; 0 where the other head has layers of other shapes.
        """
        own = self.state_dict()
        inner = [name for name in own if not name.startswith("output.")]
        if set(weights) != set(own) or any(weights[name].shape != own[name].shape for name in inner):
            return 0
        if weights["output.weight"].shape != (len(old), self.output.in_features):
            return 0
        for name in inner:
            own[name].copy_(weights[name])
        row = {label: index for index, label in enumerate(old)}
        shared = [(index, row[label]) for index, label in enumerate(new) if label in row]
        here, there = [pair[0] for pair in shared], [pair[1] for pair in shared]
        for name in ("output.weight", "output.bias"):
            own[name][here] = weights[name].to(own[name])[there]
        return len(shared)


class Network(nn.Module):
    """Pictures to logits. Its state is named `backbone.…` (timm's names) and `head.…`.

    Args:
        backbone: a timm model without classifier: normalised float (N, 3, size, size) → (N, D).
        head: its end.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._frozen = False

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float (N, 3, size, size) → pooled features, float (N, D)."""
        return self.backbone(images)

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float (N, 3, size, size) → logits, float (N, C)."""
        return self.head(self.embed(images))

    def freeze_backbone(self) -> None:
        """Let only the head learn; the backbone stays in evaluation mode, so BatchNorm's statistics stay too."""
        self._frozen = True
        self.backbone.requires_grad_(False).eval()

    @override
    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    @override
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `nn.Module` does; a plain timm model's state, classifier included, fits too."""
        return super().load_state_dict(self.own_names(state_dict), strict, assign)

    def own_names(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights under this network's names, where they come under a plain timm model's."""
        if any(name.startswith(BACKBONE) for name in weights):
            return dict(weights)
        classifier = classifier_name(self.backbone)
        renamed = {}
        for name, value in weights.items():
            if name == f"{classifier}.weight":
                renamed["head.output.weight"] = value.flatten(1)  # some (BiT, DPN) classify by a 1x1 convolution
            elif name == f"{classifier}.bias":
                renamed["head.output.bias"] = value
            else:
                renamed[BACKBONE + name] = value
        return renamed


def classifier_name(backbone: nn.Module) -> str:
    """What timm calls the layer that `head` stands for, such as `fc`; of two (distilled models) the first."""
    names: Any = getattr(backbone, "pretrained_cfg", {}).get("classifier") or "classifier"
    return names if isinstance(names, str) else names[0]
