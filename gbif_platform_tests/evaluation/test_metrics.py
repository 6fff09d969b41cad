import time
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from gbif_platform.evaluation.metrics import (
    Predictions,
    PredictionsError,
    baseline,
    bootstrap,
    confusion_counts,
    evaluate,
    log_loss,
    macro_accuracy,
    per_class,
    top_k_accuracy,
)


def from_scores(label: np.ndarray, scores: np.ndarray, *, group: Any = None, counts: Any = None) -> Predictions:
    """Predictions as `training.predict` writes them, from scores (N, C) that sum to one."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    table = pa.table(
        {
            "label": pa.array(label, pa.int32()),
            "top_labels": pa.array(list(top.astype(np.int32))),
            "label_log_probability": np.log(scores[np.arange(len(label)), label]),
        }
    )
    classes = scores.shape[1]
    counts = np.arange(classes, 0, -1) if counts is None else counts
    return Predictions.from_table(table, [f"species {i}" for i in range(classes)], counts, group)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few rows and classes, so that empty classes, single classes and ties are common."""
    rows, classes = draw(st.integers(1, 30)), draw(st.integers(1, 8))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    label = random.integers(0, draw(st.integers(1, classes)), rows)
    scores = random.integers(1, draw(st.sampled_from([2, 4, 100])), (rows, classes)).astype(float)
    return label, scores / scores.sum(axis=1, keepdims=True)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_agreement_with_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, scores = case
    predictions = from_scores(label, scores)
    classes = list(range(scores.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
            label, predictions.predicted, labels=classes, zero_division=np.nan
        )
        balanced = sklearn_metrics.balanced_accuracy_score(label, predictions.predicted)
    assert top_k_accuracy(predictions, 1) == pytest.approx(sklearn_metrics.accuracy_score(label, predictions.predicted))
    assert macro_accuracy(predictions) == pytest.approx(balanced)
    if len(classes) > 1:
        assert log_loss(predictions) == pytest.approx(sklearn_metrics.log_loss(label, scores, labels=classes))
    table = per_class(predictions)
    assert table["support"].to_pylist() == support.tolist()
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        ours = np.array([np.nan if value is None else value for value in table[name].to_pylist()])
        np.testing.assert_allclose(ours, expected, err_msg=name)
    dense = np.zeros((len(classes), len(classes)), dtype=int)
    true, predicted, rows = confusion_counts(predictions).T
    dense[true, predicted] = rows
    np.testing.assert_array_equal(dense, sklearn_metrics.confusion_matrix(label, predictions.predicted, labels=classes))


def test_top_5_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(5)
    scores = random.dirichlet(np.ones(20), 500)
    label = random.integers(0, 20, 500)
    expected = sklearn_metrics.top_k_accuracy_score(label, scores, k=5, labels=range(20))
    assert top_k_accuracy(from_scores(label, scores), 5) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 100))
