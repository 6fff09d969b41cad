"""What each filter left of the media and what it lost."""

from collections.abc import Sequence
from typing import NamedTuple

from gbif_platform.plots.figure import (
    AFTER,
    LOST,
    brief,
    count_axis,
    counted,
    exact,
    figure,
    legend,
    named_rows,
    nothing,
    plain,
    png,
    row_notes,
    rows_height,
    share,
)


class Row(NamedTuple):
    """One row of the funnel."""

    name: str
    left: int
    lost: int
    folded: int = 1  # steps that lost nothing, in one row


def funnel(steps: Sequence[tuple[str, int, int]]) -> bytes:
    """Bars of what is left after each step, as a PNG; steps that lost nothing are thin, several in a row share one.

    Args:
        steps: (name, left after the step, lost by the step), in order; the first one's left + lost is the whole.
    """
    if not steps:
        return nothing("Funnel: no filters, no media.")
    rows = folded(steps)
    whole, left = steps[0][1] + steps[0][2], steps[-1][1]
    title = f"{exact(left)} of {counted(whole, 'medium', 'media')} left ({share(left, whole)})"
    drawn, axes = figure(rows_height(len(rows), 1.2), title, "A share is of the media that reached the filter.")
    thick = [0.8 if row.lost or not index else 0.25 for index, row in enumerate(rows)]
    axes.barh(range(len(rows)), [row.left for row in rows], color=AFTER, height=thick)
    axes.barh(range(len(rows)), [row.lost for row in rows], left=[row.left for row in rows], color=LOST, height=thick)
    named_rows(axes, [row.name for row in rows])
    row_notes(axes, [brief(row.left) for row in rows])
    row_notes(
        axes, [f"−{brief(row.lost)} ({share(row.lost, row.left + row.lost)})" if row.lost else "" for row in rows], 42
    )
    count_axis(axes, "x", log=False)
    legend(axes, ["left", "lost"], [AFTER, LOST])
    return png(drawn)


def folded(steps: Sequence[tuple[str, int, int]]) -> list[Row]:
    """A row a step; after the second, neighbours that lost nothing become one."""
    rows: list[Row] = []
    for index, (name, left, lost) in enumerate(steps):
        previous = rows[-1] if rows else None
        if previous and index > 1 and not lost and not previous.lost:
            folded = previous.folded + 1
            rows[-1] = Row(f"{folded} filters lost nothing", left, 0, folded)
        else:
            rows.append(Row(plain(name), left, lost))
    return rows
