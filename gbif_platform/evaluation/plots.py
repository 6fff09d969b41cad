"""Pictures of a training and its evaluation, as PNG bytes under 100 kB. matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from gbif_platform.evaluation.wording import BUCKETS, percent
from gbif_platform.plots.figure import (
    AFTER,
    BEFORE,
    LOST,
    brief,
    counted,
    exact,
    figure,
    named_rows,
    nothing,
    plain,
    png,
    row_notes,
    rows_height,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 30  # in the confusion matrix; the others share one row and column
FEW_CLASSES = 15  # up to these the matrix shows its numbers
NAME_LENGTH = 28
MOST_SLICES = 24
"""Values of slices in their plot, the worst first."""
TRAIN, VALIDATION, ACCENT, GREY = "#4477aa", "#ee6677", "#228833", "#777777"


def confusion_matrix(confusion: np.ndarray, labels: Sequence[str]) -> bytes:
    """Row-normalised confusion as a PNG.

    Up to 30 labels all are shown, in their order; of more, the 29 with most errors, the worst first, and "all others".

    Args:
        confusion: int (M, 3) of (true, predicted, rows), see `metrics.confusion_counts`.
        labels: names behind the indices.
    """
    matrix, names = shown_confusion(confusion, labels)
    support = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(support, 1)
    if len(names) < len(labels):
        share[-1, -1] = np.nan  # rows that stay among the others: right or wrong is not told
    few = len(names) <= FEW_CLASSES
    side = 2.4 + (0.45 if few else 0.24) * len(names)
    figure, axes = _figure(side + 0.6, side)
    axes.set_facecolor("#dddddd")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if few:
        for (row, column), rows in np.ndenumerate(matrix):
            if rows:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(rows), ha="center", va="center", color=colour, fontsize=7)
    ticks = range(len(names))
    axes.set_xticks(ticks, [_short(name) for name in names], rotation=90, fontsize=7)
    counts = [f"{_short(name)} ({int(rows)})" for name, rows in zip(names, support[:, 0], strict=True)]
    axes.set_yticks(ticks, counts, fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (pictures)")
    if len(names) < len(labels):
        axes.set_title(f"the {len(names) - 1} labels with most errors, of {len(labels)}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true label")
    return png(figure)


def shown_confusion(confusion: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The dense matrix that is drawn, int64 (S, S), and its S ≤ 30 names."""
    true, predicted, rows = confusion.T if len(confusion) else np.zeros((3, 0), dtype=np.int64)
    classes = len(labels)
    if classes <= MOST_CLASSES:
        position, names = np.arange(classes), list(labels)
    else:
        wrong = true != predicted
        errors = np.bincount(true[wrong], weights=rows[wrong], minlength=classes)
        errors += np.bincount(predicted[wrong], weights=rows[wrong], minlength=classes)
        worst = np.argsort(-errors, kind="stable")[: MOST_CLASSES - 1]
        position = np.full(classes, MOST_CLASSES - 1)
        position[worst] = np.arange(len(worst))
        names = [*(labels[index] for index in worst), "all others"]
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, (position[true], position[predicted]), rows)
    return matrix, names


def training_curves(history: Sequence[dict[str, float]], *, baseline: float | None = None) -> bytes:
    """Loss and validation accuracy over the epochs as a PNG.

    Args:
        history: rows of `TrainResult.history`; the columns of validation may be missing.
        baseline: the majority class's top-1, drawn as a line.
    """
    figure, (loss, accuracy) = _figure(8, 3.2, columns=2)
    epochs = [row["epoch"] + 1 for row in history]
    marker = "o" if len(history) == 1 else None
    loss.plot(epochs, [row["train_loss"] for row in history], color=TRAIN, label="training", marker=marker)
    if all("val_loss" in row for row in history):
        loss.plot(epochs, [row["val_loss"] for row in history], color=VALIDATION, label="validation", marker=marker)
        for name, colour in (("val_top1", ACCENT), ("val_macro", VALIDATION)):
            accuracy.plot(epochs, [row[name] for row in history], color=colour, label=name[4:], marker=marker)
    else:
        accuracy.text(0.5, 0.5, "no validation pictures", ha="center", transform=accuracy.transAxes, color=GREY)
    if baseline is not None:
        accuracy.axhline(baseline, color=GREY, linestyle="--", label="majority class")
    loss.set_ylabel("loss")
    accuracy.set_ylabel("accuracy of validation")
    accuracy.set_ylim(0, 1)
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return png(figure)


