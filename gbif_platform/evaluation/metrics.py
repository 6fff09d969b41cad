"""Metrics of a model's scores: the numbers themselves, without intervals; `evaluate` puts them together.

Top-k counts a row right when its true label is among the k best predictions, ties by lower index. A macro figure is the
mean over the labels that have at least one row here (scikit-learn's balanced accuracy; torchmetrics counts
predicted-only labels as zero). Buckets are by training pictures: many > 100, medium 20–100, few < 20.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from gbif_platform.evaluation.abstention import ACCURACIES, aurc, coverage_at
from gbif_platform.evaluation.calibration import calibration_errors, reliability
from gbif_platform.evaluation.scores import Scores

MOST_FEW, MOST_MEDIUM = 19, 100
BUCKETS = ("many", "medium", "few")


def top_k_accuracy(scores: Scores, k: int) -> float:
    """Share of rows whose true label is among the k best."""
    return float((scores.position < k).mean())


def macro_accuracy(scores: Scores, k: int = 1, among: np.ndarray | None = None) -> float:
    """Mean top-k recall over the labels with support, of those in `among` (bool (C,)); NaN where there is none."""
    support = scores.support
    counted = support > 0 if among is None else (support > 0) & among
    right = np.bincount(scores.label[scores.position < k], minlength=len(support))
    return float((right[counted] / support[counted]).mean()) if counted.any() else float("nan")


def log_loss(scores: Scores) -> float:
    """Mean negative log-probability of the true label, in nats; probabilities under 1e-15 count as 1e-15."""
    return float(scores.loss.mean())


def brier(scores: Scores) -> float:
    """Mean of Σ (p − y)² over the labels, 0 to 2 (Brier 1950; half of it is also in use)."""
    return float(scores.brier.mean())


def f1_macro(scores: Scores) -> float:
    """Mean F1 over the labels with support."""
    right, answered, support = _class_counts(scores)
    counted = support > 0
    return float((2 * right[counted] / (answered + support)[counted]).mean())


def buckets(train_counts: np.ndarray) -> np.ndarray:
    """int64 (C,): 0 many, 1 medium, 2 few training pictures."""
    return np.where(train_counts > MOST_MEDIUM, 0, np.where(train_counts > MOST_FEW, 1, 2))


def lca_severity(scores: Scores) -> tuple[float, float]:
    """Mean height of the lowest common ancestor of true and given label: over the wrong answers alone (NaN where there
    is none), and over all rows, a right one counting 0 (Bertinetto et al. 2020). See `Hierarchy.severity`."""
    height = scores.hierarchy.severity(scores.label, scores.predicted)
    wrong = height > 0
    return float(height[wrong].mean()) if wrong.any() else float("nan"), float(height.mean())


def accuracy_values(scores: Scores, train_counts: np.ndarray) -> dict[str, float]:
    """What needs no probability; undefined numbers are NaN."""
    bucket = buckets(train_counts)
    found = {
        "top1": top_k_accuracy(scores, 1),
        "top5": top_k_accuracy(scores, 5),
        "macro_accuracy": macro_accuracy(scores),
        "macro_top5": macro_accuracy(scores, 5),
        **{f"macro_{name}": macro_accuracy(scores, among=bucket == at) for at, name in enumerate(BUCKETS)},
        "f1_macro": f1_macro(scores),
    }
    if scores.ranks:
        found["lca_severity"], found["lca_distance"] = lca_severity(scores)
    return found | {f"{rank}_top1": float(one.right.mean()) for rank, one in scores.ranks.items()}


def confidence_values(scores: Scores) -> dict[str, float]:
    """What needs only to know which answers are surer than which."""
    confidence, right = scores.top_probability[:, 0], scores.right
    return {
        "aurc": aurc(confidence, right),
        **{f"coverage_at_{100 * wanted:.0f}": coverage_at(confidence, right, wanted) for wanted in ACCURACIES},
    }


def probability_values(scores: Scores) -> dict[str, float]:
    """What needs probabilities that are parts of one whole: not those of sigmoid outputs, see `multilabel`."""
    expected, largest = calibration_errors(reliability(scores.top_probability[:, 0], scores.right))
    return {
        "log_loss": log_loss(scores),
        "brier": brier(scores),
        "ece": expected,
        "mce": largest,
        **{f"{rank}_log_loss": float(one.loss.mean()) for rank, one in scores.ranks.items()},
    }


def confusion_counts(scores: Scores) -> np.ndarray:
    """Sparse confusion: int64 (M, 3) of (true, predicted, rows), M ≤ N, ordered by true, then predicted."""
    pairs, rows = np.unique(scores.label * scores.classes + scores.predicted, return_counts=True)
    return np.column_stack([pairs // scores.classes, pairs % scores.classes, rows]).astype(np.int64)


def per_class(scores: Scores, labels: Sequence[str], train_counts: np.ndarray) -> pa.Table:
    """One row a label, in the labels' order; null where a number is undefined.

    Returns:
        label (string), train_pictures (int64), bucket (string), support (int64), precision, recall, f1 (float64),
        most_confused_with (string: the wrong label given most often, the first of equals), confused_rows (int64).
    """
    right, answered, support = _class_counts(scores)
    confusion = confusion_counts(scores)
    names = np.array([*labels, None], dtype=object)
    other, confused = _most_confused(confusion[confusion[:, 0] != confusion[:, 1]], scores.classes)
    return pa.table(
        {
            "label": pa.array(labels, pa.string()),
            "train_pictures": pa.array(train_counts, pa.int64()),
            "bucket": np.array(BUCKETS)[buckets(train_counts)],
            "support": pa.array(support, pa.int64()),
            "precision": _ratio(right, answered),
            "recall": _ratio(right, support),
            "f1": _ratio(2 * right, answered + support),
            "most_confused_with": pa.array(names[other], pa.string()),
            "confused_rows": pa.array(confused, pa.int64()),
        }
    )


def _class_counts(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each label: rows answered with it rightly, rows answered with it, rows of it."""
    answered = np.bincount(scores.predicted, minlength=scores.classes)
    return np.bincount(scores.label[scores.right], minlength=scores.classes), answered, scores.support


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> pa.Array:
    defined = denominator > 0
    return pa.array(numerator / np.where(defined, denominator, 1), pa.float64(), mask=~defined)


def _most_confused(errors: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Per true label the most frequent wrong one (−1 = none) and its rows."""
    other, rows = np.full(classes, -1), np.zeros(classes, dtype=np.int64)
    # Ascending by rows, then descending by label: the last write wins.
    for true, predicted, count in errors[np.lexsort((-errors[:, 1], errors[:, 2]))]:
        other[true], rows[true] = predicted, count
    return other, rows
