"""Charts of the report as inline SVG: no style of their own, so that the page's style sheet and its dark side hold.

Every text goes through markupsafe; nothing but numbers is written without it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from markupsafe import Markup, escape

from gbif_platform.evaluation.plots import FEW_CLASSES, shown_confusion
from gbif_platform.evaluation.wording import percent
from gbif_platform.plots.figure import brief, exact

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 30, 42
NAME_LENGTH = 30
LETTER = 6.3  # mean width of a letter at 12 px
Text = Callable[[float], str]


def tag(name: str, *inside: str, **attributes: object) -> Markup:
    """An element; `class_` is written `class`, `stroke_width` `stroke-width`. All text is escaped."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{said}>{Markup('').join(inside)}</{name}>")  # noqa: S704  # all of it is escaped


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def svg(width: float, height: float, label: str, parts: Iterable[str]) -> Markup:
    """A drawing that a screen reader calls `label`."""
    return tag("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img",
               aria_label=label, class_="chart")  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` along the pixels from `start` to `end`; `log`: by their decimal logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Four to seven round values in the range."""
        if self.log:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**exponent for exponent in exponents][:: max(1, len(exponents) // 6)]
        from matplotlib.ticker import MaxNLocator

        slack = 1e-9 * (self.high - self.low)
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(value) for value in values if self.low - slack <= value <= self.high + slack]


@dataclass(frozen=True)
class Frame:
    """The axes of a chart."""

    x: Scale
    y: Scale

    def drawn(self, x_label: str, y_label: str, x_text: Text, y_text: Text) -> list[Markup]:
        """Grid lines, numbers and names of the axes."""
        parts = []
        for value in self.y.ticks():
            at = self.y(value)
            parts.append(_line(self.x.start, at, self.x.end, at, "grid"))
            parts.append(_text(self.x.start - 7, at + 4, y_text(value), "tick end"))
        for value in self.x.ticks():
            parts.append(_line(self.x(value), self.y.start, self.x(value), self.y.start + 4, "axis"))
            parts.append(_text(self.x(value), self.y.start + 18, x_text(value), "tick middle"))
        parts.append(_line(self.x.start, self.y.start, self.x.end, self.y.start, "axis"))
        parts.append(_text((self.x.start + self.x.end) / 2, self.y.start + 36, x_label, "name middle"))
        parts.append(_text(4, 13, y_label, "name"))
        return parts

    def path(self, xs: Iterable[float | None], ys: Iterable[float | None], class_: str) -> Markup:
        """A line through points; None and NaN are left out."""
        points = [
            (x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None and math.isfinite(x + y)
        ]
        if len(points) == 1:
            return tag("circle", cx=self.x(points[0][0]), cy=self.y(points[0][1]), r=4, class_=f"dot {class_}")
        return tag(
            "path", d="M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points), class_=f"line {class_}"
        )


def frame(
    x: tuple[float, float], y: tuple[float, float], *, x_log: bool = False, height: float = HEIGHT, width: float = WIDTH
) -> Frame:
    """Axes that fill a chart of the common size."""
    return Frame(Scale(*x, LEFT, width - RIGHT, x_log), Scale(*y, height - BOTTOM, TOP))


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def _text(x: float, y: float, text: str, class_: str) -> Markup:
    return tag("text", escape(text), x=float(x), y=float(y), class_=class_)


def _legend(names: Sequence[tuple[str, str]]) -> list[Markup]:
    """Colour and name of each series (class, name), at the right above the axes."""
    parts: list[Markup] = []
    right = float(WIDTH - RIGHT)
    for class_, name in reversed(names):
        right -= LETTER * len(name)
        parts += [_text(right, 13, name, "name"), _line(right - 20, 9, right - 5, 9, f"line {class_}")]
        right -= 32
    return parts


def curves(history: Sequence[Mapping[str, float]], baseline: float | None) -> list[Markup]:
    """Charts of a training: loss, accuracy of validation, learning rate; those with no numbers are left out.

    Args:
        history: a row an epoch, any of `train_loss`, `val_loss`, `val_top1`, `val_macro`, `learning_rate`.
        baseline: top-1 of the commonest label.
    """
    charts = [
        _curve(history, "loss", {"train_loss": "training", "val_loss": "validation"}, None),
        _curve(history, "accuracy of validation", {"val_top1": "top-1", "val_macro": "macro"}, baseline),
        _curve(history, "learning rate", {"learning_rate": ""}, None),
    ]
    return [chart for chart in charts if chart]


def _curve(
    history: Sequence[Mapping[str, float]], label: str, names: Mapping[str, str], baseline: float | None
) -> Markup:
    epochs = [row["epoch"] + 1 for row in history]
    series = {title: [row.get(key) for row in history] for key, title in names.items()}
    values = [value for numbers in series.values() for value in numbers if value is not None and math.isfinite(value)]
    if not values:
        return Markup("")
    is_share = "accuracy" in label
    last = max(epochs)
    axes = frame((1, last) if last > 1 else (0, 2), (0, 1 if is_share else max(values) * 1.05 or 1))
    parts = axes.drawn("epoch", label, _whole, percent_tick if is_share else _number)
    if baseline is not None and math.isfinite(baseline):
        parts.append(_line(axes.x.start, axes.y(baseline), axes.x.end, axes.y(baseline), "reference"))
        parts.append(_text(axes.x.end, axes.y(baseline) - 6, "commonest label", "tick end"))
    shades = ["s3", "s2"] if "training" in series else ["s1", "s2"]
    shown = [(shade, title) for shade, (title, numbers) in zip(shades, series.items(), strict=False)
             if any(number is not None for number in numbers)]  # fmt: skip
    parts += [axes.path(epochs, series[title], shade) for shade, title in shown]
    parts += _legend([(shade, title) for shade, title in shown if title])
    return svg(WIDTH, HEIGHT, f"{label} over the epochs", parts)


def reliability_diagram(bins: pl.DataFrame) -> Markup:
    """Accuracy in each bin of confidence against the diagonal, and below it the share of pictures in each.

    Args:
        bins: `low`, `high`, `rows`, `confidence`, `accuracy`; empty bins are passed over.
    """
    below = 60
    axes = frame((0, 1), (0, 1), height=HEIGHT + 40)
    rows = Scale(0, float(bins["rows"].max() or 1), HEIGHT + 40 + below - 8, HEIGHT + 40 + 8)  # type: ignore[arg-type]
    parts = axes.drawn("confidence, %", "accuracy, %", percent_tick, percent_tick)
    for row in bins.filter(pl.col("rows") > 0).iter_rows(named=True):
        left, right = axes.x(row["low"]) + 1, axes.x(row["high"]) - 1
        words = f"{percent(row['low'])}–{percent(row['high'])} %: {exact(row['rows'])} pictures, "
        words += f"mean confidence {percent(row['confidence'])} %, {percent(row['accuracy'])} % right"
        title = tag("title", escape(words))
        parts.append(_box(left, right, axes.y(row["accuracy"]), axes.y(0), "bar s1", title))
        upper, lower = sorted((axes.y(row["accuracy"]), axes.y(row["confidence"])))
        parts.append(_box(left, right, upper, lower, "bar s2", title))
        parts.append(_box(left, right, rows(row["rows"]), rows.start, "bar s0", title))
    parts.append(_line(axes.x(0), axes.y(0), axes.x(1), axes.y(1), "reference"))
    parts.append(_line(axes.x.start, rows.start, axes.x.end, rows.start, "axis"))
    parts += [_text(axes.x.start - 7, rows.start - 14, "pictures", "tick end")]
    parts += _legend([("s1", "right"), ("s2", "gap to what they say")])
    return svg(WIDTH, HEIGHT + 40 + below, "reliability diagram", parts)


def _box(left: float, right: float, top: float, bottom: float, class_: str, *inside: Markup) -> Markup:
    # A bar of a few pictures must not vanish beside one of many.
    height = max(bottom - top, 0.7)
    return tag("rect", *inside, x=float(left), y=float(bottom - height), width=float(max(right - left, 0.5)),
               height=float(height), class_=class_)  # fmt: skip


def coverage_curve(points: pl.DataFrame) -> Markup:
    """Accuracy over the share of pictures that are answered, the surest first.

    Args:
        points: `coverage`, `accuracy`, both 0..1; thinned to 300.
    """
    shown = points.sort("coverage").filter(pl.col("coverage") > 0)
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, 300).astype(int)).tolist()] if len(shown) else shown
    least = float(shown["accuracy"].min() or 0) if len(shown) else 0.0  # type: ignore[arg-type]
    axes = frame((0, 1), (math.floor(10 * least) / 10 if least > 0.5 else 0, 1))
    parts = axes.drawn("pictures answered, %", "answers that are right, %", percent_tick, percent_tick)
    parts.append(axes.path(shown["coverage"], shown["accuracy"], "s1"))
    return svg(WIDTH, HEIGHT, "accuracy over coverage", parts)


def recall_over_pictures(classes: pl.DataFrame) -> Markup:
    """One dot a label: recall over training pictures (logarithmic).

    Args:
        classes: `train_pictures`, `recall`; labels without either are passed over.
    """
    shown = classes.drop_nulls("recall").filter(pl.col("train_pictures") > 0)
    if not len(shown):
        return Markup("")
    pictures, recall = shown["train_pictures"].to_numpy(), shown["recall"].to_numpy()
    axes = frame(
        (10 ** math.floor(math.log10(pictures.min())), 10 ** math.ceil(math.log10(pictures.max() + 1))),
        (0, 1),
        x_log=True,
    )
    parts = axes.drawn("training pictures of the label", "recall, %", brief, percent_tick)
    for edge in (20, 100):
        if axes.x.low < edge < axes.x.high:
            parts.append(_line(axes.x(edge), axes.y.start, axes.x(edge), axes.y.end, "reference"))
    dots = sorted({f"M{axes.x(n):.0f} {axes.y(r):.0f}h0" for n, r in zip(pictures, recall, strict=True)})
    parts.append(tag("path", d="".join(dots), class_="cloud s1" if len(shown) > 200 else "cloud large s1"))
    means = mean_recall(shown)
    if len(means) > 2:
        parts.append(axes.path(means["train_pictures"], means["recall"], "s2"))
    return svg(WIDTH, HEIGHT, "recall of each label over its training pictures", parts)


def mean_recall(classes: pl.DataFrame) -> pl.DataFrame:
    """Means of `train_pictures` (geometric) and `recall` over labels in steps of half a decade, at least 3 in each."""
    step = (pl.col("train_pictures").log10() * 2).floor().alias("step")
    means = classes.group_by(step).agg(
        pl.col("train_pictures").log10().mean().alias("exponent"), pl.col("recall").mean(), pl.len().alias("labels")
    )
    means = means.filter(pl.col("labels") >= 3).sort("step")
    return means.select((10 ** pl.col("exponent")).alias("train_pictures"), "recall")


def confusion_heatmap(confusion: np.ndarray, labels: Sequence[str]) -> Markup:
    """Share of each true label's pictures by answer; of over 30 labels the 29 with most errors and all others."""
    matrix, names = shown_confusion(confusion, labels)
    support = np.maximum(matrix.sum(axis=1), 1)
    cut = len(names) < len(labels)
    cell = 34 if len(names) <= FEW_CLASSES else 18
    shorter = [_name(name) for name in names]
    left = LETTER * max(map(len, shorter)) + 14
    top = left * 0.72 + 10
    side = cell * len(names)
    parts = [tag("rect", x=float(left), y=float(top), width=side, height=side, class_="empty")]
    for (row, column), rows in np.ndenumerate(matrix):
        if not rows or (cut and row == column == len(names) - 1):
            continue
        share = float(rows / support[row])
        words = f"{names[row]} answered as {names[column]}: {exact(rows)} of {exact(support[row])}"
        x, y = left + column * cell, top + row * cell
        shade = "right" if row == column else "wrong"
        parts.append(
            tag("rect", tag("title", escape(words)), x=x + 0.5, y=y + 0.5, width=cell - 1, height=cell - 1,
                class_=shade, fill_opacity=f"{0.08 + 0.92 * share:.2f}")
        )  # fmt: skip
        if len(names) <= FEW_CLASSES:
            parts.append(_text(x + cell / 2, y + cell / 2 + 4, brief(rows), f"cell {'over' if share > 0.5 else ''}"))
    for place, name in enumerate(shorter):
        middle = (place + 0.5) * cell
        parts.append(_text(left - 6, top + middle + 4, name, "tick end"))
        parts.append(tag("text", escape(name), x=0, y=0, class_="tick",
                         transform=f"translate({left + middle + 3:.1f} {top - 6:.1f}) rotate(-45)"))  # fmt: skip
    # Slanted names of the last columns reach beyond the square.
    return svg(left + side + top, top + side + 4, "confusion matrix: a row for each true label", parts)


def _name(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}…{name[1 - NAME_LENGTH // 2 :]}"


def interval_mark(value: float | None, low: float | None, high: float | None, baseline: float | None) -> Markup:
    """A small drawing for a table's cell: interval, value and baseline of a share on a line from 0 to 1."""
    width, middle = 150, 8
    scale = Scale(0, 1, 2, width - 2)
    parts = [_line(scale(0), middle, scale(1), middle, "grid")]
    if low is not None and high is not None and math.isfinite(low + high):
        parts.append(_line(scale(low), middle, scale(high), middle, "interval"))
    if baseline is not None and math.isfinite(baseline):
        parts.append(_line(scale(baseline), middle - 6, scale(baseline), middle + 6, "baseline"))
    if value is not None and math.isfinite(value):
        parts.append(tag("circle", cx=float(scale(min(max(value, 0), 1))), cy=middle, r=3.5, class_="dot s1"))
    return tag("svg", *parts, viewBox=f"0 0 {width} 16", width=width, height=16, aria_hidden="true", class_="mark")


def difference_mark(value: float, low: float, high: float, reach: float, *, higher_is_better: bool = True) -> Markup:
    """A small drawing for a table's cell: a difference and its interval on a line from −reach to reach."""
    width, middle = 160, 8
    scale = Scale(-reach, reach, 2, width - 2)
    above, below = ("better", "worse") if higher_is_better else ("worse", "better")
    class_ = above if low > 0 else below if high < 0 else "even"
    parts = [
        _line(scale(-reach), middle, scale(reach), middle, "grid"),
        _line(scale(0), 1, scale(0), 15, "baseline"),
        _line(scale(max(low, -reach)), middle, scale(min(high, reach)), middle, f"interval {class_}"),
        tag("circle", cx=float(scale(min(max(value, -reach), reach))), cy=middle, r=3.5, class_=f"dot {class_}"),
    ]
    return tag("svg", *parts, viewBox=f"0 0 {width} 16", width=width, height=16, aria_hidden="true", class_="mark")


def percent_tick(value: float) -> str:
    """A share on an axis: '40', '2.5'."""
    return f"{100 * value:.4g}"


def _whole(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else ""


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
