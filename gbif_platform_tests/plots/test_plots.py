"""The pictures stay small, say what they should, and come out whatever the data and the names are."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gbif_platform import plots
from gbif_platform.plots import figure, maps
from gbif_platform.plots.funnel import folded
from gbif_platform.plots.timeline import BARS, binned, shown_years

HOSTILE = [
    r"$\frac{1}{$", "_under", "$$$", "a$b$c\\", "", "\n\t\x00", "\ud800", "\u65e5\u672c" * 30, "\u0627\u0644", r"\$x$",
    "^_{}%", "\N{FOX FACE}", "x" * 5000,
]  # fmt: skip
counts = st.integers(0, 10**9)
names = st.text(max_size=50) | st.sampled_from(HOSTILE)
quick = settings(max_examples=15, deadline=None)


def opened(data: bytes) -> Image.Image:
    assert len(data) < 60_000
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    assert image.width == 648
    return image


def classes(number: int) -> tuple[dict[str, int], dict[str, int]]:
    available = {f"Genus species{rank}": 1 + 100_000 // (rank + 1) for rank in range(number)}
    return available, {label: min(media, 100) if media >= 10 else 0 for label, media in available.items()}


@quick
@given(st.dictionaries(names, counts, max_size=60), st.dictionaries(names, counts, max_size=60))
def test_classes_of_any_shape(available: dict[str, int], taken: dict[str, int]) -> None:
    opened(plots.class_distribution(available, taken))


@quick
@given(st.lists(st.tuples(names, counts, counts), max_size=30))
def test_funnels_of_any_shape(steps: list[tuple[str, int, int]]) -> None:
    opened(plots.funnel(steps))


@quick
@given(
    st.lists(st.tuples(names, counts, counts, counts), max_size=60),
    st.lists(names, min_size=3, max_size=3, unique=True),
)
def test_bars_and_subsets_of_any_shape(rows: list[tuple[str, int, int, int]], series: list[str]) -> None:
    labels = [row[0] for row in rows]
    columns = ([row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows])
    numbers = dict(zip(series, columns, strict=True))
    opened(plots.subset_balance(labels, numbers))
    opened(plots.bars(labels, numbers))
    opened(plots.bars(labels, numbers, stacked=True))


@quick
@given(st.dictionaries(st.integers(-500, 12_000), counts), st.none() | st.dictionaries(st.integers(1700, 2030), counts))
def test_years_of_any_shape(sample: dict[int, int], available: dict[int, int] | None) -> None:
    opened(plots.timeline(sample, available))


degrees = st.lists(
    st.tuples(st.floats(), st.floats()) | st.tuples(st.floats(-90, 90), st.floats(-180, 180)), max_size=20
)


@quick
@given(degrees, st.none() | degrees)
def test_maps_of_any_places(places: list[tuple[float, float]], others: list[tuple[float, float]] | None) -> None:
    north, east = np.array(places, dtype=float).reshape(-1, 2).T
    behind = np.array(others or [], dtype=float).reshape(-1, 2).T
    opened(plots.sample_map(north, east, None if others is None else (behind[0], behind[1])))


@pytest.mark.parametrize("number", [1, 10, 40, 41, 10_000])
def test_few_and_many_labels(number: int) -> None:
    available, taken = classes(number)
    total = np.array(list(taken.values()))
    pictures = [
        plots.class_distribution(available, taken),
        plots.subset_balance(list(taken), {"train": (total // 2).tolist(), "test": (total - total // 2).tolist()}),
        plots.bars(list(available), {"available": list(available.values()), "taken": list(taken.values())}),
    ]
    for picture in pictures:
        assert opened(picture).height < 1000


def test_a_million_places() -> None:
    generator = np.random.default_rng(0)
    north, east = generator.uniform(-60, 80, 1_000_000), generator.uniform(-180, 180, 1_000_000)
    opened(plots.sample_map(north[:100_000], east[:100_000], (north, east)))


@pytest.mark.parametrize(
    "picture",
    [
        lambda: plots.bars([], {}),
        lambda: plots.bars([], {"media": []}),
        lambda: plots.class_distribution({}, {}),
        lambda: plots.funnel([]),
        lambda: plots.sample_map(np.array([np.nan]), np.array([3.0])),
        lambda: plots.timeline({}, {}),
        lambda: plots.subset_balance(["a"], {"train": [0], "test": [0]}),
    ],
)
def test_nothing_gives_a_line_of_words(picture: Callable[[], bytes]) -> None:
    image = opened(picture())
    assert image.height < 80
    assert len(image.convert("RGB").getcolors(10_000) or []) > 1  # something is written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            plots.class_distribution({"a": 9, "b": 3}, {"a": 5}),
            plots.class_distribution({"a": 9, "b": 3}, {"a": 4, "b": 1}),
        ),
        (plots.funnel([("all", 9, 0), ("a", 5, 4)]), plots.funnel([("all", 9, 0), ("a", 4, 5)])),
        (plots.timeline({2000: 3}, {2000: 9}), plots.timeline({2000: 4}, {2000: 9})),
        (plots.subset_balance(["a"], {"x": [1], "y": [2]}), plots.subset_balance(["a"], {"x": [2], "y": [1]})),
        (plots.sample_map(np.array([4.0]), np.array([9.0])), plots.sample_map(np.array([4.0]), np.array([-9.0]))),
    ],
)
def test_other_data_give_another_picture(one: bytes, other: bytes) -> None:
    assert one != other


def test_same_data_give_the_same_bytes() -> None:
    available, taken = classes(50)
    assert plots.class_distribution(available, taken) == plots.class_distribution(available, taken)


def test_filters_that_lost_nothing_share_a_row() -> None:
    steps = [("all media", 100, 0), *((f"quiet {number}", 100, 0) for number in range(12)), ("licence", 60, 40)]
    rows = folded(steps)
    assert [(row.name, row.left, row.lost) for row in rows] == [
        ("all media", 100, 0),
        ("12 filters lost nothing", 100, 0),
        ("licence", 60, 40),
    ]


def test_a_quiet_filter_alone_keeps_its_name() -> None:
    rows = folded([("all media", 9, 0), ("licence", 6, 3), ("country", 6, 0), ("date", 5, 1)])
    assert [row.name for row in rows] == ["all media", "licence", "country", "date"]


def test_old_museum_years_share_a_bar() -> None:
    media = dict.fromkeys(range(1995, 2025), 1000.0) | {1758: 1.0, 1823: 2.0, 1901: 5.0}
    years = shown_years(media)
    assert (years.first, years.last, years.early, years.late, years.width) == (1990, 2024, True, False, 1)


def test_years_at_both_ends_share_bars() -> None:
    years = shown_years({1: 1.0, 2020: 500.0, 2021: 900.0, 9999: 1.0})
    assert (years.first, years.last, years.early, years.late) == (2020, 2021, True, True)


def test_three_even_centuries_are_all_shown() -> None:
    years = shown_years(dict.fromkeys(range(1725, 2025), 10.0))
    assert not years.early
    assert not years.late
    assert years.first <= 1725
    assert years.last >= 2024
    assert (years.last - years.first) / years.width <= BARS


def test_every_medium_is_in_a_bar() -> None:
    media = {1: 1, 1758: 4, 2020: 500, 2021: 900, 9999: 2}
    years = shown_years({year: float(count) for year, count in media.items()})
    assert sum(binned(media, years).values()) == sum(media.values())


def test_the_map_shows_one_region_alone() -> None:
    window = maps.zoom(np.array([46.0, 48.0]), np.array([6.0, 9.0]))
    assert window.west < 6 < 9 < window.east
    assert window.east - window.west < 40


def test_the_map_runs_over_the_antimeridian() -> None:
    window = maps.zoom(np.array([-17.0, -18.0, -16.0]), np.array([178.0, -179.5, 179.0]))
    assert window.east - window.west < 60
    assert window.west < 178
    assert window.east > 180.5


@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=8))
def test_the_map_holds_every_place(places: list[tuple[float, float]]) -> None:
    north, east = np.array(places).T
    window = maps.zoom(north, east)
    assert (north >= window.south).all()
    assert (north <= window.north).all()
    shifted = np.where(east < window.west, east + 360, east)
    assert (shifted <= window.east).all()
    assert window.east - window.west <= 360


def test_the_land_is_where_it_should_be() -> None:
    world = maps.Window(-180, 180, -90, 90, 1.0)
    ground = maps.ground(world, (180, 360))
    for north, east, land in [(47, 8, True), (0, -30, False), (-25, 134, True), (40, -100, True), (-30, 80, False)]:
        expected = maps.LAND if land else maps.SEA
        assert np.allclose(ground[89 - north, east + 180], expected, atol=0.01), (north, east)


@given(st.text(max_size=80) | st.sampled_from(HOSTILE))
def test_names_are_short_and_one_line(name: str) -> None:
    written = figure.plain(name)
    assert written.replace(r"\$", "$")
    assert "\n" not in written
    assert len(written.replace(r"\$", "$")) <= figure.NAME_LENGTH


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (9999, "9 999"), (12_345, "12.3 k"), (999_960, "1 M"), (1_200_000, "1.2 M"), (1e8, "100 M")],
)
def test_short_numbers(number: float, written: str) -> None:
    assert figure.brief(number).replace(figure.SPACE, " ") == written


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [
        (0, 0, "0.0 %"),
        (1, 10**6, "<0.1 %"),
        (999_999, 10**6, ">99.9 %"),
        (1, 4, "25 %"),
        (3, 100, "3.0 %"),
        (5, 5, "100 %"),
    ],
)
def test_shares_never_lie(part: int, whole: int, written: str) -> None:
    assert figure.share(part, whole).replace(figure.SPACE, " ") == written
