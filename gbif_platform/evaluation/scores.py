"""What the answers say of each row, under a prior, a temperature and a hierarchy: all that metrics need.

No GPU and no pictures: every "what if" is another pass over the stored logits.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np

from gbif_platform.cpus import cpus
from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.hierarchy import Hierarchy

FLOOR = 1e-15
"""Probabilities under it count as it in a log loss."""
_TOP = 10
_WIDEST_ADJUSTMENT = 500.0  # exp of it is still a float64


def loss_of(log_probability: np.ndarray) -> np.ndarray:
    """−ln p, p at least 1e-15; NaN (no true label) costs as much as 1e-15."""
    return -np.maximum(np.where(np.isnan(log_probability), -np.inf, log_probability), np.log(FLOOR))


@dataclass(frozen=True)
class RankScores:
    """The answers at one rank; taxa by number, see `Hierarchy`.

    Attributes:
        best: int32 (N,), the taxon with most probability. probability: float32 (N,), its probability.
        true: int32 (N,), the true label's taxon, −1 where there is none.
        true_log_probability: float64 (N,), NaN where there is none.
    """

    best: np.ndarray
    probability: np.ndarray
    true: np.ndarray
    true_log_probability: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool (N,)."""
        return self.best == self.true

    @property
    def loss(self) -> np.ndarray:
        """float64 (N,), as of `Scores`."""
        return loss_of(self.true_log_probability)


@dataclass(frozen=True)
class Scores:
    """One model's answers to N rows over C labels.

    Attributes:
        label: int64 (N,), the true label, −1 = none of the model's.
        top: int32 (N, k), the best labels, best first, ties by lower index.
        top_probability: float32 (N, k).
        position: int32 (N,), how many labels stand before the true one (C where there is none).
        label_log_probability: float64 (N,), natural log; NaN where there is no label.
        brier: float64 (N,), Σ (p − y)² over the labels, 0 to 2 (Brier 1950).
        ranks: by rank, the finest first.
        hierarchy: the taxa of the labels.
    """

    label: np.ndarray
    top: np.ndarray
    top_probability: np.ndarray
    position: np.ndarray
    label_log_probability: np.ndarray
    brier: np.ndarray
    ranks: dict[str, RankScores]
    hierarchy: Hierarchy

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> int:
        """C."""
        return self.hierarchy.taxon.shape[1]

    @property
    def predicted(self) -> np.ndarray:
        """int32 (N,), the best label of each row."""
        return self.top[:, 0]

    @property
    def right(self) -> np.ndarray:
        """bool (N,)."""
        return self.position == 0

    @property
    def support(self) -> np.ndarray:
        """int64 (C,), rows of each true label."""
        return np.bincount(self.label[self.label >= 0], minlength=self.classes)

    @property
    def loss(self) -> np.ndarray:
        """float64 (N,), −ln of the true label's probability, of at least 1e-15; as much without a true label."""
        return loss_of(self.label_log_probability)

    def take(self, rows: np.ndarray) -> "Scores":
        """These rows: positions or a bool mask."""
        arrays = {
            one.name: getattr(self, one.name)[rows] for one in fields(self) if one.name not in ("ranks", "hierarchy")
        }
        ranks = {
            name: RankScores(*(getattr(rank, one.name)[rows] for one in fields(rank)))
            for name, rank in self.ranks.items()
        }
        return replace(self, **arrays, ranks=ranks)


def prior_adjustment(class_counts: Sequence[int] | np.ndarray, tau: float) -> np.ndarray | None:
    """−τ·log(prior), float64 (C,): what logit adjustment adds to the logits (Menon et al. 2021); None for τ = 0.

    The prior is (count + 1) / (sum + C): a label that training had none of is judged like a very rare one.
    """
    if tau == 0:
        return None
    counts = np.asarray(class_counts, dtype=np.float64) + 1
    return -tau * np.log(counts / counts.sum())


def score(
    answers: Answers,
    label: np.ndarray,
    *,
    output: str = "softmax",
    temperature: float = 1.0,
    adjustment: np.ndarray | None = None,
    hierarchy: Hierarchy | None = None,
    k: int = _TOP,
    threads: int | None = None,
) -> Scores:
    """One pass over the logits, in bounded memory.

    The score of a class is logit / temperature + adjustment. Rank probabilities are the sums over a taxon's labels; of
    sigmoid outputs, which are no parts of one whole, the largest.

    Args:
        answers: logits (N, C). label: int (N,), 0..C−1, or −1 where the true label is none of the model's.
        output: softmax or sigmoid.
        adjustment: float (C,), e.g. `prior_adjustment`. hierarchy: over the C labels.
        k: answers kept a row, fewer where there are fewer labels.
        threads: None = one per core.

    Raises:
        AnswersError: labels, adjustment or hierarchy do not fit the answers, or a logit is NaN or +infinity.
    """
    labels = np.asarray(label, dtype=np.int64)
    hierarchy = hierarchy or Hierarchy.none(answers.classes)
    added = _checked(answers, labels, temperature, adjustment, hierarchy, shifted=output == "softmax")
    scores = _empty(labels, min(k, answers.classes), hierarchy)
    work = _Pass(answers, scores, output, 1 / temperature, added)
    with ThreadPoolExecutor(threads or cpus()) as pool:
        tasks = [pool.submit(work.span, *span) for span in answers.spans()]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return scores


