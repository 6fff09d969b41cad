import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc

from gbif_platform.evaluation.abstention import (
    ACCURACIES,
    Abstention,
    aurc,
    auroc,
    coverage_at,
    coverage_table,
    fpr_at,
    open_set,
)
from gbif_platform.evaluation.bootstrap import value_of
from gbif_platform_tests.evaluation.made import noisy, scores_of


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.integers(1, 50))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    return random.integers(0, draw(st.sampled_from([2, 10, 10**6])), rows) / 10**6, random.random(rows) < 0.7


def test_coverage_is_the_largest_share_that_is_right_enough() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, False, True, True])
    assert coverage_at(confidence, right, 0.99) == 0.4
    assert coverage_at(confidence, right, 0.8) == 1.0, "4 of 5 right, later ones make up for an earlier mistake"
    assert coverage_at(confidence, ~right, 0.9) == 0.0
    assert coverage_at(np.full(10, 0.5), np.arange(10) > 0, 0.9) == 1.0


def test_equals_are_answered_or_left_together() -> None:
    right = np.array([True, False])
    assert coverage_at(np.array([0.5, 0.5]), right, 0.95) == 0.0
    assert aurc(np.array([0.5, 0.5]), right) == aurc(np.array([0.5, 0.5]), right[::-1]) == 0.5


def test_aurc_is_the_mean_risk_over_all_coverages() -> None:
    right = np.array([True, False, True])
    assert aurc(np.array([0.9, 0.8, 0.7]), right) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


@settings(max_examples=60, deadline=None)
@given(answers(), st.integers(0, 100))
def test_curve_order_and_statistic_agree(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    confidence, right = case
    order = np.random.default_rng(seed).permutation(len(right))
    for accuracy in ACCURACIES:
        share = coverage_at(confidence, right, accuracy)
        assert share == coverage_at(confidence[order], right[order], accuracy)
        points = coverage_table(confidence, right).to_pydict()
        enough = [c for c, a in zip(points["coverage"], points["accuracy"], strict=True) if a >= accuracy - 1e-9]
        assert max(enough, default=0.0) == pytest.approx(share)
    assert points["coverage"][-1] == 1
    assert points["accuracy"][-1] == pytest.approx(right.mean())
    assert aurc(confidence, right) == pytest.approx(aurc(confidence[order], right[order]))
    group = np.arange(len(right))
    found = value_of(Abstention.of(confidence, right, group), len(right))
    assert found[1:] == pytest.approx([coverage_at(confidence, right, accuracy) for accuracy in ACCURACIES], abs=1e-5)


def test_the_binned_area_is_the_exact_one_on_many_rows() -> None:
    random = np.random.default_rng(1)
    confidence = random.random(5000)
    right = random.random(5000) < confidence
    found = value_of(Abstention.of(confidence, right, np.arange(5000)), 5000)
    assert found[0] == pytest.approx(aurc(confidence, right), abs=2e-3)
    assert found[1] == pytest.approx(coverage_at(confidence, right, 0.9), abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 1000), st.integers(0, 1000))
def test_auroc_and_fpr_agree_with_scikit_learn_and_torchmetrics(known: int, other: int, steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    positive, negative = random.integers(0, steps, known) / steps, random.integers(0, steps, other) / steps
    values, truth = np.concatenate([positive, negative]), np.arange(known + other) < known
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(truth, values))
    # torchmetrics counts in float32.
    assert auroc(positive, negative) == pytest.approx(
        float(binary_auroc(torch.from_numpy(values), torch.from_numpy(truth).int())), abs=1e-5
    )
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    assert fpr_at(positive, negative, 0.95) == pytest.approx(false[true >= 0.95 - 1e-9].min())


def test_strangers_are_told_by_an_unsure_answer() -> None:
    label, logits = noisy(200, 1, accuracy=1.0)
    known = scores_of(label, 4 * logits)
    strangers = scores_of(np.full(100, -1), np.random.default_rng(2).normal(0, 0.3, (100, 4)))
    found = open_set(known, strangers)
    assert found is not None
    assert found["auroc"] > 0.99
    assert found["fpr95"] < 0.02
    assert found["auroc_margin"] > 0.99
    assert (found["rows"], found["known_rows"]) == (100, 200)
    alike = open_set(known, known)
    assert alike is not None
    assert alike["auroc"] == pytest.approx(0.5)
    assert open_set(known, strangers.take(np.zeros(0, int))) is None
