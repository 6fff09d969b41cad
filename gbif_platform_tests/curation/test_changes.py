"""Changes between snapshots: by stable identity, complete, and the same whatever the order of rows."""

import tempfile
from pathlib import Path
from random import Random

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.changes import SnapshotDiff, compare_snapshots

CON = duckdb.connect()
COLUMNS = ("media_id", "url_id", "url", "gbif_id", "dataset_key", "label", "license")
KEPT = ("gbif_id", "label", "license")

Row = tuple[str | None, ...]
Change = dict[str, str | None]


def medium(number: int, **other: str | None) -> Row:
    """A medium by its number, some fields otherwise."""
    fields: dict[str, str | None] = {
        "media_id": f"m{number}",
        "url_id": f"u{number}",
        "url": f"https://host/{number}.jpg",
        "gbif_id": f"{number}",
        "dataset_key": "d",
        "label": "a",
        "license": "CC0-1.0",
    }
    return tuple((fields | other)[column] for column in COLUMNS)


def compare(old: list[Row], new: list[Row], licences: str = "open") -> tuple[SnapshotDiff, list[Change]]:
    """The comparison and its rows."""
    schema = dict.fromkeys(COLUMNS, pl.String)
    with tempfile.TemporaryDirectory() as work:
        was, now = (CON.from_arrow(pl.DataFrame(rows, schema, orient="row").to_arrow()) for rows in (old, new))
        found = compare_snapshots(CON, was, now, Path(work), licences=licences)
        return found, pl.read_parquet(found.rows).sort("change", "media_id").to_dicts()


def changes(old: list[Row], new: list[Row], licences: str = "open") -> list[tuple[str | None, str | None]]:
    return [(row["change"], row["media_id"]) for row in compare(old, new, licences)[1]]


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[list[Row], list[Row]]:
    """Two snapshots whose media share identities, labels, licences and URLs."""

    def side() -> list[Row]:
        return [
            medium(
                number,
                url_id=draw(st.sampled_from(["u1", "u2", f"u{number}"])),
                gbif_id=draw(st.sampled_from([f"{number}", f"{number + 100}"])),
                dataset_key=draw(st.sampled_from(["d", "e", None])),
                label=draw(st.sampled_from(["a", "b", None])),
                license=draw(st.sampled_from(["CC0-1.0", "CC-BY-NC-4.0", "unknown"])),
            )
            for number in sorted(draw(st.sets(st.integers(0, 11))))
        ]

    return side(), side()


def identities(rows: list[Change], *kinds: str) -> list[str | None]:
    return [row["media_id"] for row in rows if row["change"] in kinds]


@given(snapshots())
@settings(deadline=None, max_examples=50)
def test_added_removed_changed_and_unchanged_partition_the_union(pair: tuple[list[Row], list[Row]]) -> None:
    old, new = pair
    found, rows = compare(old, new)
    before, now = {row[0] for row in old}, {row[0] for row in new}
    added, removed = identities(rows, "added"), identities(rows, "removed")
    renamed = {row["media_id"]: row["previous_media_id"] for row in rows if row["change"] == "gbif_id_changed"}
    renamed = {media: previous for media, previous in renamed.items() if media != previous}
    assert len(renamed) == len(set(renamed.values()))
    assert len(set(added)) == len(added) == found.added
    assert len(set(removed)) == len(removed) == found.removed
    assert set(added) | set(renamed) == now - before
    assert set(removed) | set(renamed.values()) == before - now
    assert set(added).isdisjoint(renamed)
    assert set(removed).isdisjoint(renamed.values())
    changed = {row["media_id"] for row in rows} - set(added) - set(removed)
    assert len(changed) == found.changed
    assert found.new == found.added + found.changed + found.unchanged
    assert found.old == found.removed + found.changed + found.unchanged


@given(snapshots())
@settings(deadline=None, max_examples=50)
def test_changes_applied_to_the_old_snapshot_give_the_new_one(pair: tuple[list[Row], list[Row]]) -> None:
    old, new = pair
    _, rows = compare(old, new)
    state: dict[str | None, dict[str, str | None]]
    state = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in old}
    for row in rows:
        state.pop(row["previous_media_id"], None)
    for row in rows:
        if row["change"] != "removed":
            state[row["media_id"]] = row
    wanted = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in new}
    assert {media: [one[name] for name in KEPT] for media, one in state.items()} == {
        media: [one[name] for name in KEPT] for media, one in wanted.items()
    }


