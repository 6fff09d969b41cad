import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.calibration import calibration_errors, fit_temperature, reliability
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
