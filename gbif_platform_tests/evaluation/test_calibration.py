import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torchmetrics.functional.classification import multiclass_calibration_error

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.calibration import (
    calibration_errors,
    fit_sigmoid_temperature,
    fit_temperature,
    reliability,
)
from gbif_platform.evaluation.multilabel import multilabel_values
from gbif_platform.evaluation.scores import prior_adjustment, score
from gbif_platform_tests.evaluation.made import half


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 1000))
def test_agreement_with_torchmetrics(rows: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    share = random.dirichlet(np.ones(classes), rows)
    label = random.integers(0, classes, rows)
    expected, largest = calibration_errors(reliability(share.max(axis=1), share.argmax(axis=1) == label))
    for norm, ours in (("l1", expected), ("max", largest)):
        theirs = multiclass_calibration_error(
            torch.from_numpy(share), torch.from_numpy(label), num_classes=classes, n_bins=15, norm=norm
        )
        assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_certainty_falls_into_the_last_bin_and_empty_bins_say_nothing() -> None:
    table = reliability(np.array([1.0, 0.99]), np.array([True, False])).to_pylist()
    assert (table[14]["rows"], table[14]["accuracy"]) == (2, 0.5)
    assert table[0] == {"low": 0, "high": pytest.approx(1 / 15), "rows": 0, "confidence": None, "accuracy": None}


def drawn(rows: int, temperature: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels were drawn at this temperature."""
    random = np.random.default_rng(seed)
    logits = half(random.normal(0, 2, (rows, 10)))
    noise = random.gumbel(size=logits.shape)
    return (logits / temperature + noise).argmax(axis=1), logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    label, logits = drawn(4000, temperature)
    assert fit_temperature(Answers.of_array(logits), label) == pytest.approx(temperature, rel=0.08)


def test_the_fitted_temperature_calibrates_a_model_that_is_too_sure() -> None:
    label, logits = drawn(4000, 3.0)
    answers = Answers.of_array(logits)

    def error(temperature: float) -> float:
        scores = score(answers, label, temperature=temperature)
        return calibration_errors(reliability(scores.top_probability[:, 0], scores.right))[0]

    assert error(fit_temperature(answers, label)) < 0.2 * error(1.0)


def test_few_or_perfect_rows_give_a_temperature_near_1() -> None:
    logits = half(np.array([[5.0, 0.0], [0.0, 5.0]]))
    right, wrong = np.array([0, 1]), np.array([1, 0])
    assert fit_temperature(Answers.of_array(logits), np.array([-1, -1])) == 1
    assert 0.5 < fit_temperature(Answers.of_array(logits), right) <= 1
    assert 1 < fit_temperature(Answers.of_array(logits), wrong) <= 20
    many = Answers.of_array(np.tile(logits, (500, 1)))
    assert 0.05 <= fit_temperature(many, np.tile(right, 500)) < 1


def test_one_class_has_no_temperature_to_find() -> None:
    assert fit_temperature(Answers.of_array(np.zeros((5, 1))), np.zeros(5, int)) == pytest.approx(1, abs=0.01)


def test_large_sets_are_drawn_from_and_the_prior_counts() -> None:
    label, logits = drawn(3000, 2.0)
    answers = Answers.of_array(logits)
    some = [fit_temperature(answers, label, most_rows=1000, seed=seed) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert some[0] == pytest.approx(2.0, rel=0.2)
    adjustment = prior_adjustment(np.arange(10) * 100, 1.0)
    assert fit_temperature(answers, label, adjustment=adjustment) != pytest.approx(2.0, rel=0.01)


def true_of(logits: np.ndarray, temperature: float, adjustment: np.ndarray | float = 0.0) -> np.ndarray:
    """Labels that are each true as often as its sigmoid says at this temperature."""
    return np.random.default_rng(2).random(logits.shape) < expit(logits / temperature + adjustment)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sigmoid_logits_get_the_temperature_that_labels_were_drawn_at(temperature: float) -> None:
    """Also those that are calibrated as they are, although nearly all labels of a row are false."""
    logits = np.random.default_rng(1).normal(-3, 2, (2000, 12)).astype(np.float16).astype(np.float64)
    target, answers = true_of(logits, temperature), Answers.of_array(logits)
    found = fit_sigmoid_temperature(answers, target)
    assert found == pytest.approx(temperature, rel=0.05)
    share = expit(logits / found).mean()
    assert share == pytest.approx(target.mean(), rel=0.05), "as many labels as it promises"
    served, raw = (multilabel_values(answers, target, temperature=t).binary_log_loss for t in (found, 1.0))
    assert served <= raw + 1e-6


def test_an_adjustment_is_added_before_the_sigmoid() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (2000, 4)).astype(np.float16).astype(np.float64)
    adjustment = np.array([-4.0, -2, -1, 0])
    target, answers = true_of(logits, 2.0, adjustment), Answers.of_array(logits)
    assert fit_sigmoid_temperature(answers, target, adjustment=adjustment) == pytest.approx(2.0, rel=0.08)
    found = multilabel_values(answers, target, temperature=2.0, adjustment=adjustment).binary_log_loss
    share = expit(logits / 2 + adjustment)
    assert found == pytest.approx(-np.log(np.where(target, share, 1 - share)).mean())


def test_few_sigmoid_rows_give_a_temperature_near_1_and_many_are_drawn_from() -> None:
    logits = np.random.default_rng(1).normal(-3, 2, (3000, 3)).astype(np.float16).astype(np.float64)
    target = true_of(logits, 2.0)
    assert fit_sigmoid_temperature(Answers.of_array(logits[:0]), target[:0]) == 1
    assert 0.4 < fit_sigmoid_temperature(Answers.of_array(np.full((1, 3), 4.0)), np.ones((1, 3), bool)) <= 1
    answers = Answers.of_array(logits)
    some = [fit_sigmoid_temperature(answers, target, most_rows=1000, seed=seed) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert some[0] == pytest.approx(2.0, rel=0.2)
