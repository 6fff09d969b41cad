"""One URL under several occurrences: what each policy takes, whatever the order of rows."""

import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.sampling import NothingToSample
from gbif_platform.curation.spec import Filters, Sampling
from gbif_platform_tests.curation.test_sampling import Drawn, draw, lake_rows, members

POLICIES = ("keep_if_labels_agree", "keep_first", "drop_all", "keep_all")


def shared(pictures: Sequence[tuple[str, str | None]], order: list[int] | None = None, **filters: Any) -> Drawn:
    """A sample of media (picture, label); the lower the place, the lower the sample key."""
    media, occurrences = lake_rows([label for _, label in pictures])
    media = media.with_columns(
        url_id=pl.Series([picture for picture, _ in pictures]),
        sample_key=pl.Series(range(len(pictures)), dtype=pl.UInt64),
    )
    return draw(media[order or list(range(len(pictures)))], occurrences, Sampling(policy="all"), Filters(**filters))


def places(outcome: Drawn) -> list[int]:
    return sorted(int(media_id, 16) for media_id in members(outcome))


def refused(outcome: Drawn) -> list[tuple[int, str]]:
    return sorted((int(media_id, 16), reason) for media_id, reason, _ in outcome.refused.iter_rows())


PICTURES = [("same", "a"), ("other", "b"), ("same", "a"), ("torn", "a"), ("torn", "b"), ("torn", "b")]


@pytest.mark.parametrize(
    ("policy", "taken"),
    [
        ("keep_if_labels_agree", [0, 1]),
        ("keep_first", [0, 1, 3]),
        ("drop_all", [1]),
        ("keep_all", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_policies(policy: str, taken: list[int]) -> None:
    outcome = shared(PICTURES, duplicates=policy)
    assert places(outcome) == taken
    assert outcome.rows_in == outcome.rows_out + outcome.rows_left + len(outcome.refused)
    conflicts = outcome.rows["label_conflicts"]
    assert [int(media_id, 16) for media_id in conflicts["media_id"]] == [3, 4, 5]
    assert conflicts["label"].to_list() == ["a", "b", "b"]
    assert conflicts["decision"].to_list() == ["kept" if place in taken else "left out" for place in (3, 4, 5)]
    assert conflicts["dataset_key"].to_list() == ["d"] * 3


def test_the_reason_says_whether_labels_disagree() -> None:
    assert refused(shared(PICTURES)) == [
        (2, "duplicate_url"),
        (3, "label_conflict"),
        (4, "label_conflict"),
        (5, "label_conflict"),
    ]


def test_a_medium_without_a_label_contradicts_none_and_yields_to_one_that_has_it() -> None:
    outcome = shared([("x", None), ("x", "a"), ("y", None), ("y", None)])
    assert places(outcome) == [1, 2]
    assert outcome.rows["label_conflicts"].is_empty()


def test_what_the_filters_refuse_is_no_duplicate() -> None:
    media, occurrences = lake_rows(["a", "b"])
    media = media.with_columns(url_id=pl.lit("x"), license=pl.Series(["unknown", "CC0-1.0"]))
    assert places(draw(media, occurrences, Sampling(policy="balanced"))) == [1]


def test_the_quota_is_filled_from_what_is_left() -> None:
    media, occurrences = lake_rows(["a"] * 6 + ["b"] * 4)
    media = media.with_columns(url_id=pl.Series(["x", "x", "x", *"uvwopqr"]))
    outcome = draw(media, occurrences, Sampling(policy="balanced", per_label=4))
    assert outcome.rows["sample_report"].select("stratum", "available", "taken").rows() == [("a", 4, 4), ("b", 4, 4)]


rows = st.lists(st.tuples(st.sampled_from("wxyz"), st.sampled_from(["a", "b", None])), min_size=1, max_size=12)
rows = rows.filter(lambda pictures: any(label for _, label in pictures))


@settings(max_examples=20, deadline=None)
@given(rows, st.sampled_from(POLICIES), st.randoms(use_true_random=False))
def test_each_picture_is_taken_as_the_policy_says_in_any_order(
    pictures: list[tuple[str, str | None]], policy: str, shuffle: random.Random
) -> None:
    order = list(range(len(pictures)))
    shuffle.shuffle(order)
    try:
        outcome = shared(pictures, order, duplicates=policy)
    except NothingToSample:
        outcome = None
    taken = places(outcome) if outcome else []
    for picture in {picture for picture, _ in pictures}:
        mine = [place for place, (other, _) in enumerate(pictures) if other == picture]
        first = min(mine, key=lambda place: (pictures[place][1] is None, place))
        agree = len({pictures[place][1] for place in mine} - {None}) < 2
        expected = {
            "keep_all": mine,
            "keep_first": [first],
            "drop_all": mine if len(mine) == 1 else [],
            "keep_if_labels_agree": [first] if agree else [],
        }[policy]
        assert [place for place in taken if place in mine] == expected
