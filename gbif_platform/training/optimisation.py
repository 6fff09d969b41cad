"""How weights move: groups with their own rates, the schedule, the moving average, mixed pictures."""

import fnmatch
import math
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.optim import auto_group_layers
from torch import nn
from torchvision.transforms import v2

from gbif_platform.training.head import Network, classifier_name


def parameter_groups(network: Network, rate: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """What AdamW is given: the parameters that learn, the head first, then the backbone from its end to its start.

    Norms, biases and what timm's model itself lists have no weight decay. A layer learns at `layer_decay` of the rate
    of the one above it (timm's layers, BEiT). timm leaves that as `lr_scale`, which torch's schedules ignore: here
    it is within `lr`.

    Returns:
        Groups with params, lr, lr_scale and weight_decay.
    """
    depths = _depths(network.backbone)
    top = max(depths.values())
    undecayed = _undecayed(network.backbone)
    grouped: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in network.head.parameters():
        grouped.setdefault((top, parameter.ndim > 1), []).append(parameter)
    for name, parameter in network.backbone.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not any(fnmatch.fnmatch(name, pattern) for pattern in undecayed)
            grouped.setdefault((depths[name], decays), []).append(parameter)
    groups = []
    for (depth, decays), parameters in sorted(grouped.items(), key=lambda item: item[0], reverse=True):
        scale = layer_decay ** (top - depth)
        groups.append(
            {
                "params": parameters,
                "lr": rate * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay if decays else 0.0,
            }
        )
    return groups


def _depths(backbone: Any) -> dict[str, int]:
    """The layer of each parameter, 0 = first. The head's is there under timm's name for it: it is the last."""
    head = f"{classifier_name(backbone)}.weight"
    if not hasattr(backbone, "group_matcher"):
        depths = auto_group_layers(backbone)
        return {**depths, head: max(depths.values()) + 1}
    names = [(name, None) for name in [*dict(backbone.named_parameters()), head]]
    return group_with_matcher(names, backbone.group_matcher(coarse=False), reverse=True)


def _undecayed(backbone: Any) -> set[str]:
    return set(backbone.no_weight_decay()) if hasattr(backbone, "no_weight_decay") else set()


def rate_factor(step: int, warmup: int, total: int) -> float:
    """Share of the peak rate at `step` of `total`: up linearly over `warmup` steps, down as a half cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move `average`, a copy of `network`, towards it after optimiser step `step`, counted from 0.

    Its share grows from 1/10 to `decay` as TensorFlow's `num_updates` makes it, so that short trainings
    do not keep their random start. BatchNorm's statistics are averaged too; counters are copied.
    """
    new = 1 - min(decay, (1 + step) / (10 + step))
    averaged, current = [], []
    for old, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            averaged.append(old)
            current.append(now)
        else:
            old.copy_(now)
    torch._foreach_lerp_(averaged, current, new)


def mixer(mixup: float, cutmix: float) -> v2.Transform | None:
    """Mixup, CutMix, or either by even chance; None where both alphas are 0.

    It maps images, float (N, 3, H, W), and targets, float (N, C); all its chance is torch's global generator.
    """
    ways: list[Any] = []
    if mixup > 0:
        ways.append(v2.MixUp(alpha=mixup))
    if cutmix > 0:
        ways.append(v2.CutMix(alpha=cutmix))
    return v2.RandomChoice(ways) if ways else None
