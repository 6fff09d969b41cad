from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.evaluation.bootstrap import intervals
from gbif_platform.evaluation.slices import (
    Slicing,
    daylight,
    observer,
    season,
    slice_statistics,
    slice_table,
    slicings,
    solar_elevation,
    year,
)
from gbif_platform_tests.evaluation.made import noisy, scores_of


def test_year_is_of_the_start() -> None:
    dates = ["2024-05-01", "2023", "2022-12-31T23:00:00/2023-01-01", None, "", "spring", "20240501"]
    assert year(dates).tolist() == ["2024", "2023", "2022", "unknown", "unknown", "unknown", "unknown"]
    assert year(pl.Series([datetime(2024, 5, 1, tzinfo=UTC)])).tolist() == ["2024"]


def test_season_turns_round_south_of_the_equator() -> None:
    dates = ["2024-01-15", "2024-04-01", "2024-07", "2024-12-31T10:00:00Z", "2024", None, "2024-13-01", "2024-06-01"]
    north = ["winter", "spring", "summer", "winter", "unknown", "unknown", "unknown", "summer"]
    south = ["summer", "autumn", "winter", "summer", "unknown", "unknown", "unknown", "winter"]
    assert season(dates, [55.0] * 8).tolist() == north
    assert season(dates, [-33.0] * 8).tolist() == south
    assert season(["2024-01-15"] * 2, [None, 123.0]).tolist() == ["unknown", "unknown"]


def test_observers_are_seen_unseen_or_unknown() -> None:
    assert observer(["Ann", "Bob", None], {"Ann"}).tolist() == ["seen", "unseen", "unknown"]
    assert observer([None, None], set()).tolist() == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("date", "latitude", "longitude", "expected"),
    [
        ("2024-06-21T12:00:00Z", 51.48, 0.0, "day"),
        ("2024-06-21T23:30:00Z", 51.48, 0.0, "night"),
        ("2024-06-21T12:00:00Z", -36.85, 174.76, "night"),  # midnight in Auckland
        ("2024-06-21T12:00:00+12:00", -36.85, 174.76, "day"),
        ("2024-06-21T12:00:00+1200", -36.85, 174.76, "day"),
        ("2024-06-21T12:00:00", -36.85, 174.76, "day"),  # without a zone: of the place
        ("2024-06-21T08:00:00-04:00", 40.7, -74.0, "day"),
        ("2024-12-21T12:00:00", 78.2, 15.6, "night"),  # polar night in Longyearbyen
        ("2024-06-21T23:59:00", 78.2, 15.6, "day"),  # and midnight sun
        ("2024-06-21 21:15", 55.68, 12.57, "twilight"),  # some minutes after sunset in Copenhagen, in winter time
        ("2024-06-21T10:00:00/2024-06-22T23:00:00", 55.68, 12.57, "day"),
        ("2024-06-21T00:00:00", 55.68, 12.57, "unknown"),  # how many sources write "no time"
        ("2024-06-21T00:00:00Z", 55.68, 12.57, "night"),
        ("2024-06-21", 55.68, 12.57, "unknown"),
        ("2024-06-31T12:00:00", 55.68, 12.57, "unknown"),
        ("2024-06-21T25:00:00", 55.68, 12.57, "unknown"),
        ("2024-06-21T12:00:00", None, 12.57, "unknown"),
        ("2024-06-21T12:00:00", 91.0, 12.57, "unknown"),
        (None, 55.68, 12.57, "unknown"),
    ],
)
def test_daylight(date: str | None, latitude: float | None, longitude: float, expected: str) -> None:
    assert daylight([date], [latitude], [longitude]).tolist() == [expected]


@pytest.mark.parametrize(
    ("utc", "latitude", "longitude"),
    [
        # Sunrise and sunset of NOAA's solar calculator and national almanacs, in UTC.
        ("2024-03-20T06:02", 51.48, 0.0),
        ("2024-03-20T18:13", 51.48, 0.0),
        ("2024-06-20T09:25", 40.71, -74.01),
        ("2024-12-21T21:31", 40.71, -74.01),
    ],
)
def test_the_sun_rises_and_sets_when_the_almanac_says(utc: str, latitude: float, longitude: float) -> None:
    at = datetime.fromisoformat(utc)
    day, minutes = at.timetuple().tm_yday, 60 * at.hour + at.minute
    elevation = solar_elevation(*(np.array([v], float) for v in (day, minutes, 0, latitude, longitude)))
    assert elevation[0] == pytest.approx(-0.833, abs=0.6)


@settings(max_examples=60, deadline=None)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    st.floats(-89, 89),
    st.floats(-179, 179),
    st.integers(-12, 12),
)
def test_the_zone_that_a_time_is_written_in_does_not_matter(
    at: datetime, latitude: float, longitude: float, hours: int
) -> None:
    local = at + timedelta(hours=hours)
    zone = f"{'-' if hours < 0 else '+'}{abs(hours):02}:00"
    written = [f"{at:%Y-%m-%dT%H:%M:%S}Z", f"{local:%Y-%m-%dT%H:%M:%S}{zone}"]
    day = np.array([at.timetuple().tm_yday], float)
    minutes = np.array([60 * at.hour + at.minute], float)
    elevation = solar_elevation(day, minutes, np.zeros(1), np.array([latitude]), np.array([longitude]))[0]
    if min(abs(elevation + 0.833), abs(elevation + 6)) > 1:  # the declination is of the written day
        one, other = daylight(written, [latitude] * 2, [longitude] * 2)
        assert one == other


def test_the_figures_of_a_slice_are_those_of_its_rows() -> None:
    label, logits = noisy(300, 1)
    scores, group = scores_of(label, logits), np.arange(300) // 2
    random = np.random.default_rng(2)
    country = random.choice(np.array(["DK", "SE", None]), 300, p=[0.6, 0.37, 0.03])
    slices = {"country_code": pl.Series(country, dtype=pl.String), "rare": [f"v{i // 4}" for i in range(300)]}
    found = slicings(slices, 20)
    assert [one.name for one in found] == ["country_code"], "no value of the other has 20 rows"
    bounds = intervals(slice_statistics(scores, group, found), 150, resamples=200)
    table = slice_table(scores, group, found, bounds).to_pylist()
    assert [row["value"] for row in table] == ["DK", "SE"], "of the unknown there are too few"
    for row in table:
        inside = country == row["value"]
        own = scores_of(label[inside], logits[inside])
        assert row["rows"] == inside.sum()
        assert row["groups"] == len(np.unique(group[inside]))
        assert row["top1"] == pytest.approx(own.right.mean(), abs=1e-6)
        recalls = [own.right[own.label == one].mean() for one in np.unique(own.label)]
        assert row["macro_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-6)
        assert row["log_loss"] == pytest.approx(own.loss.mean())
        assert row["top1_low"] < row["top1"] < row["top1_high"]
    assert [row["worst"] for row in table].count(True) == 1
    assert min(table, key=lambda row: row["top1"])["worst"]


def test_nulls_and_numbers_are_values_and_small_ones_are_left() -> None:
    one = Slicing.of("year", [2024, 2024, None, None, 2023], 2)
    assert one.values == ["2024", "unknown"]
    assert one.code.tolist() == [0, 0, 1, 1, -1]
