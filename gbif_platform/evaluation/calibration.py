"""Whether a model's probabilities mean what they say, and the temperature that makes them."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize_scalar

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.multilabel import loss_sum
from gbif_platform.evaluation.scores import score

BINS = 15
_COLDEST, _HOTTEST = 0.05, 20.0
_FITTED_ROWS, _FITTED_BYTES = 20_000, 256 * 2**20
_FITTED_CELLS = 2**24  # of sigmoid logits, each of which is evidence


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> pa.Table:
    """Equal-width bins of the best answer's probability, [low, high), the last with 1.

    Returns:
        low, high (float64), rows (int64), confidence and accuracy (float64, means over the bin; null in an empty one).
    """
    place = np.minimum((np.asarray(confidence, np.float64) * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    empty, divisor = rows == 0, np.maximum(rows, 1)
    edges = np.linspace(0, 1, bins + 1)
    return pa.table(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "rows": rows,
            "confidence": pa.array(np.bincount(place, confidence, bins) / divisor, pa.float64(), mask=empty),
            "accuracy": pa.array(np.bincount(place, right, bins) / divisor, pa.float64(), mask=empty),
        }
    )


def calibration_errors(table: pa.Table) -> tuple[float, float]:
    """Mean, weighted by rows (ECE), and maximum (MCE) of |confidence − accuracy| over the bins (Guo et al. 2017)."""
    rows = table["rows"].to_numpy()
    kept = rows > 0
    if not kept.any():
        return 0.0, 0.0
    gap = np.abs(table["confidence"].to_numpy()[kept] - table["accuracy"].to_numpy()[kept])
    return float(gap @ rows[kept] / rows.sum()), float(gap.max())


def fit_temperature(
    answers: Answers,
    label: np.ndarray,
    *,
    adjustment: np.ndarray | None = None,
    most_rows: int = _FITTED_ROWS,
    seed: int = 17,
    threads: int | None = None,
) -> float:
    """The temperature, 0.05 to 20, of softmax that makes validation rows' true labels likeliest (Guo et al. 2017).

    It minimises Σ −ln p + ½ ln² T: the second term, worth one row or so, keeps T near 1 where rows are few or all
    right. No answer changes its place by it, unless an adjustment is given.

    Args:
        answers, label, adjustment: as of `score`; rows of label −1 are left out. No row at all gives 1.
        most_rows: more are drawn from, by `seed`; fewer where they would be more than 256 MB.
    """
    labels = np.asarray(label, dtype=np.int64)
    rows = np.flatnonzero(labels >= 0)
    rows = _drawn(rows, min(most_rows, _FITTED_BYTES // (2 * answers.classes)), seed)
    if not len(rows):
        return 1.0
    chosen, own = _read(answers, rows), labels[rows]

    def loss(temperature: float) -> float:
        scores = score(chosen, own, temperature=temperature, adjustment=adjustment, k=1, threads=threads)
        return float(scores.loss.sum())

    return _least(loss)


def fit_sigmoid_temperature(
    answers: Answers,
    target: np.ndarray,
    *,
    adjustment: np.ndarray | None = None,
    most_rows: int = _FITTED_ROWS,
    seed: int = 17,
) -> float:
    """As `fit_temperature`, of labels that stand each for itself: by the binary log loss of all cells.

    What is false counts as what is true does: by the true labels alone, every model would be too cautious.

    Args:
        answers: logits (N, C). target: bool (N, C). adjustment: as of `score`.
        most_rows: more are drawn from, by `seed`; fewer where they would be more than 16 million cells.
    """
    rows = _drawn(np.arange(len(answers)), min(most_rows, _FITTED_CELLS // answers.classes), seed)
    if not len(rows):
        return 1.0
    chosen, truth = _read(answers, rows), target[rows]
    return _least(lambda temperature: loss_sum(chosen, truth, temperature, adjustment))


def _drawn(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, at least one, in their order."""
    most = max(1, most)
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _read(answers: Answers, rows: np.ndarray) -> Answers:
    """These rows in memory: some twenty passes follow."""
    return Answers.of_array(answers.select(rows).array(), answers.name)


def _least(loss: Callable[[float], float]) -> float:
    """The temperature of the least loss (a sum over rows), drawn a little towards 1."""

    def cost(log_temperature: float) -> float:
        return loss(float(np.exp(log_temperature))) + 0.5 * log_temperature**2

    bounds = (np.log(_COLDEST), np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x))
