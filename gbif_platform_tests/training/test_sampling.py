from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.training import config
from gbif_platform.training.sampling import Sampler, chances, epoch_order, share

labels = st.lists(st.integers(0, 6), max_size=200).map(lambda values: np.array(values, np.int64))
samplers = st.sampled_from(get_args(Sampler))
LONG_TAILED = np.repeat([0, 1, 3], [900, 90, 10])


def test_samplers_are_those_of_the_settings() -> None:
    assert get_args(Sampler) == get_args(config.Sampler)


@given(st.integers(0, 100), st.integers(0, 50), labels, samplers)
def test_an_order_is_a_pure_function_as_long_as_the_samples(
    seed: int, epoch: int, label: np.ndarray, sampler: Sampler
) -> None:
    order = epoch_order(seed, epoch, label, sampler)
    assert len(order) == len(label)
    assert ((order >= 0) & (order < max(1, len(label)))).all()
    assert np.array_equal(order, epoch_order(seed, epoch, label, sampler))
    if sampler == "natural":
        assert sorted(order) == list(range(len(label)))
    if len(label) > 20:
        assert not np.array_equal(order, epoch_order(seed, epoch + 1, label, sampler))


@pytest.mark.parametrize(("sampler", "expected"), [("balanced", [333, 333, 333]), ("sqrt", [697, 220, 73])])
def test_labels_come_as_often_as_the_sampler_says(sampler: Sampler, expected: list[float]) -> None:
    weights = np.array([900, 90, 10]) ** (0.5 if sampler == "sqrt" else 0)
    counts = np.bincount(LONG_TAILED[epoch_order(1, 0, LONG_TAILED, sampler)])[[0, 1, 3]]
    assert np.abs(counts - 1000 * weights / weights.sum()).max() <= 1
    assert counts.sum() == 1000


@given(labels.filter(len), samplers, st.integers(0, 20))
def test_within_a_label_all_come_before_one_comes_again(label: np.ndarray, sampler: Sampler, epoch: int) -> None:
    times = np.bincount(epoch_order(3, epoch, label, sampler), minlength=len(label))
    for one in np.unique(label):
        assert np.ptp(times[label == one]) <= 1


def test_all_pictures_of_a_frequent_label_come_in_some_epoch() -> None:
    seen = np.concatenate([epoch_order(3, epoch, LONG_TAILED, "balanced") for epoch in range(40)])
    assert len(np.unique(seen)) == 1000


@given(st.integers(0, 60), st.integers(1, 7))
def test_processes_share_an_order(count: int, world_size: int) -> None:
    order = np.random.default_rng(0).permutation(count)
    exact = [share(order, rank, world_size, equal=False) for rank in range(world_size)]
    assert sorted(np.concatenate(exact)) == list(range(count))
    assert len(exact[0]) - len(exact[-1]) <= 1
    equal = [share(order, rank, world_size, equal=True) for rank in range(world_size)]
    assert {len(one) for one in equal} == {-(-count // world_size)}
    assert set(np.concatenate(equal)) == set(range(count))


def test_chance_is_uniform_and_differs_by_seed_epoch_place_and_use() -> None:
    drawn = np.stack([chances(seed, epoch, np.arange(500), 26) for seed in (0, 1) for epoch in (0, 1)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert len(np.unique(drawn)) == drawn.size
    shares = np.histogram(drawn, bins=10, range=(0, 1))[0] / drawn.size
    assert np.abs(shares - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(drawn.reshape(-1, 26), rowvar=False) - np.eye(26)).max() < 0.1


@given(st.integers(0, 2**63), st.integers(0, 1000), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_chance_at_a_place_does_not_depend_on_its_neighbours(seed: int, epoch: int, places: list[int]) -> None:
    together = chances(seed, epoch, np.array(places), 5)
    for row, place in zip(together, places, strict=True):
        assert np.array_equal(row, chances(seed, epoch, np.array([place]), 5)[0])