def _checked(
    answers: Answers,
    label: np.ndarray,
    temperature: float,
    adjustment: np.ndarray | None,
    hierarchy: Hierarchy,
    *,
    shifted: bool,
) -> np.ndarray:
    """The adjustment, float64 (C,); `shifted` so that the largest is 0, which changes no softmax."""
    classes = answers.classes
    if label.shape != (len(answers),):
        raise AnswersError(
            f"{answers.name} has {len(answers)} rows, but there are {len(label)} labels", "give each one"
        )
    if len(label) and (label.min() < -1 or label.max() >= classes):
        raise AnswersError(f"a label is outside 0..{classes - 1}", "evaluate with the model's own labels")
    if hierarchy.taxon.shape[1] != classes:
        raise AnswersError(
            f"the ranks are of {hierarchy.taxon.shape[1]} labels, not {classes}", "give those of the model"
        )
    if not temperature > 0:
        raise AnswersError(f"temperature {temperature} is not above 0", "fit it, or take 1")
    added = np.zeros(classes) if adjustment is None else np.asarray(adjustment, dtype=np.float64)
    if added.shape != (classes,) or not np.isfinite(added).all() or np.ptp(added) > _WIDEST_ADJUSTMENT:
        raise AnswersError(f"the adjustment is no {classes} finite numbers near each other", "see prior_adjustment")
    return added - added.max() if shifted else added


def _empty(label: np.ndarray, k: int, hierarchy: Hierarchy) -> Scores:
    rows = len(label)
    true = np.where(label >= 0, hierarchy.taxon[:, label], -1).astype(np.int32)
    return Scores(
        label=label,
        top=np.empty((rows, k), np.int32),
        top_probability=np.empty((rows, k), np.float32),
        position=np.empty(rows, np.int32),
        label_log_probability=np.empty(rows),
        brier=np.empty(rows),
        ranks={
            rank: RankScores(np.empty(rows, np.int32), np.empty(rows, np.float32), one, np.empty(rows))
            for rank, one in zip(hierarchy.ranks, true, strict=True)
        },
        hierarchy=hierarchy,
    )


class _Pass:
    """The kernel with what is the same for every block; `span` may run in threads."""

    def __init__(self, answers: Answers, scores: Scores, output: str, inverse: float, adjustment: np.ndarray) -> None:
        from gbif_platform.evaluation import score_kernel  # half a second, and seconds the first time

        self._answers, self._scores = answers, scores
        self._kernel = score_kernel.softmax_rows if output == "softmax" else score_kernel.sigmoid_rows
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
            power = np.exp(value.astype(np.float64) * inverse).astype(np.float32)
        hierarchy = scores.hierarchy
        self._fixed = (value, power, inverse, adjustment, *hierarchy.chain(), hierarchy.sizes, hierarchy.taxon)

    def span(self, start: int, end: int) -> None:
        places, block = self._answers.block(start, end)
        scores, rows, count = self._scores, len(places), len(self._scores.ranks)
        k = scores.top.shape[1]
        top, share = np.empty((rows, k), np.int32), np.empty((rows, k), np.float32)
        position, own, brier = np.empty(rows, np.int32), np.empty(rows), np.empty(rows)
        best, best_share = np.empty((rows, count), np.int32), np.empty((rows, count), np.float32)
        true_log = np.empty((rows, count))
        bits = block.view(np.uint16)
        bits.flags.writeable = False  # as what is read from a file: one compiled kernel for both
        bad = self._kernel(
            bits, scores.label[places], *self._fixed,
            top, share, position, own, brier, best, best_share, true_log,
        )  # fmt: skip
        if bad >= 0:
            raise AnswersError(
                f"row {places[bad]} of {self._answers.name} is not finite", "the model has diverged: train it anew"
            )
        scores.top[places], scores.top_probability[places], scores.position[places] = top, share, position
        scores.label_log_probability[places], scores.brier[places] = own, brier
        for at, rank in enumerate(scores.ranks.values()):
            rank.best[places], rank.probability[places] = best[:, at], best_share[:, at]
            rank.true_log_probability[places] = true_log[:, at]
