"""A whole evaluation: every metric with its interval and its baselines, and the tables of the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from gbif_platform.errors import PlatformError
from gbif_platform.evaluation.abstention import ACCURACIES, Abstention, coverage_table, open_set
from gbif_platform.evaluation.baselines import prior_scores, ranked_scores
from gbif_platform.evaluation.bootstrap import (
    RESAMPLES,
    SEED,
    Macro,
    Ratio,
    Statistic,
    divide,
    group_codes,
    intervals,
    macro_by,
    sums,
)
from gbif_platform.evaluation.calibration import reliability
from gbif_platform.evaluation.hierarchy import LABEL, rollup_table
from gbif_platform.evaluation.metrics import (
    BUCKETS,
    accuracy_values,
    buckets,
    confidence_values,
    confusion_counts,
    per_class,
    probability_values,
)
from gbif_platform.evaluation.scores import Scores
from gbif_platform.evaluation.slices import slice_statistics, slice_table, slicings


class EvaluationError(PlatformError):
    """There is nothing that can be evaluated."""


@dataclass(frozen=True)
class Metric:
    """One number over all rows.

    Attributes:
        low, high: 95 % interval; None where there is none (too few groups; ece and mce: resampling raises them, so
            that their percentiles would lie above the value).
        baseline: the same of the training's label frequencies as the answer to every row.
        centroid: the same of the nearest centroid of embeddings; of accuracies alone.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    centroid: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """One model on one subset.

    Attributes:
        summary: the metrics; one that is undefined here (no mistake, no label of a bucket) is left out.
        classes: see `metrics.per_class`.
        confusion: see `metrics.confusion_counts`.
        labels: names behind the indices of `confusion`.
        reliability: see `calibration.reliability`; no rows for sigmoid outputs.
        coverage: see `abstention.coverage_table`.
        ranks: rank (the first is `label`), taxa (int64, named ones), top1, low, high, log_loss, severity_share
            (float64: of the mistakes, those whose lowest common taxon is of this rank; null for the label); log_loss is
            null for sigmoid outputs.
        rollup: see `hierarchy.rollup_table`. slices: see `slices.slice_table`.
        unevaluated: labels without a row.
        open_set: see `abstention.open_set`.
        temperature: that the logits were divided by.
        pictures, groups: how many.
    """

    summary: list[Metric]
    classes: pa.Table
    confusion: np.ndarray
    labels: list[str]
    reliability: pa.Table
    coverage: pa.Table
    ranks: pa.Table
    rollup: pa.Table
    slices: pa.Table
    unevaluated: list[str]
    open_set: dict[str, float] | None
    temperature: float
    pictures: int
    groups: int

    @property
    def numbers(self) -> dict[str, float]:
        """The summary as one mapping: `top1`, `top1_low`, `top1_high`, `baseline_top1`, `centroid_top1`, …,
        `open_set_…`, temperature, and the sizes: pictures, groups, labels, labels_evaluated (those that macro figures
        average)."""
        found: dict[str, float] = {}
        for one in self.summary:
            shown = {
                one.name: one.value,
                f"{one.name}_low": one.low,
                f"{one.name}_high": one.high,
                f"baseline_{one.name}": one.baseline,
                f"centroid_{one.name}": one.centroid,
            }
            found |= {name: value for name, value in shown.items() if value is not None}
        found |= {f"open_set_{name}": float(value) for name, value in (self.open_set or {}).items()}
        return found | {
            "temperature": self.temperature,
            "pictures": float(self.pictures),
            "groups": float(self.groups),
            "labels": float(len(self.labels)),
            "labels_evaluated": float(len(self.labels) - len(self.unevaluated)),
        }

    @property
    def beats_baseline(self) -> bool:
        """Whether the interval of top-1 lies above the majority class; not known, so not, without an interval."""
        return self.numbers.get("top1_low", 0.0) > self.numbers["baseline_top1"]

    def rows(self, *, dataset: str, snapshot: str, model: str, run_id: str, subset: str) -> list[dict[str, Any]]:
        """Rows of the lake's `evaluation_metrics`; undefined numbers are left out.

        Slices: `all`, then `label=<name>`, then `<slice>=<value>`, e.g. `country_code=DK`.
        """
        keys = {"dataset": dataset, "snapshot": snapshot, "model": model, "run_id": run_id, "subset": subset}
        parts: list[tuple[str, Mapping[str, Any]]] = [("all", self.numbers)]
        counted = ("train_pictures", "support", "precision", "recall", "f1")
        parts += [(f"label={row['label']}", {name: row[name] for name in counted}) for row in self.classes.to_pylist()]
        judged = ("rows", "groups", "top1", "top1_low", "top1_high", "macro_accuracy", "log_loss")
        parts += [
            (f"{row['slice']}={row['value']}", {name: row[name] for name in judged}) for row in self.slices.to_pylist()
        ]
        return [
            {**keys, "slice": place, "metric": name, "value": float(value)}
            for place, numbers in parts
            for name, value in numbers.items()
            if value is not None
        ]


