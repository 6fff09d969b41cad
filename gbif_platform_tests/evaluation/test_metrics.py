import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.metrics import (
    accuracy_values,
    brier,
    buckets,
    confidence_values,
    confusion_counts,
    f1_macro,
    lca_severity,
    log_loss,
    macro_accuracy,
    per_class,
    probability_values,
    top_k_accuracy,
)
from gbif_platform_tests.evaluation.made import cases, half, log_probabilities, scores_of


def names(classes: int) -> list[str]:
    return [f"species {i}" for i in range(classes)]


@settings(max_examples=80, deadline=None)
@given(cases())
def test_agreement_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, logits = case
    scores = scores_of(label, logits)
    classes = list(range(logits.shape[1]))
    share = np.exp(log_probabilities(logits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
            label, scores.predicted, labels=classes, zero_division=np.nan
        )
        balanced = sklearn_metrics.balanced_accuracy_score(label, scores.predicted)
        macro_f1 = sklearn_metrics.f1_score(label, scores.predicted, labels=np.unique(label), average="macro")
    assert top_k_accuracy(scores, 1) == pytest.approx(sklearn_metrics.accuracy_score(label, scores.predicted))
    assert macro_accuracy(scores) == pytest.approx(balanced)
    assert f1_macro(scores) == pytest.approx(macro_f1)
    if len(classes) > 1:
        assert log_loss(scores) == pytest.approx(sklearn_metrics.log_loss(label, share, labels=classes), abs=1e-6)
    table = per_class(scores, names(len(classes)), np.arange(len(classes)))
    assert table["support"].to_pylist() == support.tolist()
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        ours = np.array([np.nan if value is None else value for value in table[name].to_pylist()])
        np.testing.assert_allclose(ours, expected, err_msg=name)
    dense = np.zeros((len(classes), len(classes)), dtype=int)
    true, predicted, rows = confusion_counts(scores).T
    dense[true, predicted] = rows
    np.testing.assert_array_equal(dense, sklearn_metrics.confusion_matrix(label, scores.predicted, labels=classes))


def test_agreement_with_torchmetrics_and_scikit_learn_on_many_rows() -> None:
    random = np.random.default_rng(5)
    logits = half(random.normal(0, 2, (800, 20)))
    label = np.concatenate([np.arange(20), random.integers(0, 20, 780)])
    scores, share = scores_of(label, logits), np.exp(log_probabilities(logits))
    truth, answers = torch.from_numpy(label), torch.from_numpy(logits)
    for k in (1, 5):
        for average, ours in (("micro", top_k_accuracy(scores, k)), ("macro", macro_accuracy(scores, k))):
            theirs = multiclass_accuracy(answers, truth, num_classes=20, top_k=k, average=average)
            assert ours == pytest.approx(float(theirs), abs=1e-6)
    expected = sklearn_metrics.top_k_accuracy_score(label, share, k=5, labels=range(20))
    assert top_k_accuracy(scores, 5) == pytest.approx(expected)
    assert brier(scores) == pytest.approx(
        sklearn_metrics.brier_score_loss(label, share, labels=range(20), scale_by_half=False), abs=1e-6
    )
    dense = multiclass_confusion_matrix(answers, truth, num_classes=20).numpy()
    true, predicted, rows = confusion_counts(scores).T
    np.testing.assert_array_equal(dense[true, predicted], rows)
    assert rows.sum() == dense.sum()


@settings(max_examples=50, deadline=None)
@given(cases())
def test_numbers_stay_in_their_range(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, logits = case
    scores = scores_of(label, logits)
    values = accuracy_values(scores, np.arange(logits.shape[1]))
    values |= probability_values(scores) | confidence_values(scores)
    for name, value in values.items():
        assert value >= 0 or np.isnan(value), name
        assert value <= 1 or np.isnan(value) or name in ("log_loss", "brier"), name
    assert values["top1"] <= values["top5"]
    assert values["macro_accuracy"] <= values["macro_top5"]
    assert values["brier"] <= 2
    assert values["ece"] <= values["mce"] + 1e-12
    assert values["coverage_at_99"] <= values["coverage_at_95"] <= values["coverage_at_90"]


def test_macro_leaves_out_labels_without_pictures() -> None:
    """A label that is only predicted counts for nothing here; torchmetrics would count it as zero."""
    scores = scores_of(np.array([0, 0, 1, 1]), np.eye(3)[[0, 0, 1, 2]])
    assert macro_accuracy(scores) == 0.75
    row = per_class(scores, names(3), np.array([1, 1, 1])).to_pylist()
    assert row[2]["recall"] is None
    assert row[2]["precision"] == 0


def test_top_5_needs_no_five_labels() -> None:
    scores = scores_of(np.array([2, 0]), np.eye(3)[[0, 1]])
    assert top_k_accuracy(scores, 5) == 1


def test_most_confused_with_names_the_first_of_equals() -> None:
    rows = per_class(scores_of(np.array([0, 0, 0, 1]), np.eye(3)[[2, 1, 0, 1]]), names(3), np.ones(3)).to_pylist()
    assert (rows[0]["most_confused_with"], rows[0]["confused_rows"]) == ("species 1", 1)
    assert (rows[1]["most_confused_with"], rows[1]["confused_rows"]) == (None, 0)


def test_buckets_are_by_training_pictures() -> None:
    assert buckets(np.array([101, 100, 20, 19, 0])).tolist() == [0, 1, 1, 2, 2]
    label = np.array([0, 1, 2, 2])
    values = accuracy_values(scores_of(label, np.eye(4)[[0, 0, 2, 3]]), np.array([500, 50, 5, 5]))
    assert (values["macro_many"], values["macro_medium"], values["macro_few"]) == (1, 0, 0.5)
    assert np.isnan(accuracy_values(scores_of(label, np.eye(4)[label]), np.full(4, 5))["macro_many"])


def test_severity_counts_mistakes_alone_and_distance_all_rows() -> None:
    hierarchy = Hierarchy.from_names({"genus": ["a", "a", "b"]}, 3)
    scores = scores_of(np.array([0, 0, 0, 0]), np.eye(3)[[0, 0, 1, 2]], hierarchy)
    assert lca_severity(scores) == (1.5, 0.75)
    right = scores_of(np.array([0]), np.eye(3)[[0]], hierarchy)
    assert np.isnan(lca_severity(right)[0])


def test_a_single_class_is_always_right() -> None:
    scores = scores_of(np.zeros(5, int), np.zeros((5, 1)))
    values = accuracy_values(scores, np.array([5])) | probability_values(scores)
    assert (values["top1"], values["macro_accuracy"], values["log_loss"], values["ece"]) == (1, 1, 0, 0)


def test_ties_go_to_the_lower_index() -> None:
    scores = scores_of(np.array([0, 1, 2]), np.zeros((3, 3)))
    assert scores.predicted.tolist() == [0, 0, 0]
    assert top_k_accuracy(scores, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, 2) == pytest.approx(2 / 3)
