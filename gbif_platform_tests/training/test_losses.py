from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from gbif_platform.training.config import ModelSpec
from gbif_platform.training.losses import Loss, log_loss
from gbif_platform.training.priors import answer_adjustment

COUNTS = np.array([500, 40, 3, 0])
LABELS = torch.tensor([0, 2, 1, 1, 0])
SEVERAL = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]).float()
LOSSES = ["cross_entropy", "class_balanced", "balanced_softmax", "logit_adjusted", "focal"]


def logits(scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


def loss(counts: np.ndarray = COUNTS, **settings: Any) -> Loss:
    return Loss(ModelSpec(**settings), counts)


def value(chosen: Loss, target: torch.Tensor | None = None) -> torch.Tensor:
    return chosen(logits(), chosen.targets(LABELS, target))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    expected = functional.cross_entropy(logits(), LABELS, label_smoothing=smoothing)
    assert torch.allclose(value(loss(label_smoothing=smoothing)), expected)


def test_balanced_softmax_is_logit_adjustment_of_strength_one() -> None:
    prior = torch.tensor(np.log(np.maximum(COUNTS, 1))).float()
    expected = functional.cross_entropy(logits() + prior, LABELS)
    assert torch.allclose(value(loss(loss="balanced_softmax")), expected)
    assert torch.allclose(value(loss(loss="logit_adjusted", tau=1.0)), expected)
    half = functional.cross_entropy(logits() + 0.5 * prior, LABELS)
    assert torch.allclose(value(loss(loss="logit_adjusted", tau=0.5)), half)


def test_class_balanced_weighs_by_the_effective_number() -> None:
    beta = 0.99
    effective = [(1 - beta**count) / (1 - beta) for count in (500, 40, 3, 1)]
    weight = torch.tensor([1 / number for number in effective])
    weight = weight / weight.sum() * 4
    expected = (weight[LABELS] * functional.cross_entropy(logits(), LABELS, reduction="none")).mean()
    assert torch.allclose(value(loss(loss="class_balanced", beta=beta)), expected)


def test_focal_without_focus_is_cross_entropy() -> None:
    assert torch.allclose(value(loss(loss="focal", gamma=0.0)), value(loss()))
    probability = logits().softmax(1).gather(1, LABELS[:, None])[:, 0]
    expected = ((1 - probability) ** 2 * -probability.log()).mean()
    assert torch.allclose(value(loss(loss="focal", gamma=2.0)), expected)


def test_several_labels_are_judged_each_for_itself() -> None:
    expected = functional.binary_cross_entropy_with_logits(logits(), SEVERAL, reduction="sum") / 5
    assert torch.allclose(value(loss(output="sigmoid"), SEVERAL), expected)
    focal = sigmoid_focal_loss(logits(), SEVERAL, alpha=-1, gamma=2.0, reduction="sum") / 5
    assert torch.allclose(value(loss(output="sigmoid", loss="focal"), SEVERAL), focal, rtol=1e-4)
    smoothed = SEVERAL * 0.9 + 0.05
    expected = functional.binary_cross_entropy_with_logits(logits(), smoothed, reduction="sum") / 5
    assert torch.allclose(value(loss(output="sigmoid", label_smoothing=0.1), SEVERAL), expected)


def test_one_label_does_for_a_sigmoid_too() -> None:
    chosen = loss(output="sigmoid")
    assert torch.equal(chosen.targets(LABELS), functional.one_hot(LABELS, 4).float())


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_mixed_targets_and_stays_finite(name: str, output: str) -> None:
    chosen = loss(loss=name, output=output, label_smoothing=0.1)
    target = chosen.targets(LABELS, SEVERAL)
    mixed = 0.3 * target + 0.7 * target.roll(1, 0)
    for scale in (1.0, 200.0):  # certain and wrong
        scores = logits(scale).requires_grad_()
        result = chosen(scores, mixed)
        result.backward()
        assert torch.isfinite(result)
        assert scores.grad is not None
        assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", ["cross_entropy", "class_balanced", "balanced_softmax", "logit_adjusted"])
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_the_prior_that_the_loss_takes_out_is_put_back_by_the_adjustment(name: str, output: str, tau: float) -> None:
    """A model that knows nothing of the pictures: its best bare logits, adjusted to tau 0, give the frequencies."""
    spec = ModelSpec(loss=name, output=output, tau=tau, beta=0.9)
    counts = np.array([12, 6, 2])
    chosen = Loss(spec, counts)
    target = chosen.targets(torch.tensor(np.repeat([0, 1, 2], counts)))
    bare = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([bare], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        result = chosen(bare.expand(20, 3), target)
        result.backward()
        return result

    optimizer.step(closure)
    adjusted = bare.detach() + torch.tensor(answer_adjustment(counts.tolist(), vars(spec), 0.0)).float()
    answers = adjusted.sigmoid() if output == "sigmoid" else adjusted.softmax(0)
    assert answers.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=2e-3)


@given(st.lists(st.integers(0, 10**7), min_size=2, max_size=20), st.sampled_from(LOSSES))
def test_any_counts_make_finite_weights(counts: list[int], name: str) -> None:
    chosen = loss(np.array(counts), loss=name, beta=0.9999)
    assert torch.isfinite(chosen.weight).all()
    assert torch.isfinite(chosen.shift).all()
    assert chosen.weight.mean().item() == pytest.approx(1, rel=1e-4)


def test_the_log_loss_of_validation_is_plain() -> None:
    hard = functional.one_hot(LABELS, 4).float()
    assert torch.allclose(log_loss(logits(), hard, sigmoid=False), functional.cross_entropy(logits(), LABELS))
    assert torch.allclose(log_loss(logits(), SEVERAL, sigmoid=True), value(loss(output="sigmoid"), SEVERAL))
