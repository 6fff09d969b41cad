import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.training.data import Batch
from gbif_platform.training.lr_finder import LearningRateError, find_learning_rate, steepest
from gbif_platform_tests.training.test_module import batches, module

RATES = np.geomspace(1e-5, 1, 100).tolist()


def fall(at: float, noise: float = 0.0) -> list[float]:
    """Losses that fall from 3 to 1 around rate `at` and explode past a hundred times that."""
    random = np.random.default_rng(1)
    shape = [3 - 2 / (1 + (at / rate) ** 2) + (rate / at / 100) ** 4 for rate in RATES]
    return (np.array(shape) + noise * random.standard_normal(len(shape))).tolist()


@pytest.mark.parametrize("at", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_rate_of_the_steepest_fall_is_found(at: float, noise: float) -> None:
    found = steepest(RATES, fall(at, noise))
    assert found is not None
    assert at / 3 < found < at * 3


def test_losses_that_are_no_number_end_the_search() -> None:
    losses = fall(1e-3)
    losses[80:] = [math.nan] * 20
    assert steepest(RATES, losses) == pytest.approx(steepest(RATES, fall(1e-3)[:80]))


@given(st.lists(st.floats(0, 1e6), max_size=60).map(sorted))
def test_rising_losses_have_no_good_rate(losses: list[float]) -> None:
    assert steepest(RATES[: len(losses)], losses) is None


def test_it_leaves_no_trace_and_finds_the_same_again() -> None:
    trained = module(learning_rate="find", mixup=0.2, dropout=0.1)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.manual_seed(8)
    expected = torch.rand(1)
    torch.manual_seed(8)
    found = find_learning_rate(trained, batches(5), steps=60)
    assert torch.rand(1) == expected
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert 1e-4 < found < 0.3
    assert find_learning_rate(module(learning_rate="find", mixup=0.2, dropout=0.1), batches(5), steps=60) == found


def test_pictures_that_teach_nothing_are_told() -> None:
    with pytest.raises(LearningRateError, match="fall at no rate"):
        find_learning_rate(module(learning_rate="find"), list[Batch]())
