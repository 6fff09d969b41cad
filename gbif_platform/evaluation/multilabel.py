"""Metrics of models whose labels stand each for itself: several may be true of one row, or none."""

from dataclasses import dataclass

import numpy as np

from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.scores import FLOOR

_COLUMN_BYTES = 256 * 2**20


@dataclass(frozen=True)
class MultilabelValues:
    """Figures over N rows and C labels.

    Attributes:
        average_precision: float64 (C,), NaN of a label that no row has.
        macro_average_precision: mean over the labels with a row; NaN where no label has one.
        binary_log_loss: see the function of that name.
        baseline_log_loss: the same of the labels' own frequencies in training.
    """

    average_precision: np.ndarray
    macro_average_precision: float
    binary_log_loss: float
    baseline_log_loss: float | None


def multilabel_values(
    answers: Answers,
    target: np.ndarray,
    *,
    temperature: float = 1.0,
    adjustment: np.ndarray | None = None,
    prior: np.ndarray | None = None,
) -> MultilabelValues:
    """Figures of sigmoid logits, in bounded memory: some passes over the file.

    Args:
        answers: logits (N, C). target: bool (N, C). temperature, adjustment: as of `score`.
        prior: float (C,), the share of the training pictures that has each label.

    Raises:
        AnswersError: shapes that do not fit, or no row.
    """
    truth = np.asarray(target, dtype=bool)
    if truth.shape != (len(answers), answers.classes) or not len(truth):
        raise AnswersError(f"targets {truth.shape} for answers ({len(answers)}, {answers.classes})", "give one a row")
    precision = np.full(answers.classes, np.nan)
    step = max(1, _COLUMN_BYTES // (2 * len(truth)))
    for start in range(0, answers.classes, step):
        columns = np.empty((len(truth), min(step, answers.classes - start)), np.float16)
        for places, block in answers.blocks():
            columns[places] = block[:, start : start + step]
        for at in range(columns.shape[1]):
            precision[start + at] = average_precision(truth[:, start + at], columns[:, at])
    total = loss_sum(answers, truth, temperature, adjustment)
    baseline = None if prior is None else binary_log_loss(truth, np.asarray(prior, np.float64)[None])
    known = ~np.isnan(precision)
    macro = float(precision[known].mean()) if known.any() else float("nan")
    return MultilabelValues(precision, macro, total / truth.size, baseline)


def average_precision(target: np.ndarray, score: np.ndarray) -> float:
    """Σ (recall step) × precision over the thresholds, equals together (scikit-learn's); NaN without a true row."""
    threshold, place = np.unique(-np.asarray(score, np.float32), return_inverse=True)
    place = place.reshape(-1)
    hits = np.bincount(place, target, len(threshold))
    if not hits.any():
        return float("nan")
    precision = np.cumsum(hits) / np.cumsum(np.bincount(place, minlength=len(threshold)))
    return float(hits @ precision / hits.sum())


def binary_log_loss(target: np.ndarray, probability: np.ndarray) -> float:
    """−1/(N·C) Σ_n Σ_c [y ln p + (1 − y) ln(1 − p)], p clipped to [1e-15, 1 − 1e-15].

    With N sequences and the 54 columns of the Hakuna Ma-data challenge (53 species and `empty`, several may be true of
    a sequence) this is its score: the mean over columns of scikit-learn's binary log_loss, as the winners computed it.

    Args:
        target: bool or 0/1 (N, C). probability: float, broadcast to (N, C); one row = the same answer to all.
    """
    truth = np.asarray(target, dtype=bool)
    given = np.clip(np.asarray(probability, np.float64), FLOOR, 1 - FLOOR)
    share = truth.sum(axis=0) / len(truth)
    if given.shape[0] == 1:
        return float(-(share * np.log(given[0]) + (1 - share) * np.log1p(-given[0])).mean())
    return float(-np.log(np.where(truth, given, 1 - given)).mean())


def loss_sum(answers: Answers, target: np.ndarray, temperature: float, adjustment: np.ndarray | None) -> float:
    """Σ_n Σ_c of `binary_log_loss` for sigmoid(logit / temperature + adjustment), a block of rows at a time."""
    added = np.zeros(answers.classes) if adjustment is None else adjustment
    total = 0.0
    for places, block in answers.blocks():
        scaled = block.astype(np.float64) / temperature + added
        wrong = np.where(target[places], -scaled, scaled)
        total += np.minimum(np.logaddexp(0, wrong), -np.log(FLOOR)).sum()
    return float(total)
