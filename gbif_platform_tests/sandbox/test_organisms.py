"""The drawn insects: the same everywhere, told apart by shape and pattern, not by colour."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from gbif_platform.sandbox.organisms import SPECIES, draw

SIDE = 64
CHANCE = 1 / len(SPECIES)


def pictures(first_seed: int, of_each: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`of_each` pictures of every species, (n, 64, 64, 3), and their species."""
    drawn = [
        np.asarray(draw(species, seed, (128, 96)).resize((SIDE, SIDE)))
        for species in SPECIES
        for seed in range(first_seed, first_seed + of_each)
    ]
    return np.stack(drawn), np.repeat(np.arange(len(SPECIES)), of_each)


@pytest.fixture(scope="module")
def samples() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    return *pictures(0, 40), *pictures(1000, 25)


def mean_colours(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(images.mean(axis=(1, 2)))


def gradient_histograms(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey gradients by direction in 8 x 8 cells: sees outlines and patterns, no colour."""
    down, across = np.gradient(images.astype(np.float32).mean(axis=3), axis=(1, 2))
    strength = np.hypot(across, down)
    direction = np.minimum((np.arctan2(down, across) % np.pi) / np.pi * 8, 7).astype(int)
    cells = (len(images), 8, SIDE // 8, 8, SIDE // 8)
    bins = [np.where(direction == wanted, strength, 0).reshape(cells).sum(axis=(2, 4)) for wanted in range(8)]
    features = np.stack(bins, axis=3).reshape(len(images), -1)
    return np.asarray(np.sqrt(features / (features.sum(axis=1, keepdims=True) + 1e-6)))


def test_the_names_form_a_small_tree() -> None:
    assert len({species.name for species in SPECIES}) == len({species.key for species in SPECIES}) == 8
    assert len({species.genus for species in SPECIES}) == 3
    assert len({species.family for species in SPECIES}) == 2


def test_a_picture_is_the_same_in_another_process() -> None:
    script = (
        "import hashlib; from gbif_platform.sandbox.organisms import draw;"
        "print(hashlib.sha256(draw(3, 7).tobytes() + draw(6, 8).tobytes()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    other = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    here = hashlib.sha256(draw(3, 7).tobytes() + draw(6, 8).tobytes()).hexdigest()
    assert other.stdout.strip() == here


def test_a_picture_is_the_one_drawn_when_this_was_written() -> None:
    # 4 x 2 mean grey values: coarse enough for another Pillow, fine enough to notice another picture.
    cells = np.asarray(draw(0, 1).convert("L").resize((4, 2)), dtype=int)
    assert np.abs(cells - np.array([[109, 103, 124, 106], [115, 101, 90, 82]])).max() <= 3


def test_seeds_and_species_give_different_pictures() -> None:
    drawn = {draw(species, seed, (64, 64)).tobytes() for species in SPECIES for seed in range(5)}
    assert len(drawn) == 5 * len(SPECIES)


@settings(max_examples=25, deadline=None)
@given(species=st.integers(0, 7), seed=st.integers(0, 2**48), width=st.integers(32, 240), height=st.integers(32, 240))
def test_any_size_can_be_drawn(species: int, seed: int, width: int, height: int) -> None:
    picture = draw(species, seed, (width, height))
    assert picture.mode == "RGB"
    assert picture.size == (width, height)
    assert np.asarray(picture).std() > 4  # something is on it


def test_mean_colour_does_not_tell_the_species(
    samples: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    seen, labels, unseen, truth = samples
    centres = np.stack([mean_colours(seen)[labels == index].mean(axis=0) for index in range(len(SPECIES))])
    distances = np.linalg.norm(mean_colours(unseen)[:, None] - centres, axis=2)
    assert (distances.argmin(axis=1) == truth).mean() < 2.2 * CHANCE


def test_shape_and_pattern_tell_the_species(
    samples: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]],
) -> None:
    seen, labels, unseen, truth = samples
    model = LogisticRegression(C=30, max_iter=300).fit(gradient_histograms(seen), labels)
    assert model.score(gradient_histograms(unseen), truth) > 4.5 * CHANCE
