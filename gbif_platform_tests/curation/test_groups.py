"""Groups: what a key is, and what its values connect."""

from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings

from gbif_platform.curation.groups import components, key_values, numbered, present_keys
from gbif_platform.errors import PlatformError
from gbif_platform_tests.curation.split_data import Row, lists, media_of


def values(key: str, *rows: dict[str, Any]) -> list[set[str]]:
    """Values of a key for media that have some columns only."""
    data = pl.DataFrame([{"media_id": str(n), "gbif_id": str(n)} | row for n, row in enumerate(rows)])
    con = duckdb.connect()
    media = numbered(con, con.from_arrow(data.to_arrow()))
    found = con.sql(f"SELECT m.media_id, value FROM ({key_values(media, key)}) JOIN {media.table} m USING (row)")
    sets: list[set[str]] = [set() for _ in rows]
    for medium, value in found.fetchall():
        sets[int(medium)].add(value)
    return sets


def naive(rows: list[Row]) -> list[int]:
    """Components by repainting: the least number of a row that is connected."""
    colour = list(range(len(rows)))
    changed = True
    while changed:
        changed = False
        for one, a in enumerate(rows):
            for two, b in enumerate(rows):
                same = a.occurrence == b.occurrence or a.url == b.url or (a.data is not None and a.data == b.data)
                if same and colour[one] != colour[two]:
                    colour[one] = colour[two] = min(colour[one], colour[two])
                    changed = True
    return colour


@settings(max_examples=40, deadline=None)
@given(lists(25))
def test_components_are_those_of_the_definition(rows: list[Row]) -> None:
    media = media_of(rows)
    found = components(media, [key_values(media, key) for key in ("occurrence", "url", "duplicate")])
    order = media.con.sql(f"SELECT media_id FROM {media.table} ORDER BY row").pl()["media_id"].to_list()
    of = {int(name[1:]): number for name, number in zip(order, found, strict=True)}
    expected = naive(rows)
    for one in range(len(rows)):
        for two in range(one):
            assert (of[one] == of[two]) == (expected[one] == expected[two])


OBSERVED = {"recorded_by": "Ann | bob", "event_date": "2020-05-01T10:00:00", "decimal_latitude": 55.61,
            "decimal_longitude": 12.07, "locality": "Pond"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ({"recorded_by": "BOB;Carl"}, True),
        ({"recorded_by": " bob  & Dora"}, True),
        ({"recorded_by": "Carl"}, False),
        ({"recorded_by": None}, False),
        ({"event_date": "2020-05-01"}, True),
        ({"event_date": "2020-05-01T08:00/2020-05-01T09:00"}, True),
        ({"event_date": "2020-05-02"}, False),
        ({"event_date": "2020-05-01/2020-05-03"}, False),
        ({"event_date": "2020-05"}, False),
        ({"event_date": None}, False),
        ({"decimal_latitude": 55.68}, True),
        ({"decimal_latitude": 55.71}, False),
        ({"decimal_longitude": None}, False),
    ],
)
def test_an_observer_day_is_recorder_day_and_place(change: dict[str, Any], shares: bool) -> None:
    first, second = values("observer_day", OBSERVED, OBSERVED | change)
    assert len(first) == 2
    assert bool(first & second) == shares


def test_the_locality_stands_in_for_coordinates_and_nothing_for_both() -> None:
    nowhere = OBSERVED | {"decimal_latitude": None, "decimal_longitude": None}
    one, two, three = values("observer_day", nowhere, nowhere | {"locality": "pond "}, nowhere | {"locality": None})
    assert one == two != set() == three


def test_a_month_is_no_day_even_where_it_is_one_word() -> None:
    only, _ = values("observer_day", OBSERVED | {"event_date": "2020"}, OBSERVED)
    assert only == set()


def test_identifiers_count_within_their_dataset() -> None:
    rows: list[dict[str, Any]] = [
        {"dataset_key": "a", "occurrence_id": "1", "event_id": "e", "parent_event_id": "p"},
        {"dataset_key": "b", "occurrence_id": "1", "event_id": "e", "parent_event_id": "p"},
        {"dataset_key": "a", "occurrence_id": None, "event_id": None, "parent_event_id": "e"},
        {"dataset_key": "a", "occurrence_id": " ", "event_id": "", "parent_event_id": None},
    ]
    one, two, three, four = values("occurrence", *rows)
    assert len(one | two | three | four) == 4
    one, two, three, four = values("event", *rows)
    assert (one == three, one == two, four) == (True, False, set())


def test_any_term_is_a_key() -> None:
    assert values("locationID", {"location_id": "x"}, {"location_id": None}) == [{"x"}, set()]


def test_a_key_that_the_source_does_not_have_names_the_setting() -> None:
    with pytest.raises(PlatformError, match=r"split\.group_by: observer_day needs recorded_by") as caught:
        values("observer_day", {"event_date": "2020-01-01"})
    assert "split.group_by" in caught.value.next_step
    with pytest.raises(PlatformError, match=r"split\.group_by: event needs event_id or parent_event_id"):
        values("event", {"locality": "x"})
    with pytest.raises(PlatformError, match=r"split\.group_by: the occurrences have no camera; there are"):
        values("camera", {"locality": "x"})
    with pytest.raises(PlatformError, match=r"no urlId; there are: (?!.*url_id)"):  # the platform's own column
        values("urlId", {"locality": "x"})


def test_the_audit_looks_at_every_key_that_there_is() -> None:
    columns = dict.fromkeys(["recorded_by", "locality"], "VARCHAR")
    keys = present_keys(columns, ["url", "locality"])
    assert list(keys.items())[:2] == [("url", True), ("locality", True)]
    assert keys["occurrence"] is False
    assert keys["recordedBy"] is False
    assert not {"observer_day", "event", "datasetKey"} & keys.keys()
