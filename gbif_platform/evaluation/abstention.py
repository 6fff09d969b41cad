"""What is gained by leaving the unsure rows to a person, and whether strangers are told from known labels."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse

from gbif_platform.evaluation.bootstrap import divide, sums
from gbif_platform.evaluation.scores import Scores

ACCURACIES = (0.90, 0.95, 0.99)
_POINTS = 200
_BINS = 1000


def _curve(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, the most confident first, and rows and right answers at or above each; equals stay together."""
    threshold, place = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)
    place = place.reshape(-1)
    return -threshold, np.cumsum(np.bincount(place)), np.cumsum(np.bincount(place, right, len(threshold)))


def coverage_table(confidence: np.ndarray, right: np.ndarray) -> pa.Table:
    """Coverage–accuracy curve: coverage, accuracy, threshold (float64), some 200 points, those of `coverage_at` among
    them."""
    threshold, rows, hits = _curve(confidence, right)
    wanted = np.linspace(1 / _POINTS, 1, _POINTS) * rows[-1]
    ends = [np.flatnonzero(_enough(rows, hits, accuracy))[-1:] for accuracy in (0.8, *ACCURACIES)]
    chosen = np.unique(np.concatenate([np.minimum(np.searchsorted(rows, wanted), len(rows) - 1), *ends]))
    return pa.table(
        {
            "coverage": rows[chosen] / rows[-1],
            "accuracy": hits[chosen] / rows[chosen],
            "threshold": threshold[chosen],
        }
    )


def coverage_at(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> float:
    """Largest share of rows, the most confident ones, that is answered with at least this accuracy; 0 where none is."""
    _, rows, hits = _curve(confidence, right)
    enough = _enough(rows, hits, accuracy)
    return float(rows[enough].max() / rows[-1]) if enough.any() else 0.0


def _enough(rows: np.ndarray, hits: np.ndarray, accuracy: float) -> np.ndarray:
    return hits >= accuracy * rows - 1e-9  # 9 right of 10 are 0.9


def aurc(confidence: np.ndarray, right: np.ndarray) -> float:
    """Area under the risk–coverage curve: mean error rate over the 1, 2, …, N most confident rows (Geifman & El-Yaniv
    2017); among equals the errors count as evenly spread, so that no order matters."""
    _, rows, hits = _curve(confidence, right)
    at = np.arange(1, rows[-1] + 1)
    errors = np.interp(at, np.concatenate([[0], rows]), np.concatenate([[0.0], rows - hits]))
    return float((errors / at).mean())


@dataclass(frozen=True)
class Abstention:
    """Statistic of the bootstrap: `aurc`, then `coverage_at` of each of `ACCURACIES`, over 1 000 bins of confidence."""

    rows: sparse.csr_array
    right: sparse.csr_array

    @classmethod
    def of(cls, confidence: np.ndarray, right: np.ndarray, group: np.ndarray) -> "Abstention":
        """Bins of equal numbers of rows, the most confident first; equals stay together."""
        order = np.unique(-np.asarray(confidence, np.float64), return_inverse=True)[1].reshape(-1)
        before = np.concatenate([[0], np.cumsum(np.bincount(order))])[order]
        place = np.unique(before * _BINS // len(order), return_inverse=True)[1].reshape(-1)
        bins = int(place.max()) + 1
        return cls(sums(group, key=place, keys=bins), sums(group, right, key=place, keys=bins))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """See `bootstrap.Statistic`: (1 + len(ACCURACIES), B)."""
        drawn = self.rows @ weights
        rows = np.cumsum(drawn, axis=0)
        accuracy = divide(np.cumsum(self.right @ weights, axis=0), rows)
        risk = np.nan_to_num(1 - accuracy)
        before = np.concatenate([risk[:1], risk[:-1]])
        found = [divide((drawn * (risk + before) / 2).sum(axis=0), rows[-1])]
        enough = (np.where(accuracy >= wanted - 1e-6, rows, 0) for wanted in ACCURACIES)
        found += [divide(kept.max(axis=0), rows[-1]) for kept in enough]
        return np.stack(found)


def open_set(known: Scores, strangers: Scores) -> dict[str, float] | None:
    """How well rows of labels that the model never saw are told from known ones by an unsure answer.

    `auroc` and `fpr95` judge by the best answer's probability, `…_margin` by its lead over the second. fpr95 = share of
    the strangers that pass for known at the threshold that accepts 95 % of the known rows. The energy score is not
    computed: the stored logits lack their level, and what is left of it orders the rows as the best probability does.

    Returns:
        auroc, fpr95, auroc_margin, fpr95_margin, rows (strangers), known_rows; None where either has no row.
    """
    if not len(known) or not len(strangers):
        return None
    found = {}
    for name, one, other in (
        ("", known.top_probability[:, 0], strangers.top_probability[:, 0]),
        ("_margin", _margin(known), _margin(strangers)),
    ):
        found[f"auroc{name}"] = auroc(one, other)
        found[f"fpr95{name}"] = fpr_at(one, other, 0.95)
    return {**found, "rows": len(strangers), "known_rows": len(known)}


def _margin(scores: Scores) -> np.ndarray:
    share = scores.top_probability
    return share[:, 0] - share[:, 1] if share.shape[1] > 1 else share[:, 0]


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores above a negative; equals count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / (2 * len(ordered)))


def fpr_at(positive: np.ndarray, negative: np.ndarray, recall: float) -> float:
    """Share of negatives at or above the highest threshold that keeps this share of the positives."""
    kept = int(np.ceil(recall * len(positive) - 1e-9))
    threshold = np.sort(positive)[::-1][max(kept, 1) - 1]
    return float((negative >= threshold).mean())
