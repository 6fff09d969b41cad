"""Pictures of a training and its evaluation, as PNG bytes under 100 kB. matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gbif_platform.plots.figure import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 30  # in the confusion matrix; the others share one row and column
FEW_CLASSES = 15  # up to these the matrix shows its numbers
NAME_LENGTH = 28
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
