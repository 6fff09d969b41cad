"""Splits: nothing straddles, nothing changes sides, whatever the data look like."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.near_duplicates import duplicate_groups, duplicate_pairs
from gbif_platform.curation.spec import Split
from gbif_platform.curation.split_audit import audit, most_shared
from gbif_platform.curation.splits import Assignment, assign_subsets
from gbif_platform.errors import PlatformError
from gbif_platform_tests.curation.split_data import Row, frame, lists, media_of

KEYS = ["occurrence", "url", "duplicate"]
THREE = {"train": 0.6, "validation": 0.2, "test": 0.2}


def split_of(**settings: Any) -> Split:
    return Split.model_validate({"subsets": THREE, "group_by": KEYS} | settings)


SPLITS = [
    split_of(),
    split_of(min_per_label={"validation": 1, "test": 2}),
    split_of(holdout={"test": {"year": [2024]}, "old": {"year": "2020,2021"}}, rare={"below": 4}),
    split_of(
        rare={"below": 3},
        min_per_label={"test": 1},
        subsets=THREE | {"small": {"of": "train", "fraction": 0.4}, "tiny": {"of": "small", "fraction": 0.5}},
    ),
    split_of(group_by=["url"]),
]
any_split = st.sampled_from(SPLITS)


def assign(rows: list[Row] | pl.DataFrame, split: Split, previous: pl.DataFrame | None = None) -> Assignment:
    return assign_subsets(media_of(rows), split, previous)


def remembered(found: Assignment, rows: list[Row]) -> pl.DataFrame:
    return found.rows.join(frame(rows).select("media_id", "label"), on="media_id")


def subsets(found: Assignment) -> dict[str, str]:
    return dict(found.rows.select("media_id", "subset").iter_rows())


@settings(max_examples=60, deadline=None)
@given(lists(), any_split)
def test_no_group_straddles_and_every_medium_is_assigned_once(rows: list[Row], split: Split) -> None:
    media = media_of(rows)
    found = assign_subsets(media, split)
    assert found.rows["media_id"].to_list() == frame(rows)["media_id"].to_list()
    assert set(found.rows["subset"]) <= set(split.names)
    assert found.rows.group_by("group_id").agg(pl.col("subset").n_unique())["subset"].max() in (None, 1)
    shared = audit(media, split, found)
    assert shared.filter("asked")["shared"].sum() == 0
    assert set(shared.filter("asked")["key"]) == {"group", *split.group_by}
    assert found.report["media"].sum() == len(rows)
    assert found.moves.is_empty()
    assert found.astray.is_empty()


@settings(max_examples=30, deadline=None)
@given(lists(), any_split, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(rows: list[Row], split: Split, random: Random) -> None:
    shuffled = frame(rows).sample(fraction=1, shuffle=True, seed=random.randrange(2**31))
    one, two = assign(rows, split), assign(shuffled, split)
    assert one.rows.equals(two.rows)
    assert one.report.equals(two.report)


def test_another_process_finds_the_same() -> None:
    rows = [Row(n // 2, n, None, n % 7) for n in range(60)]
    program = (
        "from gbif_platform_tests.curation.test_splits import *\n"
        "rows = [Row(n // 2, n, None, n % 7) for n in range(60)]\n"
        "print(assign(rows, SPLITS[3]).rows.write_ndjson(), end='')"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout == assign(rows, SPLITS[3]).rows.write_ndjson()


@settings(max_examples=40, deadline=None)
@given(st.lists(lists(20), min_size=2, max_size=4), any_split)
def test_growth_moves_no_picture_unless_groups_merge_and_then_lists_it(steps: list[list[Row]], split: Split) -> None:
    rows: list[Row] = []
    previous = None
    for more in steps:
        rows = rows + more
        found = assign(rows, split, previous)
        if previous is not None:
            both = previous.join(found.rows, on="media_id", suffix="_now")
            moved = both.filter((pl.col("subset") != pl.col("subset_now")) | (pl.col("nested") != pl.col("nested_now")))
            assert set(moved["media_id"]) == set(found.moves["media_id"])
            sources = both.group_by("group_id_now").agg(pl.col("group_id").n_unique())
            merged = set(sources.filter(pl.col("group_id") > 1)["group_id_now"])
            assert set(moved["group_id_now"]) <= merged
            assert not (moved.filter(pl.col("subset") != "train")["subset_now"] == "train").any()
        assert audit(media_of(rows), split, found).filter("asked")["shared"].sum() == 0
        previous = remembered(found, rows)


@settings(max_examples=40, deadline=None)
@given(lists(30), any_split, st.randoms(use_true_random=False))
def test_pictures_that_go_and_come_back_are_where_they_were(rows: list[Row], split: Split, random: Random) -> None:
    first = assign(rows, split)
    kept = frame(rows).filter(pl.Series([random.random() < 0.6 for _ in rows], dtype=pl.Boolean))
    fewer = assign(kept, split, remembered(first, rows))
    again = assign(rows, split, remembered(first, rows))
    before = subsets(first)
    assert all(before[medium] == subset for medium, subset in subsets(fewer).items())
    assert again.rows.equals(first.rows)
    assert again.moves.is_empty()


def test_merged_groups_leave_train_and_are_listed() -> None:
    rows = [Row(n, n) for n in range(300)]
    first = assign(rows, SPLITS[0])
    where = subsets(first)
    learnt = next(n for n in range(300) if where[f"m{n:05}"] == "train")
    tested = next(n for n in range(300) if where[f"m{n:05}"] == "test")
    link = [Row(learnt, 900), Row(500, 900), Row(500, tested)]
    grown = assign(rows + link, SPLITS[0], remembered(first, rows))
    move = grown.moves.row(0, named=True)
    assert len(grown.moves) == 1
    assert (move["media_id"], move["previous_subset"], move["subset"]) == (f"m{learnt:05}", "train", "test")
    assert move["reason"] == "groups merged"
    assert move["group_id"] == dict(first.rows.select("media_id", "group_id").iter_rows())[f"m{tested:05}"]


def test_shares_are_kept_and_seeds_differ() -> None:
    rows = [Row(n, n) for n in range(20_000)]
    found = assign(rows, SPLITS[3])
    shares = Counter(found.rows["subset"])
    assert abs(shares["train"] / 20_000 - 0.6) < 0.015
    assert abs(shares["test"] / 20_000 - 0.2) < 0.015
    nested = found.rows["nested"].explode().drop_nulls().value_counts()
    parts = dict(nested.iter_rows())
    assert abs(parts["small"] / shares["train"] - 0.4) < 0.02
    assert abs(parts["tiny"] / parts["small"] - 0.5) < 0.02
    other = assign(rows, split_of(seed=18))
    assert (found.rows["subset"] != other.rows["subset"]).sum() > 5_000


@settings(max_examples=25, deadline=None)
@given(lists(), st.floats(0.05, 1), st.floats(0.05, 1))
def test_nested_subsets_lie_in_each_other(rows: list[Row], one: float, two: float) -> None:
    small, large = sorted((one, two))
    parts = {"small": small, "large": large}
    nested = {name: {"of": "train", "fraction": share} for name, share in parts.items()}
    found = assign(rows, split_of(subsets=THREE | nested | {"inner": {"of": "small", "fraction": 0.5}}))
    for subset, names in found.rows.select("subset", "nested").iter_rows():
        assert not names or subset == "train"
        assert "small" not in names or "large" in names
        assert "inner" not in names or "small" in names


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_floors_are_filled_wherever_there_are_groups_enough(sizes: list[int], valid: int, test: int, seed: int) -> None:
    rows = [Row(100 * label + n, 100 * label + n, None, label) for label, size in enumerate(sizes) for n in range(size)]
    split = split_of(min_per_label={"validation": valid, "test": test}, seed=seed)
    counts = {(label, name): row for label, name, *row in assign(rows, split).report.iter_rows()}
    for label, size in enumerate(sizes):
        train, validation, tested = (counts[f"label {label}", name] for name in ("train", "validation", "test"))
        assert train[0] >= 1
        if size >= valid + test + 1:
            assert (validation[0] >= valid, tested[0] >= test) == (True, True)
            assert train[3] == validation[3] == tested[3] == ""
        else:
            assert (train[0], validation[0], tested[0]) == (size, 0, 0)
            assert train[3] == f"train only: {size} pictures in {size} groups"
            assert validation[3] == f"0 of {valid}: train only"


@settings(max_examples=40, deadline=None)
@given(lists())
def test_floors_that_cannot_be_filled_say_so_and_train_keeps_every_label(rows: list[Row]) -> None:
    report = assign(rows, SPLITS[1]).report
    short = report.filter(pl.col("media") < pl.col("wanted"))
    assert short["reason"].str.contains(" of ").all()
    without = report.filter((pl.col("subset") == "train") & (pl.col("media") == 0))
    assert without["reason"].str.starts_with("none in train").all()


def test_floors_move_as_little_as_they_need() -> None:
    rows = [Row(n, n, None, n % 40) for n in range(1200)]
    plain, floored = assign(rows, SPLITS[0]), assign(rows, split_of(min_per_label={"validation": 4, "test": 4}))
    moved = plain.rows.filter(plain.rows["subset"] != floored.rows["subset"])
    lacking = plain.report.filter((pl.col("subset") != "train") & (pl.col("media") < 4))
    assert 0 < len(moved) == (4 - lacking["media"]).sum()
    assert set(moved["subset"]) == {"train"}


@settings(max_examples=40, deadline=None)
@given(lists())
def test_hold_outs_take_whole_groups_and_nothing_else(rows: list[Row]) -> None:
    split = split_of(holdout={"late": {"year": [2024]}, "early": {"year": "*,2020", "datasetKey": "D"}})
    joined = assign(rows, split).rows.join(frame(rows), on="media_id")
    for (_,), group in joined.group_by("group_id"):
        years, subset = set(group["year"]), group["subset"][0]
        expected = "late" if 2024 in years else "early" if 2020 in years else None
        assert subset == expected or (expected is None and subset in THREE)


def test_a_hold_out_of_a_group_that_was_elsewhere_is_counted() -> None:
    split = split_of(subsets={"train": 1.0}, holdout={"test": {"year": [2024]}})
    rows = [Row(1, 1, None, 0, 2023)]
    first = assign(rows, split)
    rows += [Row(1, 2, None, 0, 2024), Row(2, 3, None, 0, 2024)]
    media = media_of(rows)
    grown = assign_subsets(media, split, remembered(first, rows[:1]))
    assert list(subsets(grown).values()) == ["train", "train", "test"]
    assert grown.astray.rows() == [("holdout", "train", "test", 1)]
    assert ("holdout", False, "train", "test", 1) in audit(media, split, grown).rows()


def test_rare_labels_leave_everything_and_stay_out() -> None:
    split = split_of(rare={"below": 5, "subset": "few_shot"})
    common, rare = [Row(n, n, None, 0) for n in range(30)], [Row(100 + n, 100 + n, None, 1) for n in range(4)]
    with_a_common_one = [Row(100, 200, None, 0)]
    rows = common + rare + with_a_common_one
    first = assign(rows, split)
    found = remembered(first, rows)
    assert set(found.filter(pl.col("label") == "label 1")["subset"]) == {"few_shot"}
    assert found.filter(pl.col("subset") == "few_shot")["media_id"].to_list() == [f"m{n:05}" for n in range(30, 35)]
    reasons = {(row["label"], row["subset"]): row["reason"] for row in first.report.to_dicts()}
    assert reasons["label 1", "few_shot"] == "rare: 4 pictures, fewer than 5"

    rows += [Row(300 + n, 300 + n, None, 1) for n in range(9)] + [Row(400, 400, None, 2)]
    grown = assign(rows, split, found)
    now = remembered(grown, rows)
    assert set(now.filter(pl.col("label") == "label 1")["subset"]) == {"few_shot"}
    reasons = {(row["label"], row["subset"]): row["reason"] for row in grown.report.to_dicts()}
    assert reasons["label 1", "few_shot"] == "rare since an earlier snapshot: 13 pictures"
    shrunk = assign(frame(rows).filter(pl.col("media_id") < "m00003"), split, now)
    assert "few_shot" not in subsets(shrunk).values()


def test_nothing_to_split_is_an_empty_split() -> None:
    for split in SPLITS:
        found = assign([], split)
        assert found.rows.columns == ["media_id", "subset", "group_id", "nested"]
        assert (len(found.rows), len(found.report), len(found.moves)) == (0, 0, 0)
        assert audit(media_of([]), split, found)["shared"].sum() == 0


def test_a_leak_is_found_and_what_is_not_asked_for_is_counted() -> None:
    media = media_of([Row(1, 1, 1), Row(1, 2, 2), Row(3, 2, 3)])
    rows = pl.DataFrame({"media_id": ["m00000", "m00001", "m00002"], "subset": ["train", "test", "validation"],
                         "group_id": ["a", "b", "c"], "nested": [[]] * 3})  # fmt: skip
    found = Assignment(rows, pl.DataFrame(), pl.DataFrame(), pl.DataFrame(), [])
    shared = {tuple(row[:4]): row[4] for row in audit(media, split_of(group_by=["occurrence"]), found).iter_rows()}
    assert shared["occurrence", True, "train", "test"] == 1
    assert shared["occurrence", True, "train", "validation"] == 0
    assert shared["url", False, "validation", "test"] == 1
    assert shared["datasetKey", False, "train", "validation"] == 1
    assert sum(count for key, count in shared.items() if key[0] in ("duplicate", "group", "pixels")) == 0


def test_the_audit_counts_pairs_of_any_number_of_subsets() -> None:
    names = [f"s{number}" for number in range(70)]
    split = split_of(subsets={"train": 1 - 70e-4} | dict.fromkeys(names, 1e-4), group_by=["occurrence"])
    media = media_of([Row(1, 1), Row(1, 2), Row(3, 1), Row(4, 4)])
    rows = pl.DataFrame({"media_id": ["m00000", "m00001", "m00002", "m00003"], "subset": ["s0", "s69", "s40", "train"],
                         "group_id": list("abcd"), "nested": [[]] * 4})  # fmt: skip
    found = Assignment(rows, pl.DataFrame(), pl.DataFrame(), pl.DataFrame(), [])
    shared = audit(media, split, found).filter(pl.col("key").is_in(["occurrence", "url"]), pl.col("shared") > 0)
    assert shared.select("key", "subset", "other_subset", "shared").rows() == [
        ("occurrence", "s0", "s69", 1),
        ("url", "s0", "s40", 1),
    ]


def test_a_nested_subset_may_stand_before_the_one_that_it_is_part_of() -> None:
    rows = [Row(n, n) for n in range(200)]
    small, tiny = {"small": {"of": "train", "fraction": 0.5}}, {"tiny": {"of": "small", "fraction": 0.5}}
    before, after = (assign(rows, split_of(subsets=THREE | one | two)) for one, two in ((tiny, small), (small, tiny)))
    sets = [[set(nested) for nested in found.rows["nested"]] for found in (before, after)]
    assert sets[0] == sets[1]
    assert {"tiny", "small"} in sets[0]


def test_a_hold_out_that_no_picture_is_in_is_told() -> None:
    rows = [Row(n, n, year=2020 + n % 2) for n in range(20)]
    split = split_of(holdout={"test": {"year": [2020]}, "again": {"year": [2020]}, "abroad": {"dataset_key": "d,e"}})
    found = assign(rows, split)
    assert found.void == ["again", "abroad"]
    held = audit(media_of(rows), split, found).filter(pl.col("key") == "holdout")
    assert held.rows() == [("holdout", False, name, name, 0) for name in ("again", "abroad")]


def test_what_a_large_group_shares_is_named() -> None:
    assert most_shared(media_of([Row(1, 1), Row(1, 2), Row(1, 2), Row(2, 2)]), KEYS).startswith("3 of them share")
    assert most_shared(media_of([Row(1, 1), Row(2, 2)]), KEYS) == ""


def test_no_group_of_real_duplicates_straddles(shared: Path) -> None:
    photos = pl.read_csv(shared / "photos/dev/monkeys10/labels.csv").filter(pl.col("sha256").is_not_null())
    pictures = photos.select(
        url_id="file",
        source_sha256="sha256",
        sha256=pl.lit(None, pl.String),
        phash=pl.Series([None if code is None else int(code, 16) for code in photos["phash"]], dtype=pl.UInt64),
    )
    near = duplicate_groups(duplicate_pairs(pictures, 4)).rename({"group_id": "near_duplicate"})
    media = pictures.drop("phash").join(near, on="url_id", how="left")
    media = media.with_columns(media_id="url_id", gbif_id="url_id", dataset_key=pl.lit("d"), label=pl.lit("monkey"))
    joined = assign(media, Split()).rows.join(photos, left_on="media_id", right_on="file")
    copies = joined.group_by("sha256").agg(pl.len(), pl.col("subset").n_unique()).filter(pl.col("len") > 1)
    alike = joined.drop_nulls("phash").group_by("phash").agg(pl.len(), pl.col("subset").n_unique())
    assert len(copies) == 67
    assert copies["subset"].max() == 1 == alike["subset"].max()
    assert joined["subset"].n_unique() == 3


def test_a_hold_out_of_an_unknown_term_names_the_setting() -> None:
    with pytest.raises(PlatformError, match=r"split\.holdout\.test\.season"):
        assign([Row(1, 1)], split_of(holdout={"test": {"season": "winter"}}))