def test_the_order_of_the_rows_does_not_matter(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    label, scores = case
    group = np.array([f"occurrence {i % 7}" for i in range(len(label))])
    order = np.random.default_rng(seed).permutation(len(label))
    ours = evaluate(from_scores(label, scores, group=group), resamples=20)
    shuffled = evaluate(from_scores(label[order], scores[order], group=group[order]), resamples=20)
    assert shuffled.classes == ours.classes
    for name, value in ours.summary.items():
        assert shuffled.summary[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


@settings(max_examples=30, deadline=None)
@given(cases())
def test_numbers_stay_in_their_range(case: tuple[np.ndarray, np.ndarray]) -> None:
    summary = evaluate(from_scores(*case), resamples=50).summary
    for name in ("top1", "top5", "macro_accuracy", "baseline_top1", "baseline_top5", "baseline_macro_accuracy"):
        assert 0 <= summary[name] <= 1
    assert summary["top1"] <= summary["top5"]
    assert summary["baseline_top1"] <= summary["baseline_top5"]
    for name in ("top1", "macro_accuracy"):
        assert not summary[f"{name}_low"] > summary[f"{name}_high"]


def test_macro_leaves_out_labels_without_pictures() -> None:
    """A label that is only predicted counts for nothing here; torchmetrics would count it as zero."""
    label = np.array([0, 0, 1, 1])
    scores = np.full((4, 3), 0.1)
    scores[[0, 1, 2, 3], [0, 0, 1, 2]] = 0.8
    predictions = from_scores(label, scores)
    assert macro_accuracy(predictions) == 0.75
    row = per_class(predictions).to_pylist()
    assert row[2]["recall"] is None
    assert row[2]["precision"] == 0
    assert evaluate(predictions).summary["labels_evaluated"] == 2


def test_most_confused_with_names_the_first_of_equals() -> None:
    label = np.array([0, 0, 0, 1])
    scores = np.full((4, 3), 0.1)
    scores[[0, 1, 2, 3], [2, 1, 0, 1]] = 0.8
    rows = per_class(from_scores(label, scores)).to_pylist()
    assert (rows[0]["most_confused_with"], rows[0]["confused_rows"]) == ("species 1", 1)
    assert (rows[1]["most_confused_with"], rows[1]["confused_rows"]) == (None, 0)


def test_the_baseline_is_the_trainings_most_frequent_label() -> None:
    label = np.array([0, 1, 1, 1, 2, 2, 3, 4, 5, 6])
    scores = np.full((10, 7), 1 / 7)
    scored = baseline(from_scores(label, scores, counts=[1, 2, 50, 50, 3, 4, 5]))
    assert scored["top1"] == 0.2, "label 2, the first of the two with 50"
    assert scored["top5"] == pytest.approx(0.6), "labels 2, 3, 6, 5, 4"
    assert scored["macro_accuracy"] == pytest.approx(1 / 7)
    frequency = (np.array([1, 2, 50, 50, 3, 4, 5]) + 1) / 122
    expected = sklearn_metrics.log_loss(label, np.tile(frequency, (10, 1)), labels=range(7))
    assert scored["log_loss"] == pytest.approx(expected)


def noisy(rows: int, seed: int, accuracy: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    label = random.integers(0, 4, rows)
    answer = np.where(random.random(rows) < accuracy, label, random.integers(0, 4, rows))
    scores = np.full((rows, 4), 0.1)
    scores[np.arange(rows), answer] = 0.7
    return label, scores


def test_the_interval_has_the_width_of_a_binomial() -> None:
    predictions = from_scores(*noisy(1000, 1))
    share = top_k_accuracy(predictions, 1)
    interval = bootstrap(predictions, resamples=2000)["top1"]
    half = 1.96 * np.sqrt(share * (1 - share) / 1000)
    assert interval.low == pytest.approx(share - half, abs=0.005)
    assert interval.high == pytest.approx(share + half, abs=0.005)


def test_pictures_of_one_occurrence_widen_the_interval() -> None:
    """Ten copies of each picture say nothing new: grouped, the interval stays; as single rows it would shrink."""
    label, scores = noisy(100, 2)
    copies = [np.repeat(values, 10, axis=0) for values in (label, scores)]
    once = bootstrap(from_scores(label, scores))["top1"]
    grouped = bootstrap(from_scores(*copies, group=np.repeat(np.arange(100), 10)))["top1"]
    single = bootstrap(from_scores(*copies))["top1"]
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.15)
    assert single.high - single.low < 0.5 * (grouped.high - grouped.low)


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    predictions = from_scores(*noisy(50, 3))
    assert bootstrap(predictions, seed=4) == bootstrap(predictions, seed=4)
    assert bootstrap(predictions, seed=4) != bootstrap(predictions, seed=5)


def test_a_good_model_is_told_from_the_majority_class() -> None:
    assert evaluate(from_scores(*noisy(200, 1, accuracy=0.7))).beats_baseline
    label, _ = noisy(200, 1)
    assert not evaluate(from_scores(label, np.tile([0.4, 0.3, 0.2, 0.1], (200, 1)))).beats_baseline


def test_rows_for_the_lake() -> None:
    rows = evaluate(from_scores(*noisy(50, 1))).rows(
        dataset="toy", snapshot="s1", model="baseline", run_id="r1", subset="test"
    )
    assert {tuple(row) for row in rows} == {
        ("dataset", "snapshot", "model", "run_id", "subset", "slice", "metric", "value")
    }
    assert all(isinstance(row["value"], float) and np.isfinite(row["value"]) for row in rows)
    keys = [(row["slice"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {("all", "top1"), ("all", "baseline_macro_accuracy"), ("label=species 3", "recall")} <= set(keys)


def test_nothing_to_evaluate_and_foreign_labels_are_told() -> None:
    label, scores = noisy(4, 1)
    with pytest.raises(PredictionsError, match="no predictions"):
        from_scores(label[:0], scores[:0])
    table = pa.table({"label": [7], "top_labels": [[0]], "label_log_probability": [-1.0]})
    with pytest.raises(PredictionsError, match=r"outside 0\.\.1"):
        Predictions.from_table(table, ["a", "b"], [1, 1])


def test_a_hundred_thousand_predictions_of_a_thousand_labels_take_seconds() -> None:
    random = np.random.default_rng(1)
    label = (1000 * random.random(100_000) ** 3).astype(np.int64)
    answer = np.where(random.random(100_000) < 0.7, label, random.integers(0, 1000, 100_000))
    counts = np.bincount(label, minlength=1000)
    predictions = Predictions(
        label,
        answer[:, None],
        np.full(100_000, -1.0),
        random.integers(0, 60_000, 100_000),
        [str(i) for i in range(1000)],
        counts,
    )
    began = time.monotonic()
    evaluate(predictions)
    assert time.monotonic() - began < 10
