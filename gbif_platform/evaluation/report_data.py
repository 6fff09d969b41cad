"""What the report and the model card are written from: plain numbers, tables and texts, whoever made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

Table: TypeAlias = pa.Table | pl.DataFrame


class Metric(Protocol):
    """One number of the summary; `baseline` = the answer by training counts alone, `centroid` = nearest class mean."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float | None: ...  # noqa: D102
    @property
    def high(self) -> float | None: ...  # noqa: D102
    @property
    def baseline(self) -> float | None: ...  # noqa: D102
    @property
    def centroid(self) -> float | None: ...  # noqa: D102


class Comparison(Protocol):
    """The decision on promotion.

    `table` has any of slice, value, metric, candidate, champion, difference (candidate minus champion), low, high.
    """

    @property
    def promote(self) -> bool: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def table(self) -> Table: ...  # noqa: D102


@dataclass(frozen=True)
class Mistake:
    """A picture that was answered wrongly.

    Attributes:
        jpeg: an encoded picture of any size.
        score: probability of the wrong answer, 0..1.
        credit: who made it.
        licence: an SPDX id or `unknown`.
        url: of the record or the picture; linked where it is http(s).
    """

    media_id: str
    jpeg: bytes
    label: str
    predicted: str
    score: float
    credit: str
    licence: str
    url: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that the report and the model card say. A table is Arrow's or polars'; what is None or empty is left out.

    Attributes:
        title: the model's name and version.
        summary: the metrics over all pictures of `subset`.
        classes: label, train_pictures, bucket, support, precision, recall, f1, most_confused_with, confused_rows.
        confusion: int (M, 3) of (true, predicted, rows), indices into `classes`.
        reliability: low, high, rows, confidence, accuracy.
        coverage: coverage, accuracy, threshold.
        ranks: rank, taxa, top1, low, high, log_loss and more.
        rollup: rank answered at, rows, right.
        slices: slice, value, rows, groups, top1, top1_low, top1_high, macro_accuracy, log_loss, worst (bool).
        unevaluated: labels without a picture in `subset`.
        open_set: auroc, fpr95, rows.
        temperature: that the logits were divided by, fitted on validation.
        history: a row an epoch: epoch (from 0), train_loss, val_loss, val_top1, val_macro, learning_rate, seconds.
        mistakes: the worst first.
        card: what the model is, in words or numbers: backbone, loss, epochs, …
        doi: of the snapshot, without https://doi.org/.
        citations: one text each, the snapshot's first.
        licences: training pictures of each SPDX id.
        groups: independent groups in `subset` that the intervals are made from.
    """

    title: str
    dataset: str
    snapshot: str
    summary: Sequence[Metric]
    classes: Table
    confusion: np.ndarray
    reliability: Table | None = None
    coverage: Table | None = None
    ranks: Table | None = None
    rollup: Table | None = None
    slices: Table | None = None
    unevaluated: Sequence[str] = ()
    open_set: Mapping[str, float] | None = None
    temperature: float | None = None
    history: Sequence[Mapping[str, float]] = ()
    mistakes: Sequence[Mistake] = ()
    comparison: Comparison | None = None
    card: Mapping[str, object] = field(default_factory=dict)
    doi: str = ""
    citations: Sequence[str] = ()
    licences: Mapping[str, int] = field(default_factory=dict)
    subset: str = "test"
    groups: int | None = None

    @property
    def labels(self) -> list[str]:
        """Names behind the indices of `confusion`."""
        return [str(label) for label in pl.DataFrame(self.classes)["label"]]

    @property
    def pictures(self) -> int:
        """Pictures that the metrics are made from."""
        return int(self.confusion[:, 2].sum()) if len(self.confusion) else 0

    def metric(self, name: str) -> Metric | None:
        """The metric of this name."""
        return next((metric for metric in self.summary if metric.name == name), None)
