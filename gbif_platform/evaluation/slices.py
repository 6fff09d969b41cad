"""Slices of the rows: values that are not a column of the data (season, daylight, …), and the figures of each value."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from gbif_platform.evaluation.bootstrap import LEAST_GROUPS, Macro, Ratio, Statistic, macro_by, sums, value_of
from gbif_platform.evaluation.scores import Scores

UNKNOWN = "unknown"
SEASONS = ("winter", "spring", "summer", "autumn")
_CLOCK = r"[T ](\d{2}):(\d{2})(?::(\d{2}))?"
_ZONE = r"(Z|[+-]\d{2}:?\d{2})$"
_SUNRISE, _CIVIL = -0.833, -6.0  # degrees of the sun's centre: with refraction and its radius; civil twilight


def year(event_date: Sequence[str | None] | pl.Series) -> np.ndarray:
    """The year of an ISO 8601 date or interval (of its start), as text; object (N,), `unknown` without one."""
    return _text(_strings(event_date).str.extract(r"^(\d{4})(?:\D|$)"))


def season(event_date: Sequence[str | None] | pl.Series, latitude: Sequence[float | None] | pl.Series) -> np.ndarray:
    """Meteorological season: December to February is winter north of the equator, summer south of it.

    Args:
        event_date: ISO 8601 texts (N,). latitude: degrees (N,), null where unknown.

    Returns:
        object (N,): winter, spring, summer, autumn, or `unknown` without month or latitude.
    """
    frame = pl.DataFrame({"date": _strings(event_date), "at": _degrees(latitude, 90)})
    month = pl.col("date").str.extract(r"^\d{4}-(\d{2})").cast(pl.Int64, strict=False)
    month = pl.when(month.is_between(1, 12)).then(month)
    quarter = (month % 12 // 3 + pl.when(pl.col("at") < 0).then(2).otherwise(0)) % 4
    names = quarter.replace_strict(range(4), SEASONS, return_dtype=pl.String)
    return _text(frame.select(pl.when(pl.col("at").is_not_null()).then(names)).to_series())


def observer(recorded_by: Sequence[str | None] | pl.Series, in_training: Collection[str]) -> np.ndarray:
    """object (N,): `seen` where the observer has pictures in training, `unseen`, or `unknown` without a name."""
    names = _strings(recorded_by)
    seen = names.is_in(pl.Series([list(in_training)], dtype=pl.List(pl.String)))
    frame = pl.select(pl.when(names.is_null()).then(None).when(seen).then(pl.lit("seen")).otherwise(pl.lit("unseen")))
    return _text(frame.to_series())


def daylight(
    event_date: Sequence[str | None] | pl.Series,
    latitude: Sequence[float | None] | pl.Series,
    longitude: Sequence[float | None] | pl.Series,
) -> np.ndarray:
    """Day, twilight (civil: sun 0.833° to 6° below the horizon) or night, by the sun's elevation.

    Args:
        event_date: ISO 8601 texts (N,), e.g. 2024-05-01T21:30:00+02:00; of an interval the start counts.
        latitude, longitude: degrees (N,), null where unknown.

    A time without a zone is taken as local: the zone of the longitude, 15° an hour, so within an hour or two.
    Midnight to the second without a zone is how many sources write "no time": `unknown`, like all without time or
    place.

    Returns:
        object (N,): day, twilight, night, unknown.
    """
    given = _strings(event_date).str.split("/").list.first().str.strip_chars()
    frame = pl.DataFrame({"date": given, "lat": _degrees(latitude, 90), "lon": _degrees(longitude, 180)})
    frame = frame.select(
        "lat",
        "lon",
        day=pl.col("date").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False),
        hour=pl.col("date").str.extract(_CLOCK, 1).cast(pl.Float64),
        minute=pl.col("date").str.extract(_CLOCK, 2).cast(pl.Float64),
        second=pl.col("date").str.extract(_CLOCK, 3).cast(pl.Float64).fill_null(0.0),
        zone=pl.col("date").str.extract(_ZONE),
    ).with_columns(
        minutes=pl.col("hour") * 60 + pl.col("minute") + pl.col("second") / 60,
        offset=_offset(pl.col("zone"), pl.col("lon")),
    )
    known = (
        pl.all_horizontal(pl.col("lat", "lon", "day", "minutes").is_not_null())
        & (pl.col("hour") < 24)
        & (pl.col("minute") < 60)
        & (pl.col("zone").is_not_null() | (pl.col("minutes") > 0))
    ).fill_null(False)
    found = np.full(len(frame), UNKNOWN, dtype=object)
    rows = frame.select(known).to_series().to_numpy()
    timed = frame.filter(known)
    elevation = solar_elevation(
        timed["day"].dt.ordinal_day().to_numpy(),
        timed["minutes"].to_numpy(),
        timed["offset"].to_numpy(),
        timed["lat"].to_numpy(),
        timed["lon"].to_numpy(),
    )
    names = np.array(["night", "twilight", "day"], dtype=object)
    found[rows] = names[(elevation >= _CIVIL).astype(int) + (elevation >= _SUNRISE)]
    return found


def solar_elevation(
    day: np.ndarray, minutes: np.ndarray, offset: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> np.ndarray:
    """Elevation of the sun's centre in degrees, float64 (N,), within half a degree or so.

    NOAA Global Monitoring Laboratory, "General Solar Position Calculations" (fractional year, equation of time,
    declination, true solar time, hour angle). No refraction.

    Args:
        day: day of the year, 1 to 366. minutes: of the clock since midnight. offset: minutes of the clock before UTC.
        latitude, longitude: degrees, north and east positive.
    """
    turn = 2 * np.pi / 365 * (day - 1 + (minutes / 60 - 12) / 24)
    equation = 229.18 * (
        0.000075
        + 0.001868 * np.cos(turn)
        - 0.032077 * np.sin(turn)
        - 0.014615 * np.cos(2 * turn)
        - 0.040849 * np.sin(2 * turn)
    )
    declination = (
        0.006918
        - 0.399912 * np.cos(turn)
        + 0.070257 * np.sin(turn)
        - 0.006758 * np.cos(2 * turn)
        + 0.000907 * np.sin(2 * turn)
        - 0.002697 * np.cos(3 * turn)
        + 0.00148 * np.sin(3 * turn)
    )
    solar_minutes = minutes + equation + 4 * longitude - offset
    hour_angle = np.radians(solar_minutes / 4 - 180)
    place = np.radians(latitude)
    height = np.sin(place) * np.sin(declination) + np.cos(place) * np.cos(declination) * np.cos(hour_angle)
    return np.degrees(np.arcsin(np.clip(height, -1, 1)))


def _offset(zone: pl.Expr, longitude: pl.Expr) -> pl.Expr:
    """Minutes before UTC of `Z`, `+02:00` or, where there is none, of the longitude."""
    digits = zone.str.replace_all(r"\D", "")
    size = digits.str.slice(0, 2).cast(pl.Float64, strict=False) * 60 + digits.str.slice(2, 2).cast(
        pl.Float64, strict=False
    )
    told = pl.when(zone == "Z").then(0.0).when(zone.str.starts_with("-")).then(-size).otherwise(size)
    return pl.when(zone.is_null()).then((longitude / 15).round() * 60).otherwise(told)


def _strings(values: Sequence[str | None] | pl.Series) -> pl.Series:
    """Texts; dates and times as ISO 8601."""
    return pl.Series(values).cast(pl.String)


def _degrees(values: Sequence[float | None] | pl.Series, most: float) -> pl.Series:
    """Numbers within ±most, null for the others."""
    numbers = pl.Series(values).cast(pl.Float64, strict=False)
    return pl.select(pl.when(numbers.is_between(-most, most)).then(numbers)).to_series()


def _text(values: pl.Series) -> np.ndarray:
    return values.fill_null(UNKNOWN).to_numpy().astype(object)


@dataclass(frozen=True)
class Slicing:
    """One slice: what values its rows have.

    Attributes:
        name: e.g. country_code. values: those with enough rows, sorted. code: int64 (N,), −1 = a value with too few.
    """

    name: str
    values: list[str]
    code: np.ndarray

    @classmethod
    def of(cls, name: str, values: Any, least: int) -> "Slicing":
        """From one value a row (Arrow, Polars, NumPy; null = `unknown`); values with under `least` rows are left."""
        texts = pl.Series(values).cast(pl.String).fill_null(UNKNOWN).to_numpy()
        found, code, rows = np.unique(texts.astype(str), return_inverse=True, return_counts=True)
        kept = rows >= least
        number = np.where(kept, np.cumsum(kept) - 1, -1)
        return cls(name, [str(value) for value in found[kept]], number[code.reshape(-1)])

    def statistics(self, outcome: np.ndarray, label: np.ndarray, group: np.ndarray) -> tuple[Ratio, Macro]:
        """Mean and macro mean of `outcome` in each value, as statistics of the bootstrap."""
        kept, count = self.code >= 0, len(self.values)
        groups = int(group.max()) + 1
        # All groups are columns, also those without a row in any value.
        padded = np.append(group[kept], groups - 1)
        key = np.append(self.code[kept], 0)
        mean = Ratio(
            sums(padded, np.append(outcome[kept], 0), key=key, keys=max(count, 1)),
            sums(padded, np.append(np.ones(int(kept.sum())), 0), key=key, keys=max(count, 1)),
        )
        return mean, macro_by(outcome, label, group, part=self.code, parts=count)


def slicings(slices: Mapping[str, Any], least: int) -> list[Slicing]:
    """Those slices that have a value with enough rows."""
    found = [Slicing.of(name, values, least) for name, values in slices.items()]
    return [one for one in found if one.values]


def slice_statistics(scores: Scores, group: np.ndarray, found: Sequence[Slicing]) -> dict[str, Statistic]:
    """Top-1 of each value of each slice, by the slice's name."""
    return {one.name: one.statistics(scores.right, scores.label, group)[0] for one in found}


