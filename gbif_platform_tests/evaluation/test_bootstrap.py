import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.evaluation.bootstrap import (
    LEAST_GROUPS,
    Difference,
    Ratio,
    group_codes,
    intervals,
    macro_by,
    sums,
    value_of,
)
from gbif_platform_tests.evaluation.made import noisy


def top1(right: np.ndarray, group: np.ndarray) -> Ratio:
    return Ratio(sums(group, right), sums(group))


def rightness(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    label, logits = noisy(rows, seed)
    return label, logits.argmax(axis=1) == label


def test_the_interval_has_the_width_of_a_binomial() -> None:
    _, right = rightness(1000, 1)
    found = intervals({"top1": top1(right, np.arange(1000))}, 1000, resamples=2000)["top1"]
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 1000)
    assert found.shape == (1, 2)
    assert found[0] == pytest.approx([right.mean() - half, right.mean() + half], abs=0.005)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 200 worlds of 80 occurrences with 3 alike pictures each, some 95 % of the intervals hold the true 0.6."""
    random = np.random.default_rng(1)
    group = np.repeat(np.arange(80), 3)
    held = 0
    for _ in range(200):
        right = np.repeat(random.random(80) < 0.6, 3)
        low, high = intervals({"a": top1(right, group)}, 80, resamples=200)["a"][0]
        held += low <= 0.6 <= high
    assert 0.89 <= held / 200 <= 0.99


def test_pictures_of_one_occurrence_widen_the_interval() -> None:
    """Ten copies of each picture say nothing new: grouped, the interval stays; as single rows it would shrink."""
    _, right = rightness(100, 2)
    copies = np.repeat(right, 10)
    width = {}
    for name, values, group in (
        ("once", right, np.arange(100)),
        ("grouped", copies, np.repeat(np.arange(100), 10)),
        ("single", copies, np.arange(1000)),
    ):
        low, high = intervals({"a": top1(values, group)}, int(group.max()) + 1)["a"][0]
        width[name] = high - low
    assert width["grouped"] == pytest.approx(width["once"], rel=0.15)
    assert width["single"] < 0.5 * width["grouped"]


def test_a_paired_difference_is_narrower_than_its_two_sides() -> None:
    _, right = rightness(500, 3)
    other = right.copy()
    other[:10] = ~other[:10]
    group = np.arange(500)
    found = intervals(
        {"a": top1(right, group), "d": Difference(top1(right, group), top1(other, group))}, 500, resamples=300
    )
    assert np.ptp(found["d"][0]) < 0.4 * np.ptp(found["a"][0])
    same = intervals({"d": Difference(top1(right, group), top1(right, group))}, 500)["d"]
    assert same.tolist() == [[0, 0]]


def test_the_interval_is_the_same_for_the_same_seed_and_any_order() -> None:
    _, right = rightness(60, 3)
    group = np.arange(60) // 3
    order = np.random.default_rng(1).permutation(60)
    one, other = (
        intervals({"a": top1(r, g)}, 20, seed=4)["a"] for r, g in ((right, group), (right[order], group[order]))
    )
    assert one.tolist() == other.tolist()
    assert one.tolist() != intervals({"a": top1(right, group)}, 20, seed=5)["a"].tolist()


@pytest.mark.parametrize("groups", [1, LEAST_GROUPS - 1])
def test_few_groups_have_no_interval_rather_than_one_that_looks_sure(groups: int) -> None:
    _, right = rightness(50, 3)
    found = intervals({"a": top1(right, np.arange(50) % groups)}, groups)["a"]
    assert found.shape == (1, 2)
    assert np.isnan(found).all()
    assert np.isfinite(intervals({"a": top1(right, np.arange(50) % LEAST_GROUPS)}, LEAST_GROUPS)["a"]).all()


def test_what_no_resample_has_is_nan() -> None:
    group = np.arange(20)
    nothing = Ratio(sums(group, np.zeros(20)), sums(group, np.zeros(20)))
    assert np.isnan(intervals({"a": nothing}, 20)["a"]).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_macro_by_part_is_the_mean_of_recalls(rows: int, classes: int, parts: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    label, part = random.integers(0, classes, rows), random.integers(-1, parts, rows)
    right, group = random.random(rows) < 0.5, random.integers(0, 9, rows)
    found = value_of(macro_by(right, label, group, part=part, parts=parts), int(group.max()) + 1)
    for at in range(parts):
        inside = part == at
        recalls = [right[inside & (label == one)].mean() for one in np.unique(label[inside])]
        assert found[at] == pytest.approx(np.mean(recalls) if recalls else np.nan, nan_ok=True)


def test_groups_are_numbered_whatever_they_are() -> None:
    assert group_codes(np.array(["b", "a", "b"]), 3).tolist() == [1, 0, 1]
    assert group_codes(None, 3).tolist() == [0, 1, 2]
