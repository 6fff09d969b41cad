"""Numbers of each label: plain bars, the classes before and after sampling, the subsets of the split."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from gbif_platform.plots.figure import (
    AFTER,
    BEFORE,
    INK,
    LEGEND_NAME,
    LOST,
    NAMED,
    brief,
    colours,
    count_axis,
    counted,
    exact,
    figure,
    legend,
    long_range,
    named_rows,
    nothing,
    plain,
    png,
    row_notes,
    rows_height,
    share,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 1200
ABSENT_LINES = 5
RANK_BINS = 120  # steps along the rank curve of the split's shares


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], *, stacked: bool = False) -> bytes:
    """Values of each label, as horizontal bars; of more than 40 labels as a curve from the most to the least.

    Args:
        labels: names, in the order of drawing.
        series: one or more named series, each as long as `labels`; later ones are drawn over earlier ones.
        stacked: draw the series one after another instead; a curve is then sorted by their sum, else each by itself.

    Returns:
        A PNG of a few dozen kB, 648 pixels wide.
    """
    if not labels or not series:
        return nothing("Nothing to show.")
    values = [np.nan_to_num(np.asarray(list(row), dtype=np.float64)) for row in series.values()]
    shades = colours(len(series), behind=len(series) > 1 and not stacked)
    few = len(labels) <= NAMED
    log = not few or (not stacked and long_range(np.concatenate(values)))
    drawn, axes = figure(rows_height(len(labels)) if few else 3.2, words="Logarithmic scale." if log else "")
    order = np.argsort(-np.sum(values, axis=0), kind="stable")
    before = np.zeros(len(labels))
    for row, shade in zip(values, shades, strict=True):
        if few:
            axes.barh(range(len(labels)), row, left=before, color=shade, height=0.8)
        else:
            curve = before + row[order] if stacked else np.sort(row)[::-1]
            _curve(axes, curve, shade, before)
        if stacked:
            before = before + row if few else curve
    if few:
        named_rows(axes, [plain(label) for label in labels])
        count_axis(axes, "x", log=log)
    else:
        _rank_axis(axes, len(labels))
        count_axis(axes, "y", log=log)
    if len(series) > 1:
        legend(axes, [plain(name, LEGEND_NAME) for name in series], shades)
    elif few:
        row_notes(axes, [brief(value) for value in values[0]])
        axes.set_xlabel(plain(next(iter(series))), fontsize=8)
    else:
        axes.set_ylabel(plain(next(iter(series))), fontsize=8)
    return png(drawn)


def class_distribution(available: Mapping[str, int], taken: Mapping[str, int]) -> bytes:
    """Media of each label before and after sampling, as a PNG; of more than 40 labels as curves over the rank.

    The two curves are sorted each by itself, from the most to the least. A quota shows as a level stretch.

    Args:
        available: label → media that could have been taken.
        taken: label → media in the sample.
    """
    labels = sorted(available.keys() | taken.keys(), key=lambda label: (-available.get(label, 0), label))
    if not labels:
        return nothing("Sample: no labels, no media.")
    had = [available.get(label, 0) for label in labels]
    got = [taken.get(label, 0) for label in labels]
    title = f"Sample: {exact(sum(got))} of {exact(sum(had))} media, {counted(len(labels), 'label', 'labels')}"
    few = len(labels) <= NAMED
    log = long_range([*had, *got]) or not few
    words = _taken_in_words(got) + (" Logarithmic scale." if log else "")
    drawn, axes = figure(rows_height(len(labels), 1.2) if few else 3.4, title, words)
    if few:
        axes.barh(range(len(labels)), had, color=BEFORE, height=0.8)
        axes.barh(range(len(labels)), got, color=AFTER, height=0.5)
        named_rows(axes, [plain(label) for label in labels])
        row_notes(axes, [f"{brief(took)} of {brief(of)}" for took, of in zip(got, had, strict=True)])
        count_axis(axes, "x", log=log)
    else:
        _curve(axes, np.array(had), BEFORE)
        _curve(axes, np.sort(got)[::-1], AFTER)
        _rank_axis(axes, len(labels))
        axes.set_ylabel("media of a label", fontsize=8)
        count_axis(axes, "y", log=log)
        _mark_quota(axes, got)
    legend(axes, ["available", "taken"], [BEFORE, AFTER])
    return png(drawn)


def subset_balance(labels: Sequence[str], series: Mapping[str, Sequence[int]]) -> bytes:
    """Pictures of each label in each subset, as a PNG; of more than 40 labels as shares along the rank.

    Args:
        labels: names, in any order; the picture goes from the most pictures to the fewest.
        series: subset → pictures of each label, as long as `labels`.
    """
    counts = np.array([list(row) for row in series.values()], dtype=np.float64).reshape(len(series), len(labels))
    if not counts.sum():
        return nothing("Split: no pictures in any subset.")
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    counts, names = counts[:, order], [labels[index] for index in order]
    filled = int(np.count_nonzero(counts.sum(axis=0)))
    few = len(labels) <= NAMED
    title = f"Split: {counted(counts.sum(), 'picture', 'pictures')} of {counted(filled, 'label', 'labels')}"
    words = [*_absent(list(series), counts[:, :filled], names)]
    if filled < len(labels):
        words.append(f"{counted(len(labels) - filled, 'label has', 'labels have')} no picture in any subset.")
    drawn, axes = figure(rows_height(len(labels), 1.2) if few else 3.4, title, "\n".join(words))
    shades = colours(len(series), behind=False)
    if few:
        before = np.zeros(len(labels))
        for row, shade in zip(counts, shades, strict=True):
            axes.barh(range(len(labels)), row, left=before, color=shade, height=0.8)
            before += row
        named_rows(axes, [plain(name) for name in names])
        row_notes(axes, [brief(total) for total in before])
        count_axis(axes, "x", log=False)
    else:
        edges = np.unique(np.linspace(0, filled, min(RANK_BINS, filled) + 1).astype(int))
        sums = np.add.reduceat(counts[:, :filled], edges[:-1], axis=1)
        shares = sums / np.maximum(sums.sum(axis=0), 1)
        axes.stackplot(edges, np.hstack([shares, shares[:, -1:]]), colors=shades, step="post", linewidth=0)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_ylabel("share of the pictures", fontsize=8)
        _rank_axis(axes, filled)
    totals = counts.sum(axis=1)
    names = [f"{plain(name, LEGEND_NAME)} {share(of, totals.sum())}" for name, of in zip(series, totals, strict=True)]
    legend(axes, names, shades)
    return png(drawn)


def _curve(axes: "Axes", values: np.ndarray, shade: str, before: np.ndarray | float = 0.0) -> None:
    """Values in the order of their rank, as an area above `before`; no finer than the picture."""
    edges = np.unique(np.linspace(0, len(values), min(len(values), PIXELS) + 1).astype(int))
    base = before[edges[:-1]] if isinstance(before, np.ndarray) else before
    axes.stairs(values[edges[:-1]], edges, baseline=base, fill=True, color=shade)


def _rank_axis(axes: "Axes", labels: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, labels)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: exact(value)))
    axes.set_xlabel(f"{exact(labels)} labels, from the most to the least", fontsize=8)


def _mark_quota(axes: "Axes", taken: Sequence[int]) -> None:
    """A dashed line where many labels stop at the same largest number."""
    most = max(taken)
    reached = taken.count(most)
    if most and reached >= max(3, len(taken) // 100):
        axes.axhline(most, color=LOST, linewidth=1, linestyle="--")
        axes.text(0.99, most, f"at most {exact(most)}, in {exact(reached)} labels", color=INK, fontsize=8, ha="right",
                  va="bottom", transform=axes.get_yaxis_transform())  # fmt: skip


def _taken_in_words(taken: Sequence[int]) -> str:
    some = [took for took in taken if took]
    if not some:
        return "Nothing was taken of any label."
    words = f"Taken of a label: median {brief(median(some))}, least {brief(min(some))}, most {brief(max(some))}."
    without = len(taken) - len(some)
    return words + (f" {counted(without, 'label has', 'labels have')} nothing taken." if without else "")


def _absent(subsets: Sequence[str], counts: np.ndarray, names: Sequence[str]) -> list[str]:
    """A line for each subset that lacks labels; `counts` (subsets, labels) of the labels that have pictures."""
    lines = []
    for subset, row in zip(subsets, counts, strict=True):
        absent = np.flatnonzero(row == 0)
        if len(absent):
            some = ", ".join(plain(names[index], 24) for index in absent[:2]) + (", …" if len(absent) > 2 else "")
            lines.append(f"{plain(subset, 24)} lacks {exact(len(absent))} of {exact(len(row))} labels: {some}")
    if len(lines) > ABSENT_LINES:
        lines[ABSENT_LINES - 1 :] = [f"{len(lines) - ABSENT_LINES + 1} more subsets lack labels."]
    return lines or ["Every label is in every subset."]
