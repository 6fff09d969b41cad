"""Splits: nothing straddles, nothing changes sides, whatever the data look like."""

import duckdb
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.splits import assign_subsets, straddling_groups
from gbif_platform.dataset import Split

KEYS = ["occurrence", "url", "duplicate"]
SPLIT = Split(subsets={"train": 0.6, "validation": 0.2, "test": 0.2}, group_by=KEYS)


def media_frame(rows: list[tuple[int, int, int | None]]) -> pl.DataFrame:
    """Media from (occurrence, url, bytes); the medium's id is its place, so that frames can grow at the end."""
    return pl.DataFrame(
        {
            "media_id": [f"m{place:05}" for place in range(len(rows))],
            "occurrence": [f"o{occurrence:05}" for occurrence, _, _ in rows],
            "url_id": [f"u{url}" for _, url, _ in rows],
            "source_sha256": [None if data is None else f"s{data}" for _, _, data in rows],
        },
        schema=dict.fromkeys(("media_id", "occurrence", "url_id", "source_sha256"), pl.String),
    )


rows = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), st.none() | st.integers(0, 40)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_no_group_straddles_and_every_medium_is_assigned_once(data: list[tuple[int, int, int | None]]) -> None:
    media = media_frame(data)
    splits = assign_subsets(duckdb.connect(), media, SPLIT)
    assert splits["media_id"].to_list() == media["media_id"].to_list()
    assert set(splits["subset"]) <= {"train", "validation", "test"}
    assert not any(straddling_groups(splits, media, KEYS).values())


@settings(max_examples=40, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_row_order_does_not_matter(data: list[tuple[int, int, int | None]], random: object) -> None:
    media = media_frame(data)
    shuffled = media.sample(fraction=1, shuffle=True, seed=random.randrange(2**31))  # type: ignore[attr-defined]
    assert assign_subsets(duckdb.connect(), media, SPLIT).equals(assign_subsets(duckdb.connect(), shuffled, SPLIT))


@settings(max_examples=60, deadline=None)
@given(rows, rows)
def test_growth_moves_no_picture_unless_its_groups_merge(
    before: list[tuple[int, int, int | None]], more: list[tuple[int, int, int | None]]
) -> None:
    con = duckdb.connect()
    first = assign_subsets(con, media_frame(before), SPLIT)
    grown = assign_subsets(con, media_frame(before + more), SPLIT, first.select("media_id", "group_id"))
    both = first.join(grown, on="media_id", suffix="_now")
    moved = both.filter(pl.col("subset") != pl.col("subset_now"))
    merged = (
        both.group_by("group_id_now").agg(pl.col("group_id").n_unique().alias("groups")).filter(pl.col("groups") > 1)
    )
    assert set(moved["group_id_now"]) <= set(merged["group_id_now"])


def test_shares_are_kept_and_seeds_differ() -> None:
    media = media_frame([(n, n, n) for n in range(20_000)])
    con = duckdb.connect()
    splits = assign_subsets(con, media, SPLIT)
    shares = dict(splits.group_by("subset").len().iter_rows())
    assert abs(shares["train"] / 20_000 - 0.6) < 0.015
    assert abs(shares["test"] / 20_000 - 0.2) < 0.015
    other = assign_subsets(con, media, SPLIT.model_copy(update={"seed": 18}))
    assert (splits["subset"] != other["subset"]).sum() > 5_000


def test_a_leak_is_found() -> None:
    media = media_frame([(1, 1, 1), (1, 2, 2)])
    torn = pl.DataFrame({"media_id": ["m00000", "m00001"], "subset": ["train", "test"], "group_id": ["a", "b"]})
    assert straddling_groups(torn, media, KEYS) == {"group": 0, "occurrence": 1, "url": 0, "duplicate": 0}