def slice_table(
    scores: Scores, group: np.ndarray, found: Sequence[Slicing], bounds: Mapping[str, np.ndarray], whole: bool = True
) -> pa.Table:
    """Figures of each value.

    Args:
        bounds: of `bootstrap.intervals` over `slice_statistics`; those of a value with too few groups are not taken.
        whole: whether the probabilities are parts of one whole; else log_loss is null.

    Returns:
        slice, value (string), rows, groups (int64), top1, top1_low, top1_high, macro_accuracy, log_loss (float64),
        worst (bool: the lowest top-1 of its slice, where that has two values or more).
    """
    table = []
    for one in found:
        mean, macro = one.statistics(scores.right, scores.label, group)
        groups = int(group.max()) + 1
        top1, by_label = value_of(mean, groups), value_of(macro, groups)
        kept = one.code >= 0
        rows = np.bincount(one.code[kept], minlength=len(one.values))
        losses = np.bincount(one.code[kept], scores.loss[kept], len(one.values)) / rows if whole else rows * np.nan
        members = np.unique(one.code[kept] * groups + group[kept]) // groups
        own = np.bincount(members, minlength=len(one.values))
        low, high = np.where(own >= LEAST_GROUPS, bounds[one.name].T, np.nan)
        for at, value in enumerate(one.values):
            numbers = (rows[at], own[at], top1[at], low[at], high[at], by_label[at], losses[at])
            table.append((one.name, value, *numbers, len(one.values) > 1 and at == int(top1.argmin())))
    columns = list(zip(*table, strict=True)) if table else [()] * 10
    kinds = [pa.string(), pa.string(), pa.int64(), pa.int64(), *[pa.float64()] * 5, pa.bool_()]
    names = ["slice", "value", "rows", "groups", "top1", "top1_low", "top1_high", "macro_accuracy", "log_loss", "worst"]
    return pa.table(
        [pa.array(column, kind, from_pandas=True) for column, kind in zip(columns, kinds, strict=True)], names
    )