def reliability_diagram(bins: pa.Table | pl.DataFrame) -> bytes:
    """Accuracy over confidence as a PNG: what is on the dashed line says the truth about itself.

    Args:
        bins: low, high, rows, confidence, accuracy; empty ones are passed over.
    """
    table = pl.DataFrame(bins).filter(pl.col("rows") > 0)
    if not len(table):
        return nothing("No pictures to compare confidence and accuracy on")
    words = "Orange: the gap between how often the answers are right and how often they say so. Numbers are pictures."
    drawn, axes = figure(4.2, "Are answers as often right as they say?", words)
    width = table["high"] - table["low"]
    axes.bar(table["low"], table["accuracy"], 0.94 * width, align="edge", color=BEFORE)
    gap = table["confidence"] - table["accuracy"]
    axes.bar(table["low"], gap, 0.94 * width, table["accuracy"], align="edge", color=LOST, alpha=0.6)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    for low, high, rows, accuracy in table.select("low", "high", "rows", "accuracy").iter_rows():
        axes.annotate(brief(rows), ((low + high) / 2, accuracy), (0, -9), textcoords="offset points", ha="center",
                      fontsize=6.5, color=GREY, clip_on=True)  # fmt: skip
    axes.set_ylim(0, 1.02)
    _percent_axis(axes, "x", "confidence")
    _percent_axis(axes, "y", "accuracy")
    return png(drawn)


def coverage_curve(points: pa.Table | pl.DataFrame) -> bytes:
    """Accuracy over the share of pictures answered, the surest first, as a PNG.

    Args:
        points: coverage, accuracy.
    """
    table = pl.DataFrame(points).filter(pl.col("coverage") > 0).sort("coverage")
    if not len(table):
        return nothing("No answers to leave out")
    drawn, axes = figure(3, "How many answers are right if the least sure are left out?")
    axes.plot(table["coverage"], table["accuracy"], color=AFTER)
    for wish in (0.9, 0.95):
        enough = table.filter(pl.col("accuracy") >= wish)
        if len(enough):
            most = enough["coverage"][-1]
            axes.plot([0, most, most], [wish, wish, 0], color=GREY, linestyle="--", linewidth=0.8)
            axes.annotate(f"{percent(most)} %", (most, wish), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_ylim(min(0.9, float(table["accuracy"].min()) - 0.05) if len(table) else 0, 1.005)  # type: ignore[arg-type]
    _percent_axis(axes, "x", "pictures answered")
    _percent_axis(axes, "y", "answers that are right")
    return png(drawn)


def bucket_bars(classes: pa.Table | pl.DataFrame) -> bytes:
    """Mean recall of the labels with many, some and few training pictures, as a PNG.

    Args:
        classes: bucket, support, recall (null without support).
    """
    table = pl.DataFrame(classes)
    names = [name for name in BUCKETS if (table["bucket"] == name).any()]
    if not names:
        return nothing("No labels to compare")
    drawn, axes = figure(rows_height(len(names)), "Mean recall of the labels by their training pictures")
    notes, means = [], []
    for name in names:
        recall = table.filter(pl.col("bucket") == name)["recall"].drop_nulls()
        means.append(float(recall.mean()) if len(recall) else 0.0)  # type: ignore[arg-type]
        number = counted(len(recall), "label", "labels")
        notes.append(f"{percent(means[-1])} % of {number}" if len(recall) else "no test pictures")
    axes.barh(range(len(names)), means, height=0.6, color=AFTER)
    named_rows(axes, [f"{name}: {BUCKETS[name].removesuffix(' training pictures')}" for name in names])
    row_notes(axes, notes)
    _percent_axis(axes, "x", "")
    return png(drawn)


def slice_bars(slices: pa.Table | pl.DataFrame) -> bytes:
    """Top-1 of each slice with its interval, the worst first, as a PNG; the worst of each kind is marked.

    Args:
        slices: slice, value, rows, top1, top1_low, top1_high, worst.
    """
    table = pl.DataFrame(slices).drop_nulls("top1").sort("top1")
    if not len(table):
        return nothing("No slice has enough pictures")
    shown = table[:MOST_SLICES]
    title = "Top-1 of parts of the pictures, the worst first"
    if len(shown) < len(table):
        title += f" ({len(shown)} of {exact(len(table))})"
    drawn, axes = figure(rows_height(len(shown)), title, "Orange: the worst of its kind. Lines are 95 % intervals.")
    for place, row in enumerate(shown.iter_rows(named=True)):
        colour = LOST if row["worst"] else AFTER
        if row["top1_low"] is not None and row["top1_high"] is not None:
            axes.plot([row["top1_low"], row["top1_high"]], [place, place], color=colour, linewidth=3, alpha=0.4)
        axes.plot(row["top1"], place, "o", color=colour, markersize=4.5)
    named_rows(axes, [plain(f"{name}: {value}") for name, value in shown.select("slice", "value").iter_rows()])
    row_notes(axes, [counted(rows, "picture", "pictures") for rows in shown["rows"]])
    _percent_axis(axes, "x", "")
    return png(drawn)


def _percent_axis(axes: "Axes", which: str, name: str) -> None:
    """Shares along the axis 'x' or 'y', written in percent; x from 0 to 1."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_label_text(name, fontsize=8)
    axes.grid(axis=which, color="#eeeeee", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    if which == "x":
        axes.set_xlim(0, 1)


def _figure(width: float, height: float, *, columns: int = 1) -> tuple["Figure", Any]:
    """A figure of `width` × `height` inches outside pyplot, so that no global state is kept or shared."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes | Any = figure.subplots(1, columns)
    return figure, axes


def _short(name: str) -> str:
    # matplotlib reads $…$ as a formula
    name = name.replace("$", r"\$")
    half = NAME_LENGTH // 2
    return name if len(name) <= NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"
