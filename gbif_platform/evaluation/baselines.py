"""What every number is to be held against: the training's label frequencies, and the nearest centroid of embeddings."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.scores import RankScores, Scores


def prior_scores(
    label: np.ndarray, train_counts: Sequence[int] | np.ndarray, hierarchy: Hierarchy | None = None, k: int = 10
) -> Scores:
    """The training's frequencies, (count + 1) / (sum + C), as the answer to every row; equal counts: lower index first.

    Args:
        label: int (N,), 0..C−1. train_counts: (C,). hierarchy: as of `score`.
    """
    counts = np.asarray(train_counts, dtype=np.float64) + 1
    share = counts / counts.sum()
    hierarchy = hierarchy or Hierarchy.none(len(share))
    order = np.argsort(-share, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    rows = len(label)
    ranks = {}
    for rank, taxon in zip(hierarchy.ranks, hierarchy.taxon, strict=True):
        mass = np.bincount(taxon, share)
        best = int(mass.argmax())
        ranks[rank] = RankScores(
            np.full(rows, best, np.int32),
            np.full(rows, mass[best], np.float32),
            taxon[label],
            np.log(mass)[taxon[label]],
        )
    return Scores(
        label=np.asarray(label, dtype=np.int64),
        top=np.broadcast_to(order[:k].astype(np.int32), (rows, min(k, len(order)))),
        top_probability=np.broadcast_to(share[order[:k]].astype(np.float32), (rows, min(k, len(order)))),
        position=place[label],
        label_log_probability=np.log(share)[label],
        brier=(share @ share - 2 * share + 1)[label],
        ranks=ranks,
        hierarchy=hierarchy,
    )


def ranked_scores(label: np.ndarray, top: np.ndarray, hierarchy: Hierarchy) -> Scores:
    """Answers without probabilities (these are NaN), from the best labels int (N, k); a rank's is the best label's."""
    label, rows = np.asarray(label, dtype=np.int64), len(label)
    hit = top == label[:, None]
    unknown = np.full(rows, np.nan)
    ranks = {
        rank: RankScores(taxon[top[:, 0]], unknown.astype(np.float32), taxon[label], unknown)
        for rank, taxon in zip(hierarchy.ranks, hierarchy.taxon, strict=True)
    }
    return Scores(
        label=label,
        top=top.astype(np.int32),
        top_probability=np.full(top.shape, np.nan, np.float32),
        position=np.where(hit.any(axis=1), hit.argmax(axis=1), hierarchy.taxon.shape[1]).astype(np.int32),
        label_log_probability=unknown,
        brier=unknown,
        ranks=ranks,
        hierarchy=hierarchy,
    )


def centroid_answers(
    train_embeddings: Answers | np.ndarray,
    train_label: np.ndarray,
    embeddings: Answers | np.ndarray,
    *,
    classes: int,
    k: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """The labels whose mean training embedding is nearest, after centring on the training's mean and L2 normalisation
    (SimpleShot, Wang et al. 2019). Memory: a block of rows, and C × D.

    Args:
        train_embeddings: (M, D), float16 or wider. train_label: int (M,), 0..C−1. embeddings: (N, D).
        classes: C. k: answers a row, at most the labels that have a training row.

    Returns:
        int32 (N, k), nearest first, and float32 (N, k), minus the squared distance, −4 to 0.

    Raises:
        AnswersError: shapes that do not fit, no training row, or an embedding that is not finite.
    """
    train, asked = _of(train_embeddings, "training embeddings"), _of(embeddings, "embeddings")
    label = np.asarray(train_label, dtype=np.int64)
    if train.classes != asked.classes or len(label) != len(train) or not len(train):
        raise AnswersError("the embeddings of training and test do not fit each other or their labels", "compute both")
    mean = sum(_finite(block, train).sum(axis=0, dtype=np.float64) for _, block in train.blocks()) / len(train)
    total = np.zeros((classes, train.classes))
    for places, block in train.blocks():
        member = sparse.coo_array(
            (np.ones(len(places)), (label[places], np.arange(len(places)))), (classes, len(places))
        )
        total += member.tocsr() @ _unit(_finite(block, train), mean)
    rows = np.bincount(label, minlength=classes)
    known = np.flatnonzero(rows)
    centroid = (total[known] / rows[known, None]).astype(np.float32)
    offset = (centroid**2).sum(axis=1)
    k = min(k, len(known))
    top, nearness = np.empty((len(asked), k), np.int32), np.empty((len(asked), k), np.float32)
    for places, block in asked.blocks():
        unit = _unit(_finite(block, asked), mean)
        for at in range(0, len(unit), 1024):
            part = 2 * unit[at : at + 1024] @ centroid.T - offset - (unit[at : at + 1024] ** 2).sum(axis=1)[:, None]
            best = _best(part, k)
            top[places[at : at + 1024]] = known[best]
            nearness[places[at : at + 1024]] = np.take_along_axis(part, best, axis=1)
    return top, nearness


def _of(rows: Answers | np.ndarray, name: str) -> Answers:
    return rows if isinstance(rows, Answers) else Answers.of_array(rows, name)


def _finite(block: np.ndarray, source: Answers) -> np.ndarray:
    if not np.isfinite(block).all():
        raise AnswersError(f"{source.name} hold a number that is not finite", "the model has diverged: train it anew")
    return block.astype(np.float32)


def _unit(block: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centred = block - mean.astype(np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _best(part: np.ndarray, k: int) -> np.ndarray:
    """Places of the k largest of each row, largest first, ties by lower place."""
    found = np.sort(np.argpartition(-part, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(part, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
