"""Whether a new model may take the champion's place: their paired difference on the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gbif_platform.errors import PlatformError
from gbif_platform.evaluation.bootstrap import (
    LEAST_GROUPS,
    RESAMPLES,
    SEED,
    Difference,
    Statistic,
    group_codes,
    intervals,
    value_of,
)
from gbif_platform.evaluation.scores import Scores
from gbif_platform.evaluation.slices import Slicing, slicings

ALL = "all"
_MACRO, _TOP1, _LOSS = "macro_accuracy", "top1", "log_loss"
JUDGED = {_MACRO: "macro accuracy", _TOP1: "top-1"}
"""The metrics that decide, and what they are called."""
_NAMED = 3
_COLUMNS = pa.schema(
    [
        ("slice", pa.string()),
        ("value", pa.string()),
        ("metric", pa.string()),
        ("rows", pa.int64()),
        ("candidate", pa.float64()),
        ("champion", pa.float64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("worse", pa.bool_()),
    ]
)


class ComparisonError(PlatformError):
    """The two models were not judged on the same rows."""


@dataclass(frozen=True)
class Comparison:
    """The decision.

    Attributes:
        promote: whether the candidate is not worse, overall and in every protected slice.
        reason: in words, naming what is at fault.
        table: slice (`all` first), value, metric (macro_accuracy, top1, log_loss), rows (int64), candidate, champion,
            difference, low, high (float64, candidate − champion, 95 %; null where the groups are too few), worse (bool;
            log_loss decides nothing).
    """

    promote: bool
    reason: str
    table: pa.Table


def compare(
    candidate: Scores,
    champion: Scores,
    label: object,
    *,
    group: object = None,
    protected: Mapping[str, object] | None = None,
    slice_min: int = 20,
    margin: float = 0.0,
    log_loss: bool = True,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two models on the same N rows, in the same order; each may have labels of its own.

    A figure is worse where the 95 % interval of candidate − champion lies wholly below 0 (margin 0), or reaches below
    −margin. Macro accuracy and top-1 decide, overall and in each value of each protected slice that has at least
    `slice_min` rows of `LEAST_GROUPS` groups; with fewer groups in all the candidate is not promoted. Nothing is
    adjusted for the number of values: of two equal models one is refused for each value with a chance of 2.5 %. A row
    whose label a model does not know (−1 in its scores) is a wrong answer of it.

    Args:
        label: N names of the true labels, as both models' macro accuracy averages over them.
        group: one key a row, see `evaluate`. protected: slice → N values.
        log_loss: whether to show it too; not of sigmoid models, whose probabilities are no parts of one whole.

    Raises:
        ComparisonError: no rows, or parts of other lengths.
    """
    _check(candidate, champion, label, group, protected or {})
    codes = group_codes(group, len(candidate))
    truth = np.unique(np.asarray(label), return_inverse=True)[1].reshape(-1)
    parts = [Slicing(ALL, [ALL], np.zeros(len(truth), np.int64)), *slicings(protected or {}, slice_min)]
    shown = (*JUDGED, _LOSS) if log_loss else tuple(JUDGED)
    table = _table(candidate, champion, parts, truth, codes, _Rule(margin, shown, resamples, seed))
    if (groups := int(codes.max()) + 1) < LEAST_GROUPS:
        says = f"Too few groups to decide: the pictures are of {groups}, and with under {LEAST_GROUPS} chance decides."
        return Comparison(False, says, table)
    faults = [row for row in table.to_pylist() if row["worse"]]
    return Comparison(not faults, _reason(faults, table.to_pylist(), margin), table)


@dataclass(frozen=True)
class _Rule:
    margin: float
    shown: tuple[str, ...]
    resamples: int
    seed: int

    def worse(self, metric: str, low: float, high: float) -> bool:
        return metric in JUDGED and bool(high < 0 if self.margin == 0 else low < -self.margin)


def _table(
    candidate: Scores, champion: Scores, parts: list[Slicing], truth: np.ndarray, group: np.ndarray, rule: _Rule
) -> pa.Table:
    groups = int(group.max()) + 1
    ours, theirs = (
        {(part.name, metric): one for part in parts for metric, one in _statistics(scores, part, truth, group).items()}
        for scores in (candidate, champion)
    )
    bounds = intervals(
        {f"{name} {metric}": Difference(one, theirs[name, metric]) for (name, metric), one in ours.items()},
        groups,
        resamples=rule.resamples,
        seed=rule.seed,
    )
    rows = []
    for part in parts:
        counts = np.bincount(part.code[part.code >= 0], minlength=len(part.values))
        few = _groups(part, group) < LEAST_GROUPS
        for metric in rule.shown:
            one, other = (value_of(models[part.name, metric], groups) for models in (ours, theirs))
            certain = np.where(few[:, None], np.nan, bounds[f"{part.name} {metric}"])
            for at, (low, high) in enumerate(certain):
                numbers = (one[at], other[at], one[at] - other[at], low, high, rule.worse(metric, low, high))
                rows.append((part.name, part.values[at], metric, counts[at], *numbers))
    columns = zip(zip(*rows, strict=True), _COLUMNS.types, strict=True)
    return pa.table([pa.array(column, kind, from_pandas=True) for column, kind in columns], schema=_COLUMNS)


def _groups(part: Slicing, group: np.ndarray) -> np.ndarray:
    """Groups of each value, int64 (V,)."""
    kept = part.code >= 0
    pairs = np.unique(np.stack([part.code[kept], group[kept]]), axis=1)
    return np.bincount(pairs[0], minlength=len(part.values))


def _check(candidate: Scores, champion: Scores, label: object, group: object, protected: Mapping[str, object]) -> None:
    if not len(candidate):
        raise ComparisonError("there are no rows to compare the models on", "give the test subset some pictures")
    parts = {"champion": champion, "label": label, "group": group, **protected}
    for name, values in parts.items():
        if values is not None and len(values) != len(candidate):  # type: ignore[arg-type]
            raise ComparisonError(
                f"{name} has another length than the candidate's {len(candidate)} rows", "judge both on the same rows"
            )


def _statistics(scores: Scores, part: Slicing, truth: np.ndarray, group: np.ndarray) -> dict[str, Statistic]:
    """The metrics in each value of a slice."""
    top1, macro = part.statistics(scores.right, truth, group)
    loss, _ = part.statistics(scores.loss, truth, group)
    return {_MACRO: macro, _TOP1: top1, _LOSS: loss}


def _reason(faults: list[dict[str, Any]], rows: list[dict[str, Any]], margin: float) -> str:
    if not faults:
        slices = sorted({row["slice"] for row in rows} - {ALL})
        where = f"overall and by {', '.join(slices)}" if slices else "overall"
        return f"Not worse than the champion {where}: macro accuracy {_written(rows[0])}."
    rule = "the interval lies below 0" if margin == 0 else f"the interval reaches below −{100 * margin:g} points"
    said = [f"{JUDGED[row['metric']]} {_place(row)} {_written(row)}" for row in faults[:_NAMED]]
    more = f" (and {len(faults) - _NAMED} more)" if len(faults) > _NAMED else ""
    return f"Worse than the champion: {'; '.join(said)}{more}; {rule}."


def _place(row: dict[str, Any]) -> str:
    return "overall" if row["slice"] == ALL else f"for {row['slice']} = {row['value']}"


def _written(row: dict[str, Any]) -> str:
    ends = "" if row["low"] is None else f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{100 * row['difference']:+.1f} points{ends}".replace("-", "−")