def evaluate(
    scores: Scores,
    labels: Sequence[str],
    train_counts: Sequence[int] | np.ndarray,
    *,
    output: str = "softmax",
    group: object = None,
    slices: Mapping[str, object] | None = None,
    slice_min: int = 20,
    rank_confidence: float = 0.8,
    centroid: np.ndarray | None = None,
    strangers: Scores | None = None,
    temperature: float = 1.0,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Evaluation:
    """All metrics of one model on one subset; needs neither pictures nor a GPU.

    Args:
        scores: of N rows, each with a label. labels: C names. train_counts: (C,), training pictures of each.
        output: softmax, or sigmoid: then nothing that takes the probabilities for parts of one whole (log loss, Brier
            score, calibration) is given; `multilabel` has what stands in their place.
        group: one key a row; rows of one group stay together in the bootstrap. None = each row is its own group.
        slices: name → N values (null counts as `unknown`); values with fewer than `slice_min` rows are not shown.
        rank_confidence: of the answers at the lowest sure rank, see `hierarchy.rolled_up`.
        centroid: int (N, k), the labels of `baselines.centroid_answers`.
        strangers: of rows whose labels the model does not know (label −1).
        temperature: that `scores` were made with; only handed on.

    Raises:
        EvaluationError: no rows, a row without a label, or parts of other lengths.
    """
    counts = np.asarray(train_counts, dtype=np.int64)
    _check(scores, labels, counts, group, slices or {}, centroid)
    codes = group_codes(group, len(scores))
    sliced = slicings(slices or {}, slice_min)
    of_slices = slice_statistics(scores, codes, sliced)
    bounds = intervals(
        {**_statistics(scores, counts, codes), **{f"slice {name}": one for name, one in of_slices.items()}},
        int(codes.max()) + 1,
        resamples=resamples,
        seed=seed,
    )
    whole = output == "softmax"
    summary = _summary(scores, counts, centroid, _named(bounds, scores), whole)
    calibration = reliability(scores.top_probability[:, 0], scores.right)
    return Evaluation(
        summary=summary,
        classes=per_class(scores, labels, counts),
        confusion=confusion_counts(scores),
        labels=list(labels),
        reliability=calibration if whole else calibration.slice(0, 0),
        coverage=coverage_table(scores.top_probability[:, 0], scores.right),
        ranks=_ranks(scores, {one.name: one for one in summary}),
        rollup=rollup_table(scores, rank_confidence),
        slices=slice_table(scores, codes, sliced, {one.name: bounds[f"slice {one.name}"] for one in sliced}, whole),
        unevaluated=[name for name, rows in zip(labels, scores.support, strict=True) if not rows],
        open_set=open_set(scores, strangers) if strangers is not None else None,
        temperature=temperature,
        pictures=len(scores),
        groups=int(codes.max()) + 1,
    )


def _check(
    scores: Scores,
    labels: Sequence[str],
    counts: np.ndarray,
    group: object,
    slices: Mapping[str, object],
    centroid: np.ndarray | None,
) -> None:
    if not len(scores):
        raise EvaluationError("there are no predictions to evaluate", "give the subset some pictures (see split)")
    if (scores.label < 0).any():
        row = int(np.argmax(scores.label < 0))
        raise EvaluationError(f"row {row} has none of the model's labels", "hand such rows over as strangers")
    if not len(labels) == len(counts) == scores.classes:
        raise EvaluationError(
            f"{len(labels)} labels and {len(counts)} counts for {scores.classes} outputs", "give those of the model"
        )
    parts = {"group": group, "centroid": centroid, **{f"slice {name}": values for name, values in slices.items()}}
    for name, values in parts.items():
        if values is not None and len(values) != len(scores):  # type: ignore[arg-type]
            raise EvaluationError(f"{name} has another length than the {len(scores)} rows", "give one value a row")


def _statistics(scores: Scores, counts: np.ndarray, group: np.ndarray) -> dict[str, Statistic]:
    """What has an interval; the names of the values of each are those of `_named`."""
    means = [scores.position == 0, scores.position < 5, scores.loss, scores.brier]
    for rank in scores.ranks.values():
        means += [rank.right, rank.loss]
    height = scores.hierarchy.severity(scores.label, scores.predicted)
    rows = sums(group)
    return {
        "means": Ratio(sparse.vstack([sums(group, values) for values in [*means, height]], format="csr"), rows),
        "severity": Ratio(sums(group, height), sums(group, height > 0)),
        "classes": _Classes.of(scores, counts, group),
        "abstention": Abstention.of(scores.top_probability[:, 0], scores.right, group),
    }


def _named(bounds: Mapping[str, np.ndarray], scores: Scores) -> dict[str, tuple[float | None, float | None]]:
    by_rank = [f"{rank}_{metric}" for rank in scores.ranks for metric in ("top1", "log_loss")]
    names = {
        "means": ["top1", "top5", "log_loss", "brier", *by_rank, "lca_distance"],
        "severity": ["lca_severity"],
        "classes": ["macro_accuracy", *(f"macro_{bucket}" for bucket in BUCKETS), "macro_top5", "f1_macro"],
        "abstention": ["aurc", *(f"coverage_at_{100 * accuracy:.0f}" for accuracy in ACCURACIES)],
    }
    return {
        name: (_number(low), _number(high))
        for statistic, found in names.items()
        for name, (low, high) in zip(found, bounds[statistic], strict=True)
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class _Classes:
    """Macro accuracy over all labels and those of each bucket, macro top-5, macro F1: (6, B)."""

    top1: Macro
    top5: Macro
    answered: sparse.csr_array

    @classmethod
    def of(cls, scores: Scores, counts: np.ndarray, group: np.ndarray) -> "_Classes":
        present = np.flatnonzero(scores.support)
        bucket = buckets(counts)[present]
        members = np.stack([np.ones(len(present)), *(bucket == at for at in range(len(BUCKETS)))]).astype(np.float32)
        top1 = macro_by(scores.right, scores.label, group)
        top5 = macro_by(scores.position < 5, scores.label, group)
        place = np.full(scores.classes, len(present))
        place[present] = np.arange(len(present))
        answered = sums(group, key=place[scores.predicted], keys=len(present) + 1)
        return cls(Macro(top1.numerator, top1.rows, sparse.csr_array(members)), top5, answered[: len(present)])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        rows = self.top1.rows @ weights
        drawn = rows > 0
        right, inside = self.top1.numerator @ weights, self.top5.numerator @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = [
                np.where(drawn, values, 0)
                for values in (right / rows, inside / rows, 2 * right / (rows + self.answered @ weights))
            ]
        count = drawn.sum(axis=0)
        members = self.top1.members
        by_bucket = divide(members @ shares[0], members @ drawn.astype(np.float32))
        return np.concatenate([by_bucket, *(divide(share.sum(axis=0), count)[None] for share in shares[1:])])


def _summary(
    scores: Scores,
    counts: np.ndarray,
    centroid: np.ndarray | None,
    bounds: Mapping[str, tuple[float | None, float | None]],
    whole: bool,
) -> list[Metric]:
    own, baseline = (
        accuracy_values(one, counts) | (probability_values(one) if whole else {}) | confidence_values(one)
        for one in (scores, prior_scores(scores.label, counts, scores.hierarchy))
    )
    nearest = {}
    if centroid is not None:
        nearest = accuracy_values(ranked_scores(scores.label, centroid, scores.hierarchy), counts)
        if centroid.shape[1] < min(5, scores.classes):
            nearest = {name: value for name, value in nearest.items() if not name.endswith("top5")}
    return [
        Metric(
            name,
            value,
            *bounds.get(name, (None, None)),
            baseline=_number(baseline[name]),
            centroid=_number(nearest[name]) if name in nearest else None,
        )
        for name, value in own.items()
        if np.isfinite(value)
    ]


def _ranks(scores: Scores, summary: Mapping[str, Metric]) -> pa.Table:
    height = scores.hierarchy.severity(scores.label, scores.predicted)
    wrong = int((height > 0).sum())
    rows = []
    for at, (rank, prefix) in enumerate([(LABEL, ""), *((rank, f"{rank}_") for rank in scores.ranks)]):
        top1, loss = summary[f"{prefix}top1"], summary.get(f"{prefix}log_loss")
        rows.append(
            {
                "rank": rank,
                "taxa": len(scores.hierarchy.names[at - 1]) if at else scores.classes,
                "top1": top1.value,
                "low": top1.low,
                "high": top1.high,
                "log_loss": loss.value if loss else None,
                "severity_share": float((height == at).sum() / wrong) if at and wrong else None,
            }
        )
    kinds = {"rank": pa.string(), "taxa": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)
