"""What the plots share: the size, the colours, how numbers and names from outside are written, and the way to a PNG."""

import io
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches; 648 pixels, the width of Dagster's metadata column
DPI = 90
NAMED = 40  # more labels than this become a curve over their rank
BEFORE, AFTER, LOST = "#b9c9bd", "#2f6b4f", "#d98e32"
COLOURS = (BEFORE, AFTER, LOST, "#4f77aa", "#8c5a8f", "#777777", "#a8b545", "#c46a6a")
INK, GREY = "#222222", "#666666"
SPACE = "\N{NO-BREAK SPACE}"  # inside a number and before its unit
NAME_LENGTH = 36
LEGEND_COLUMNS, LEGEND_NAME = 4, 16
LINE = 112  # signs of the words below a drawing


def figure(height: float, title: str = "", words: str = "") -> tuple["Figure", "Axes"]:
    """A figure outside pyplot (no global state), its title above and its words below.

    Args:
        height: inches, with one line of words.
        title: a sentence that says what is seen.
        words: what the drawing cannot say; wrapped, its lines kept apart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for part in words.splitlines() for line in textwrap.wrap(part, LINE)]
    drawn = Figure(figsize=(WIDTH, height + 0.15 * max(0, len(lines) - 1)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.get_layout_engine().set(w_pad=0.07, h_pad=0.07)  # type: ignore[union-attr,call-arg]
    if title:
        drawn.suptitle(title, x=0.012, ha="left", fontsize=9.5, color=INK)
    if lines:
        drawn.supxlabel("\n".join(lines), x=0.012, ha="left", fontsize=8, color=GREY)
    axes: Axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY, labelcolor=INK)
    return drawn, axes


def png(drawn: "Figure") -> bytes:
    """The figure as a PNG with a palette, a third as large as one in full colours."""
    from PIL import Image

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no news for a log.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        small = image.convert("RGB").quantize(128)
    packed = io.BytesIO()
    small.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def nothing(title: str) -> bytes:
    """A small picture that says that there is nothing to draw."""
    drawn, axes = figure(0.6)
    axes.set_axis_off()
    axes.text(0, 0.5, title, fontsize=9.5, color=GREY, va="center", transform=axes.transAxes)
    return png(drawn)


def plain(text: str, width: int = NAME_LENGTH) -> str:
    """A name from outside as matplotlib draws it: one line, no formula, at most `width` characters."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:1000]).split()) or "(no name)"
    if len(line) > width:
        line = f"{line[: width - 1]}…"
    return line.replace("$", r"\$")  # matplotlib reads $…$ as a formula


def exact(number: float) -> str:
    """12345 as '12 345'."""
    return f"{number:,.0f}".replace(",", SPACE)


def counted(number: float, one: str, many: str) -> str:
    """'1 label', '12 345 labels'."""
    return f"{exact(number)} {one if number == 1 else many}"


def brief(number: float) -> str:
    """A count in at most five signs: 999, 12.3 k, 1.2 M, 100 M."""
    for least, size, unit in ((0.9995e9, 1e9, "G"), (0.9995e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            digits = f"{number / size:.3g}" if number < 999.5 * size else exact(number / size)
            return f"{digits}{SPACE}{unit}"
    return exact(number) if number == int(number) else f"{number:.3g}"


def share(part: float, whole: float) -> str:
    """A share in percent that never calls something nothing, nor nearly all all."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return f"<0.1{SPACE}%"
    if 99.9 < percent < 100:
        return f">99.9{SPACE}%"
    return f"{percent:.1f}{SPACE}%" if percent < 10 or 99 < percent < 100 else f"{percent:.0f}{SPACE}%"


def colours(series: int, *, behind: bool) -> list[str]:
    """One colour a series; the pale one is for what stands behind another."""
    return list(islice(cycle(COLOURS if behind else COLOURS[1:]), series))


def long_range(values: Iterable[float]) -> bool:
    """True where a linear axis hides half of the values: the largest is over 20 times the median of those > 0."""
    positive = sorted(value for value in values if value > 0)
    return len(positive) > 1 and positive[-1] > 20 * positive[len(positive) // 2]


def count_axis(axes: "Axes", which: str, *, log: bool) -> None:
    """Counts along the axis 'x' or 'y', from 0, with short numbers; logarithmic from 1 upwards where asked."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, SymmetricalLogLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=1)
        locator: Any = SymmetricalLogLocator(base=10, linthresh=1)
        locator.set_params(numticks=7)
        axis.set_major_locator(locator)
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    axes.grid(axis=which, color="#eeeeee", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    (axes.set_xlim if which == "x" else axes.set_ylim)(0)


def legend(axes: "Axes", names: Sequence[str], shades: Sequence[str]) -> None:
    """A legend between title and axes, one patch a series (names are `plain`); more lines make the figure higher."""
    from matplotlib.patches import Patch

    columns = min(len(names), LEGEND_COLUMNS)
    drawn = axes.figure
    drawn.set_figheight(drawn.get_figheight() + 0.2 * ((len(names) - 1) // columns))  # type: ignore[union-attr]
    axes.legend(
        [Patch(color=shade) for shade in shades],
        [f" {name}" for name in names],  # matplotlib leaves out what begins with an underscore
        frameon=False, fontsize=8, ncols=columns,
        loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, handlelength=1.2, handleheight=0.8,
        handletextpad=0.3,
    )  # fmt: skip


def named_rows(axes: "Axes", names: Sequence[str]) -> None:
    """One row a name, the first at the top."""
    axes.set_yticks(range(len(names)), list(names), fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def rows_height(rows: int, extra: float = 0.95) -> float:
    """Inches that `rows` named rows need, with the title and the axis."""
    return 0.24 * rows + extra


def row_notes(axes: "Axes", notes: Sequence[str], indent: float = 4) -> None:
    """A text at the right of each row, `indent` points away from the axes."""
    for row, note in enumerate(notes):
        axes.annotate(note, (1, row), (indent, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                      va="center", fontsize=8, color=GREY)  # fmt: skip