@given(snapshots())
@settings(deadline=None, max_examples=40)
def test_a_change_stands_only_where_its_values_differ(pair: tuple[list[Row], list[Row]]) -> None:
    for row in compare(*pair)[1]:
        match row["change"]:
            case "relabelled":
                assert row["label"] != row["previous_label"]
            case "licence_changed":
                assert row["license"] != row["previous_license"]
            case "licence_revoked":
                assert (row["previous_license"], row["license"] != "CC0-1.0") == ("CC0-1.0", True)
            case "gbif_id_changed":
                assert (row["gbif_id"], row["media_id"]) != (row["previous_gbif_id"], row["previous_media_id"])
            case one_sided:
                assert one_sided in ("added", "removed")


@given(snapshots(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_order_of_rows_does_not_matter(pair: tuple[list[Row], list[Row]], random: Random) -> None:
    old, new = (random.sample(rows, len(rows)) for rows in pair)
    assert compare(old, new)[1] == compare(*pair)[1]


def test_a_new_gbif_id_is_the_same_record() -> None:
    found, (row,) = compare([medium(1, gbif_id="7")], [medium(1, gbif_id="8")])
    assert (row["change"], row["previous_gbif_id"], row["gbif_id"]) == ("gbif_id_changed", "7", "8")
    assert (found.added, found.removed) == (0, 0)


def test_a_record_without_occurrence_id_is_found_again_by_its_url_and_dataset() -> None:
    _, (row,) = compare([medium(1, url_id="u")], [medium(2, url_id="u")])
    assert row["change"] == "gbif_id_changed"
    assert (row["previous_media_id"], row["media_id"]) == ("m1", "m2")
    assert (row["previous_gbif_id"], row["gbif_id"]) == ("1", "2")


def test_a_changed_occurrence_id_is_seen_where_gbif_kept_its_own() -> None:
    assert changes([medium(1, url_id="u", gbif_id="7")], [medium(2, url_id="u", gbif_id="7")]) == [
        ("gbif_id_changed", "m2")
    ]


def test_what_was_found_again_may_have_changed_besides() -> None:
    old, new = medium(1, url_id="u"), medium(2, url_id="u", label="b", license="CC-BY-NC-4.0")
    assert changes([old], [new]) == [
        ("gbif_id_changed", "m2"),
        ("licence_changed", "m2"),
        ("licence_revoked", "m2"),
        ("relabelled", "m2"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([medium(1, url_id="u"), medium(2, url_id="u")], [medium(3, url_id="u")]),
        ([medium(1, url_id="u")], [medium(2, url_id="u"), medium(3, url_id="u")]),
        ([medium(1, url_id="u")], [medium(2, url_id="u", dataset_key="e")]),
        ([medium(1, url_id="u")], [medium(2, url_id="v")]),
    ],
)
def test_what_is_not_unique_or_of_another_dataset_stays_added_and_removed(old: list[Row], new: list[Row]) -> None:
    assert {change for change, _ in changes(old, new)} == {"added", "removed"}


@pytest.mark.parametrize(
    ("before", "now", "policy", "revoked"),
    [
        ("CC0-1.0", "CC-BY-NC-4.0", "open", True),
        ("CC0-1.0", "unknown", "open", True),
        ("CC0-1.0", None, "open", True),
        ("CC0-1.0", "CC-BY-4.0", "open", False),
        ("CC-BY-NC-4.0", "unknown", "open", False),
        ("CC0-1.0", "CC-BY-NC-4.0", "non-commercial", False),
        ("CC0-1.0", "unknown", "any", False),
    ],
)
def test_a_licence_is_revoked_where_the_policy_allowed_it_before(
    before: str, now: str | None, policy: str, revoked: bool
) -> None:
    found = changes([medium(1, license=before)], [medium(1, license=now)], policy)
    assert found == [("licence_changed", "m1"), *([("licence_revoked", "m1")] if revoked else [])]


def test_equal_and_empty_snapshots_have_no_changes() -> None:
    rows = [medium(n, label=None) for n in range(5)]
    for side in ([], rows):
        found, none = compare(side, side)
        assert (none, found.unchanged) == ([], len(side))
