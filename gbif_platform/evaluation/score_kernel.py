"""The pass over the logits, compiled by numba: one row after the other, nothing of size N × C is kept.

Of 65 536 float16 values the exponentials are looked up, so a row of softmax costs two look-ups a class and no exp. The
first use on a machine compiles for some seconds, later ones read numba's cache: beside this file, else
`$NUMBA_CACHE_DIR` or `~/.cache/numba`. The interpreter's lock is not held.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Order of float16 as unsigned integers, see `_key`.
_MINUS_INFINITY, _INFINITY = 0x03FF, 0xFC00


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call, or read from numba's cache; only compiled where no folder for it can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except (RuntimeError, OSError):
        return numba.njit(nogil=True)(function)


@numba.njit(inline="always")
def _insert(top, top_score, place, score):  # type: ignore[no-untyped-def]
    """Put a class among the k best; of equals the one that came first stays before."""
    at = len(top) - 1
    while at > 0 and score > top_score[at - 1]:
        top[at], top_score[at] = top[at - 1], top_score[at - 1]
        at -= 1
    top[at], top_score[at] = place, score


@numba.njit(inline="always")
def _finite(bits):  # type: ignore[no-untyped-def]
    """Largest float16 of a row as its bits, and whether the row has neither NaN nor +infinity, by integer order."""
    largest, smallest = np.uint16(0), np.uint16(0xFFFF)
    for place in range(len(bits)):
        bit = bits[place]
        key = np.uint16(bit ^ np.uint16(0xFFFF)) if bit >= 0x8000 else np.uint16(bit | np.uint16(0x8000))
        largest = max(largest, key)
        smallest = min(smallest, key)
    sound = largest > _MINUS_INFINITY and largest < _INFINITY and smallest >= _MINUS_INFINITY
    peak = np.uint16(largest ^ 0xFFFF) if largest < 0x8000 else np.uint16(largest & 0x7FFF)
    return peak, sound


@numba.njit(inline="always")
def _roll_up(mass, total, sums, label, parent, size, group_taxon, taxa_count, taxon, best, best_share, true_log):  # type: ignore[no-untyped-def]
    """Best taxon of each rank and the true one's log-probability; of equals the lower number. `mass` is overwritten.

    `total` 0: shares are no part of a whole (sigmoid), and a taxon has its surest label's.
    """
    members = len(mass)
    for rank in range(len(size)):
        groups = sums[0, : size[rank]]
        groups[:] = 0.0
        for member in range(members):
            group = parent[rank, member]
            groups[group] = groups[group] + mass[member] if total > 0 else max(groups[group], mass[member])
        taxa = sums[1, : taxa_count[rank]]
        taxa[:] = 0.0
        members = size[rank]
        for group in range(members):
            mass[group] = groups[group]
            number = group_taxon[rank, group]
            taxa[number] = taxa[number] + groups[group] if total > 0 else max(taxa[number], groups[group])
        winner = np.argmax(taxa)
        whole = total if total > 0 else 1.0
        best[rank], best_share[rank] = winner, taxa[winner] / whole
        true_log[rank] = np.log(taxa[taxon[rank, label]] / whole) if label >= 0 else np.nan


@compiled
def softmax_rows(  # type: ignore[no-untyped-def]
    bits, labels, value, power, inverse, adjustment, parent, size, group_taxon, taxa_count, taxon,
    top, top_probability, position, log_probability, brier, best, best_share, true_log,
):  # fmt: skip
    """Fill the outputs for a block of softmax rows; returns the first row that is not finite, or −1.

    Args:
        bits: uint16 (b, C), the float16 logits. labels: int64 (b,), −1 = none.
        value: float32 (65 536,), what each pattern of bits means. power: its exp(value · inverse).
        inverse: 1 / temperature. adjustment: float64 (C,), added to the logits after that; at most 0.
        parent, size, group_taxon: see `Hierarchy.chain`. taxa_count: int32 (R,). taxon: int32 (R, C).
        The others are the outputs, as in `Scores`; those of ranks (b, R).
    """
    count, classes = bits.shape
    k = top.shape[1]
    weight = np.exp(adjustment)
    mass = np.empty(classes)
    sums = np.empty((2, classes))
    top_score = np.empty(k)
    for row in range(count):
        peak, sound = _finite(bits[row])
        if not sound:
            return row
        shift = float(value[peak]) * inverse
        label = labels[row]
        own = float(value[bits[row, label]]) * inverse - shift + adjustment[label] if label >= 0 else np.inf
        top_score[:] = -np.inf
        top[row] = -1
        total, squares, before = 0.0, 0.0, 0
        for place in range(classes):
            bit = bits[row, place]
            raw = float(value[bit]) * inverse - shift
            score = raw + adjustment[place]
            share = weight[place] * (float(power[bit]) if shift == 0.0 else np.exp(raw))
            total += share
            squares += share * share
            mass[place] = share
            if score > top_score[k - 1]:
                _insert(top[row], top_score, place, score)
            before += score > own or (score == own and place < label)
        for place in range(k):
            # Only a score of minus infinity is not inserted: the row has fewer than k others.
            if top[row, place] < 0:
                top[row, place] = _unused(top[row])
            top_probability[row, place] = np.exp(top_score[place]) / total
        if label >= 0:
            log_probability[row] = own - np.log(total)
            brier[row] = squares / (total * total) - 2 * mass[label] / total + 1
            position[row] = before
        else:
            log_probability[row], brier[row], position[row] = np.nan, np.nan, classes
        _roll_up(
            mass,
            total,
            sums,
            label,
            parent,
            size,
            group_taxon,
            taxa_count,
            taxon,
            best[row],
            best_share[row],
            true_log[row],
        )
    return -1


@compiled
def sigmoid_rows(  # type: ignore[no-untyped-def]
    bits, labels, value, power, inverse, adjustment, parent, size, group_taxon, taxa_count, taxon,
    top, top_probability, position, log_probability, brier, best, best_share, true_log,
):  # fmt: skip
    """As `softmax_rows`, each class for itself; `power` is not used."""
    count, classes = bits.shape
    k = top.shape[1]
    mass = np.empty(classes)
    sums = np.empty((2, classes))
    top_score = np.empty(k)
    for row in range(count):
        if not _finite(bits[row])[1]:
            return row
        label = labels[row]
        own = float(value[bits[row, label]]) * inverse + adjustment[label] if label >= 0 else np.inf
        top_score[:] = -np.inf
        top[row] = -1
        squares, before = 0.0, 0
        for place in range(classes):
            score = float(value[bits[row, place]]) * inverse + adjustment[place]
            mass[place] = 1 / (1 + np.exp(-score))
            squares += mass[place] * mass[place]
            if score > top_score[k - 1]:
                _insert(top[row], top_score, place, score)
            before += score > own or (score == own and place < label)
        for place in range(k):
            if top[row, place] < 0:
                top[row, place] = _unused(top[row])
            top_probability[row, place] = 1 / (1 + np.exp(-top_score[place]))
        if label >= 0:
            log_probability[row] = -np.log1p(np.exp(-own)) if own > -500 else own
            brier[row] = squares - 2 * mass[label] + 1
            position[row] = before
        else:
            log_probability[row], brier[row], position[row] = np.nan, np.nan, classes
        _roll_up(
            mass,
            0.0,
            sums,
            label,
            parent,
            size,
            group_taxon,
            taxa_count,
            taxon,
            best[row],
            best_share[row],
            true_log[row],
        )
    return -1


@numba.njit
def _unused(top):  # type: ignore[no-untyped-def]
    """The lowest class that is not among the best."""
    place = 0
    while np.any(top == place):
        place += 1
    return place
