"""Answers made up for the tests of this room."""

import numpy as np
from hypothesis import strategies as st
from scipy.special import log_softmax

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.scores import Scores, score


def half(logits: np.ndarray) -> np.ndarray:
    """As `training.predict` stores them: each row minus its maximum, float16; returned as float64."""
    shifted = np.asarray(logits, np.float64)
    return (shifted - shifted.max(axis=1, keepdims=True)).astype(np.float16).astype(np.float64)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """What softmax of the stored logits is."""
    return log_softmax(half(logits), axis=1)


def scores_of(label: np.ndarray, logits: np.ndarray, hierarchy: Hierarchy | None = None, k: int = 10) -> Scores:
    """Scores of logits as they are stored."""
    return score(Answers.of_array(half(logits)), label, hierarchy=hierarchy, k=k, threads=1)


def noisy(rows: int, seed: int, accuracy: float = 0.7, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits of which about this share are right."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, rows)
    answer = np.where(random.random(rows) < accuracy, label, random.integers(0, classes, rows))
    logits = random.normal(0, 0.1, (rows, classes))
    logits[np.arange(rows), answer] += 2
    return label, logits


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Few rows and classes, so that empty classes, single classes and ties are common."""
    rows, classes = draw(st.integers(1, 30)), draw(st.integers(1, 8))
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    label = random.integers(0, draw(st.integers(1, classes)), rows)
    return label, random.integers(0, draw(st.sampled_from([1, 3, 100])), (rows, classes)) / 8
