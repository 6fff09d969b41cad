"""Media by year, before and after sampling."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gbif_platform.plots.figure import (
    AFTER,
    BEFORE,
    count_axis,
    counted,
    figure,
    legend,
    long_range,
    nothing,
    png,
    share,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = 40  # years that are always drawn one by one
BARS = 90
FEWEST = 12  # years of the axis
TAIL = 0.01  # share of the media that one bar may stand for at either end


class Years(NamedTuple):
    """The years of the axis."""

    first: int  # of the years drawn one by one
    last: int
    early: bool  # a bar stands for the years before `first`
    late: bool
    width: int  # years in a bar

    @property
    def apart(self) -> float:
        """Years from the others to the middle of a tail's bar: room for its label."""
        return max(1.5 * self.width, 0.08 * (self.last - self.first + 1))


def timeline(sample: Mapping[int, int], available: Mapping[int, int] | None = None) -> bytes:
    """Media by year, as a PNG: what was available pale, the sample over it.

    Where a few old years would leave most of the axis empty, one bar stands for all of them, and the words say so.
    Over 90 years a bar is 5, 10 or more years wide.

    Args:
        sample: year → media of the sample.
        available: year → media that could have been taken.
    """
    counts = {year: media for year, media in sample.items() if media > 0}
    behind = {year: media for year, media in (available or {}).items() if media > 0}
    if not counts and not behind:
        return nothing("Media by year: none has a year.")
    years = shown_years(_weights(counts, behind))
    before, after = binned(behind, years), binned(counts, years)
    places = sorted(before.keys() | after.keys())
    log = long_range([max(before.values(), default=0), *after.values()]) if behind else False
    drawn, axes = figure(2.6, _title(counts, behind), _words(counts or behind, years, log=log))
    for bars, shade in ((before, BEFORE), (after, AFTER)):
        axes.bar(places, [bars.get(place, 0) for place in places], width=0.85 * years.width, color=shade)
    count_axis(axes, "y", log=log)
    axes.set_ylabel("media" if years.width == 1 else f"media in {years.width} years", fontsize=8)
    _year_axis(axes, years)
    if behind:
        legend(axes, ["available", "sample"], [BEFORE, AFTER])
    return png(drawn)


def _weights(*all_counts: Mapping[int, int]) -> dict[int, float]:
    """Each year's share, summed over the series, so that the larger does not decide alone which years are tails."""
    weights: dict[int, float] = {}
    for counts in all_counts:
        whole = sum(counts.values())
        for year, media in counts.items():
            weights[year] = weights.get(year, 0.0) + media / whole
    return weights


def shown_years(media: Mapping[int, float]) -> Years:
    """The axis for the media (or weights) of each year: long nearly empty ends are cut off."""
    years = sorted(media)
    low, high = years[0], years[-1]
    first, last = low, high
    if high - low >= SHORT:
        least = TAIL * sum(media.values())
        from_low, from_high = _beyond(years, media, least) // 10 * 10, _beyond(years[::-1], media, least)
        empty = max(SHORT / 4, (from_high - from_low) / 2)
        first = from_low if from_low - low > empty else low
        last = from_high if high - from_high > empty else high
    width = _round_step((last - first + 1) / BARS)
    if width > 1:
        first, last = first // width * width, last // width * width + width - 1
    return Years(first, last, low < first, high > last, width)


def _beyond(years: list[int], media: Mapping[int, float], least: float) -> int:
    """The first year at which more than `least` has come together."""
    together = 0.0
    for year in years:
        together += media[year]
        if together > least:
            return year
    return years[-1]


def _round_step(least: float) -> int:
    """The smallest of 1, 5, 10, 50, 100, 500 … that is at least `least`."""
    step = 1
    while step < least:
        step *= 2 if str(step).startswith("5") else 5
    return step


def binned(media: Mapping[int, int], years: Years) -> Counter[float]:
    """Media by the middle of their bar; the bars of the tails stand apart."""
    bars: Counter[float] = Counter()
    for year, count in media.items():
        if year < years.first:
            place = years.first - years.apart
        elif year > years.last:
            place = years.last + 1 + years.apart
        else:
            place = (year - years.first) // years.width * years.width + years.first + years.width / 2
        bars[place] += count
    return bars


def _year_axis(axes: "Axes", years: Years) -> None:
    step = max(years.width, _round_step((years.last - years.first + 1) / 9))
    shift = 0.5 if years.width == 1 else 0.0
    ticks = [year + shift for year in range(-(-years.first // step) * step, years.last + 1, step)]
    names = [str(int(tick)) for tick in ticks]
    if years.early:
        ticks.append(years.first - years.apart)
        names.append(f"before\n{years.first}")
    if years.late:
        ticks.append(years.last + 1 + years.apart)
        names.append(f"after\n{years.last}")
    axes.set_xticks(ticks, names)
    ends = years.apart + years.width
    low, high = years.first - ends * years.early - 0.5, years.last + 1 + ends * years.late + 0.5
    room = max(0.0, FEWEST - (high - low)) / 2  # a lonely year is no wall
    axes.set_xlim(low - room, high + room)


def _title(sample: Mapping[int, int], available: Mapping[int, int]) -> str:
    counts, what = (sample, "sample") if sample else (available, "available media (nothing is in the sample)")
    low, high = min(counts), max(counts)
    if low == high:
        return f"The {what} has {counted(sum(counts.values()), 'medium', 'media')}, all from {low}"
    middle = _beyond(sorted(counts), counts, sum(counts.values()) / 2)
    return f"Media by year, {low}–{high}: half of the {what} is from {middle} or later"


def _words(counts: Mapping[int, int], years: Years, *, log: bool) -> str:
    whole = sum(counts.values())
    words = [f"{counted(whole, 'medium', 'media')} with a year."]
    for shown, side, edge, here in (
        (years.early, "before", years.first, lambda year: year < years.first),
        (years.late, "after", years.last, lambda year: year > years.last),
    ):
        if shown:
            media = sum(count for year, count in counts.items() if here(year))
            words.append(
                f"One bar is for the years {side} {edge}: {counted(media, 'medium', 'media')} ({share(media, whole)})."
            )
    if log:
        words.append("Logarithmic scale.")
    return " ".join(words)
