"""Bar charts for the asset pages: small PNGs, readable with ten labels and with ten thousand."""

import io
from collections.abc import Mapping, Sequence

NAMED = 40  # more labels than this become a curve over their rank
COLOURS = ("#b9c9bd", "#2f6b4f", "#d98e32", "#4f77aa", "#8c5a8f", "#777777")


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], *, stacked: bool = False) -> bytes:
    """Values of each label, as horizontal bars; of many labels as a curve from the most to the least.

    Args:
        labels: names, in the order of drawing.
        series: one or more named series, each as long as `labels`; later ones are drawn over earlier ones.
        stacked: draw the series one after another instead.

    Returns:
        A PNG of a few dozen kB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    named = len(labels) <= NAMED
    figure = Figure(figsize=(7.2, max(1.6, 0.24 * len(labels) + 0.9) if named else 3.2), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    before = [0.0] * len(labels)
    colours = COLOURS if len(series) > 1 and not stacked else COLOURS[1:]
    for (name, values), colour in zip(series.items(), colours, strict=False):
        if named:
            axes.barh(range(len(labels)), values, left=before, color=colour, label=name, height=0.8)
        else:
            axes.fill_between(range(len(labels)), before, [b + v for b, v in zip(before, values, strict=True)],
                              color=colour, label=name, step="mid")  # fmt: skip
        if stacked:
            before = [b + v for b, v in zip(before, values, strict=True)]
    if named:
        axes.set_yticks(range(len(labels)), [_short(label) for label in labels], fontsize=8)
        axes.invert_yaxis()
        axes.set_ylim(len(labels) - 0.4, -0.6)
    else:
        axes.set_xlabel(f"{len(labels):,} labels, from the most to the least")
        axes.set_yscale("symlog")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    else:
        axes.set_xlabel(next(iter(series)), fontsize=8)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _short(text: str, width: int = 36) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
