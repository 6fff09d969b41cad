import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import multilabel_average_precision

from gbif_platform.evaluation import multilabel
from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.multilabel import average_precision, binary_log_loss, multilabel_values


def made(rows: int = 200, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    target = random.random((rows, classes)) < np.linspace(0.05, 0.6, classes)
    return (random.normal(0, 1, (rows, classes)) + 4 * target - 2).astype(np.float16), target


def test_agreement_with_scikit_learn_and_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multilabel, "_COLUMN_BYTES", 2 * 2 * 200)
    logits, target = made()
    found = multilabel_values(Answers.of_array(logits), target, prior=target.mean(axis=0))
    wide = logits.astype(np.float64)
    assert found.macro_average_precision == pytest.approx(sklearn_metrics.average_precision_score(target, wide))
    theirs = multilabel_average_precision(torch.from_numpy(wide), torch.from_numpy(target).int(), num_labels=6)
    assert found.macro_average_precision == pytest.approx(float(theirs), abs=1e-5)
    columns = [sklearn_metrics.log_loss(target[:, c], expit(wide[:, c])) for c in range(6)]
    assert found.binary_log_loss == pytest.approx(np.mean(columns))
    assert found.binary_log_loss == pytest.approx(binary_log_loss(target, expit(wide)))
    assert found.baseline_log_loss is not None
    assert found.baseline_log_loss > found.binary_log_loss


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 1000))
def test_average_precision_with_ties_agrees_with_scikit_learn(rows: int, steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    target, score = random.random(rows) < 0.4, random.integers(0, steps, rows).astype(np.float16)
    if target.any():
        expected = sklearn_metrics.average_precision_score(target, score.astype(float))
        assert average_precision(target, score) == pytest.approx(expected)
    else:
        assert np.isnan(average_precision(target, score))


def test_a_label_that_no_row_has_is_left_out_of_the_mean() -> None:
    logits, target = made()
    target[:, 0] = False
    found = multilabel_values(Answers.of_array(logits), target)
    assert np.isnan(found.average_precision[0])
    assert found.macro_average_precision == pytest.approx(np.nanmean(found.average_precision))


def test_the_hakuna_score_of_a_constant_answer_is_what_the_formula_says() -> None:
    """54 columns, 71 % blank: the true frequencies as the answer to all score at most .0445."""
    share = 1 / np.arange(1, 54)
    share = np.concatenate([0.29 * share / share.sum(), [0.71]])
    random = np.random.default_rng(1)
    target = np.zeros((20_000, 54), bool)
    target[np.arange(20_000), random.choice(54, 20_000, p=share)] = True
    constant = binary_log_loss(target, share[None])
    assert 0.035 < constant < 0.0445
    assert constant == pytest.approx(binary_log_loss(target, np.tile(share, (20_000, 1))))
    assert binary_log_loss(target, np.full((1, 54), 1 / 54)) == pytest.approx(0.092, abs=0.002)
    assert binary_log_loss(target, target.astype(float)) == pytest.approx(0, abs=1e-12)


def test_a_wrong_certainty_costs_the_clip() -> None:
    assert binary_log_loss(np.array([[True]]), np.array([[0.0]])) == pytest.approx(-np.log(1e-15))
    found = multilabel_values(Answers.of_array(np.array([[-60000.0]])), np.array([[True]]))
    assert found.binary_log_loss == pytest.approx(-np.log(1e-15))


def test_targets_that_do_not_fit_are_told() -> None:
    logits, target = made()
    with pytest.raises(AnswersError, match="targets"):
        multilabel_values(Answers.of_array(logits), target[:, :5])
    with pytest.raises(AnswersError, match="targets"):
        multilabel_values(Answers.of_array(logits[:0]), target[:0])
