"""Which picture comes when, and by what chance it is varied: pure functions of the seed, the epoch and the place."""

from typing import Literal

import numpy as np

Sampler = Literal["natural", "balanced", "sqrt"]

# splitmix64 (Steele, Lea & Flood 2014): as good as a generator for each picture, at a thousandth of the cost of one.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def epoch_order(seed: int, epoch: int, label: np.ndarray, sampler: Sampler = "natural") -> np.ndarray:
    """The samples of one epoch, shuffled: int64 indices, as many as there are samples.

    Args:
        seed, epoch: not negative; the same ones give the same order.
        label: int64 (N,), of each sample.
        sampler: `natural` = each sample once; `balanced` = each label that occurs equally often; `sqrt` = in
            proportion to the square root of its samples. Each label's samples come in turn: none comes a second
            time before all others of its label came once.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(label))
    if sampler == "natural" or not len(label):
        return order
    by_label = order[np.argsort(label[order], kind="stable")]
    counts = np.bincount(label)
    counts = counts[counts > 0]
    quotas = _quotas(counts ** (0.5 if sampler == "sqrt" else 0.0), len(label), random)
    turn = np.arange(len(label)) - np.repeat(np.cumsum(quotas) - quotas, quotas)
    chosen = np.repeat(np.cumsum(counts) - counts, quotas) + turn % np.repeat(counts, quotas)
    return random.permutation(by_label[chosen])


def _quotas(weights: np.ndarray, total: int, random: np.random.Generator) -> np.ndarray:
    """Whole numbers in proportion to weights, with sum `total`; chance decides who gets what is over."""
    ends = np.cumsum(weights / weights.sum()) * total
    rounded = np.floor(ends + random.random())
    rounded[-1] = total
    return np.diff(np.minimum(rounded, total), prepend=0).astype(np.int64)


def share(order: np.ndarray, rank: int, world_size: int, *, equal: bool) -> np.ndarray:
    """What one of several processes takes of an order: every `world_size`-th place.

    Args:
        order: (N,).
        rank: 0 to world_size - 1.
        world_size: processes.
        equal: the order begins again at its end until all have as much; else the last ranks have one less.
    """
    if equal and len(order) % world_size:
        order = np.resize(order, -(-len(order) // world_size) * world_size)
    return order[rank::world_size]


def chances(seed: int, epoch: int, places: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers for what is left to chance at places of an epoch: float64 (len(places), count), 0 <= x < 1."""
    key = np.zeros(1, np.uint64)
    for part in (np.uint64(seed % 2**64), np.uint64(epoch), places.astype(np.uint64)):
        key = _mix((key ^ part) + GAMMA)
    steps = np.arange(1, count + 1, dtype=np.uint64) * GAMMA
    return (_mix(key[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * FIRST
    values = (values ^ (values >> np.uint64(27))) * SECOND
    return values ^ (values >> np.uint64(31))
