"""A learning rate by a range test (Smith 2017): the rate grows from step to step, the loss tells how far it may."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from gbif_platform.errors import PlatformError
from gbif_platform.training.data import Batch
from gbif_platform.training.module import Classifier
from gbif_platform.training.optimisation import parameter_groups

LOWEST, HIGHEST = 1e-5, 1.0
WINDOW = 10  # steps whose losses are averaged: single batches are noisy
DIVERGED = 3.0  # times the lowest average: the rate is too high


class LearningRateError(PlatformError):
    """No learning rate was found."""


def find_learning_rate(
    module: Classifier, batches: Iterable[Batch], *, device: torch.device | str = "cpu", steps: int = 100
) -> float:
    """The rate at which the loss falls fastest per factor of the rate, for AdamW as `module` uses it.

    The module, its weights and torch's random numbers are left as they were; the answer is a function of its weights,
    spec and batches (on a CPU exactly).

    Args:
        module: at its start weights.
        batches: training batches; gone through again where there are fewer than `steps`.
        device: to test on.
        steps: at most; the test ends early where the loss has risen to three times its lowest.

    Raises:
        LearningRateError: the loss fell at no rate, or there are no batches.
    """
    trial = copy.deepcopy(module).to(device)
    trial.train()
    growth = (HIGHEST / LOWEST) ** (1 / max(1, steps - 1))
    optimizer = torch.optim.AdamW(
        parameter_groups(trial.network, LOWEST, module.spec.weight_decay, module.spec.layer_decay)
    )
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        for step, batch in enumerate(itertools.islice(_endless(batches), steps)):
            losses.append(_step(trial, optimizer, batch.to(torch.device(device)), step))
            for group in optimizer.param_groups:
                group["lr"] *= growth
            if _diverged(losses):
                break
    rate = steepest([LOWEST * growth**step for step in range(len(losses))], losses)
    if rate is None:
        raise LearningRateError(
            f"learning_rate: find saw the loss fall at no rate from {LOWEST:g} to {HIGHEST:g}",
            "give learning_rate a number, e.g. 0.001",
        )
    return rate


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Of rates that grow by a constant factor, the one around which the loss falls most; None = nowhere."""
    averages = _averages(list(itertools.takewhile(math.isfinite, losses)))
    if len(averages) <= WINDOW:
        return None
    falls = averages[:-WINDOW] - averages[WINDOW:]  # the WINDOW steps before a step against those from it on
    best = int(falls.argmax())
    return float(rates[best + WINDOW]) if falls[best] > 0 else None


def _averages(losses: Sequence[float]) -> np.ndarray:
    """Of each WINDOW losses on end."""
    if len(losses) < WINDOW:
        return np.zeros(0)
    return np.convolve(losses, np.full(WINDOW, 1 / WINDOW), mode="valid")


def _diverged(losses: Sequence[float]) -> bool:
    if not math.isfinite(losses[-1]):
        return True
    averages = _averages(losses)
    return len(averages) > 0 and averages[-1] > DIVERGED * averages.min()


def _step(trial: Classifier, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    half = batch.image.is_cuda and trial.spec.precision != "32-true"  # as in training: memory may bear no more
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        loss = trial.training_step(batch, step)
    optimizer.zero_grad()
    loss.backward()
    if trial.spec.gradient_clip_val is not None:
        torch.nn.utils.clip_grad_norm_(trial.network.parameters(), trial.spec.gradient_clip_val)
    optimizer.step()
    return float(loss.detach())


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    empty = False
    while not empty:
        empty = True
        for batch in batches:
            empty = False
            yield batch
