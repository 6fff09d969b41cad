"""Intervals by resampling groups: each group weighs Poisson(1) in each resample (Chamandy et al. 2012).

The pictures of one occurrence are no independent evidence, so they come and go together. All statistics of one call see
the same resamples; two models on the same rows are compared by the difference of their statistics in each.
"""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from gbif_platform.cpus import cpus

RESAMPLES = 500
CONFIDENCE = 0.95
LEAST_GROUPS = 10
"""Of fewer groups there is no interval: resampling them shows hardly anything of what others would say."""
SEED = 17
_BLOCK = 32  # resamples at a time: bounds the memory of the weights
_THREADS = 4
_POISSON_STEPS = 1 << 16

Statistic = Callable[[np.ndarray], np.ndarray]
"""From weights float32 (G, B) of the groups in B resamples to values (V, B); NaN where a resample has nothing of it."""


def group_codes(group: object, rows: int) -> np.ndarray:
    """int64 (N,), 0..G−1, from one key a row; None = each row is its own group."""
    keys = np.arange(rows) if group is None else np.asarray(group)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64).reshape(-1)


def sums(
    group: np.ndarray, value: np.ndarray | None = None, *, key: np.ndarray | None = None, keys: int = 1
) -> sparse.csr_array:
    """Sum of `value` (None = 1) over the rows of each key (None = all rows are of one) and group: float32 (keys, G).

    Sparse also where it is full: its product is single-threaded and steady, where BLAS on a busy machine waits for its
    own threads (8 times as long, measured on a busy machine).
    """
    if key is None:
        return sparse.csr_array(np.bincount(group, weights=value)[None].astype(np.float32))
    filled = np.ones(len(group), np.float32) if value is None else np.asarray(value, np.float32)
    return sparse.coo_array((filled, (key, group)), (keys, int(group.max()) + 1)).tocsr()


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


@dataclass(frozen=True)
class Ratio:
    """Σ numerator / Σ denominator of each of V keys: a mean where the denominator counts rows."""

    numerator: sparse.csr_array
    denominator: sparse.csr_array

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic`."""
        return divide(self.numerator @ weights, self.denominator @ weights)


@dataclass(frozen=True)
class Macro:
    """Mean over classes of Σ numerator / Σ rows, in each of V sets of cells (a cell is a class, or a class in a slice).

    Attributes:
        numerator, rows: (cells, G).
        members: (V, cells), 1 where a cell belongs to a set. Cells without a row in a resample are left out of it.
    """

    numerator: sparse.csr_array
    rows: sparse.csr_array
    members: sparse.csr_array

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic`."""
        rows = self.rows @ weights
        drawn = rows > 0
        share = np.divide(self.numerator @ weights, rows, out=np.zeros_like(rows), where=drawn)
        return divide(self.members @ share, self.members @ drawn.astype(np.float32))


@dataclass(frozen=True)
class Difference:
    """One statistic minus another, resample by resample."""

    minuend: Statistic
    subtrahend: Statistic

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic`."""
        return self.minuend(weights) - self.subtrahend(weights)


def macro_by(
    outcome: np.ndarray, label: np.ndarray, group: np.ndarray, *, part: np.ndarray | None = None, parts: int = 1
) -> Macro:
    """Mean of `outcome` (bool or float, (N,)) over classes in each of `parts`; rows with part −1 are left out."""
    kept = slice(None) if part is None else part >= 0
    within = np.zeros(len(label), np.int64) if part is None else part
    classes = int(label.max()) + 1
    cells, cell = np.unique(within[kept] * classes + label[kept], return_inverse=True)
    shape = (len(cells), int(group.max()) + 1)
    where = (cell, group[kept])
    ones = np.ones(len(cell), np.float32)
    members = sparse.coo_array(
        (np.ones(len(cells), np.float32), (cells // classes, np.arange(len(cells)))), (parts, len(cells))
    )
    return Macro(
        sparse.coo_array((np.asarray(outcome[kept], np.float32), where), shape).tocsr(),
        sparse.coo_array((ones, where), shape).tocsr(),
        members.tocsr(),
    )


def value_of(statistic: Statistic, groups: int) -> np.ndarray:
    """The statistic of the rows themselves: float64 (V,)."""
    return statistic(np.ones((groups, 1), np.float32))[:, 0].astype(np.float64)


def intervals(
    statistics: Mapping[str, Statistic],
    groups: int,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> dict[str, np.ndarray]:
    """Percentile intervals of statistics: float64 (V, 2), low and high; NaN where no resample has a value, and
    everywhere under `LEAST_GROUPS` groups.

    The same rows in any order give the same intervals.
    """
    if groups < LEAST_GROUPS:
        values = {name: value_of(statistic, groups) for name, statistic in statistics.items()}
        return {name: np.full((len(one), 2), np.nan) for name, one in values.items()}
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]

    def block(random: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        weights = _poisson(random, (groups, size))
        return {name: statistic(weights) for name, statistic in statistics.items()}

    with ThreadPoolExecutor(min(_THREADS, cpus())) as pool:
        drawn = list(pool.map(block, np.random.default_rng(seed).spawn(len(sizes)), sizes))
    percentiles = [50 * (1 - confidence), 50 * (1 + confidence)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return {
            name: np.nanpercentile(
                np.concatenate([one[name] for one in drawn], axis=1).astype(np.float64), percentiles, axis=1
            ).T
            for name in statistics
        }


def _poisson(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Poisson(1) draws, float32, through a table of 65 536 quantiles: ten times as fast as the exact generator."""
    return _poisson_table()[random.integers(0, _POISSON_STEPS, size=shape, dtype=np.uint16)]


def _poisson_table() -> np.ndarray:
    share = np.exp(-1) / np.cumprod([1.0, *range(1, 12)])
    edges = np.round(np.cumsum(share) * _POISSON_STEPS)
    return np.searchsorted(edges, np.arange(_POISSON_STEPS), side="right").astype(np.float32)
