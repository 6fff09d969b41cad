"""How many media each stratum gives: one mechanism for every policy, and a larger quota is always a superset."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gbif_platform.curation.spec import Sampling
from gbif_platform.errors import PlatformError

NO_LABEL = "(no label)"
"""Stratum of media without a label: policy `all` takes them, so that another label needs no fetching; no split does."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ties = Callable[[Ints], NDArray[np.uint64]]
"""The place of rows among those with an equal claim to a seat; small comes first."""


class QuotaTooSmall(PlatformError):
    """The total is less than what is promised to labels and strata."""


def allocate(strata: pl.DataFrame, sampling: Sampling) -> pl.DataFrame:
    """Divide the sample among the strata.

    Args:
        strata: `stratum`, `label` (null or `NO_LABEL`: none), `available` (media that pass the filters); one row for
            each pair. Quotas of strata that have several labels are divided among these in proportion.

    Returns:
        The rows as they came, with `wanted` (what the policy asks for, whatever there is), `taken` and `reason`.

    Raises:
        QuotaTooSmall
    """
    cells = _Cells.of(strata, sampling)
    limits = _limits(cells, sampling)
    per_stratum = _shared_out(cells, limits, sampling)
    taken = fill(cells.counts, limits.floor, limits.cap, cells.stratum, per_stratum, cells.ties)
    taken[cells.unlabelled] = cells.available[cells.unlabelled]
    wanted = _wanted(cells, limits, per_stratum, sampling)
    columns = strata.select("stratum", "label", pl.col("available").cast(pl.Int64)).with_columns(
        pl.Series("wanted", wanted, dtype=pl.Int64), pl.Series("taken", taken, dtype=pl.Int64)
    )
    at_most = (per_stratum == limits.of_stratum)[cells.stratum]
    return columns.with_columns(_reason(cells, limits, at_most, sampling).alias("reason"))


@dataclass(frozen=True)
class _Cells:
    """The rows as arrays: a cell is what a stratum has of one label. `stratum` and `label` number them."""

    available: Ints
    stratum: Ints
    label: Ints
    unlabelled: Mask
    stratum_kept: Mask
    kept: Mask
    thinned: Ints  # media that `downsample` leaves of a label, by label
    counts: Floats  # of media, thinned; whole numbers of 1/1024, so that sums are exact in any order
    strata: int
    ties: Ties
    ties_of_strata: Ties

    @classmethod
    def of(cls, rows: pl.DataFrame, sampling: Sampling) -> "_Cells":
        labels = rows["label"].cast(pl.String).fill_null(NO_LABEL)
        names = rows["stratum"].cast(pl.String).fill_null("")
        label, stratum = _numbered(labels), _numbered(names)
        strata = int(stratum.max(initial=-1)) + 1
        available = rows["available"].cast(pl.Int64).to_numpy()
        unlabelled = (labels == NO_LABEL).to_numpy()
        enough = _sums(available, stratum, strata) >= sampling.min_per_stratum
        stratum_kept = (available > 0) & enough[stratum] & ~unlabelled
        of_label = _sums(np.where(stratum_kept, available, 0), label, int(label.max(initial=-1)) + 1)
        share, thinned = np.ones(len(rows)), of_label.copy()
        for name, part in sampling.downsample.items():
            own = (labels == name).to_numpy()
            share[own] = part
            for number in label[own][:1]:  # as a fraction: 0.07 * 100 is more than 7 in floating point
                thinned[number] = math.ceil(Fraction(str(part)) * int(of_label[number]))
        one_of = np.zeros(strata, dtype=np.int64)
        one_of[stratum] = np.arange(len(rows))
        return cls(
            available,
            stratum,
            label,
            unlabelled,
            stratum_kept,
            stratum_kept & (of_label >= sampling.min_per_label)[label],
            thinned,
            np.maximum(np.rint(1024 * (available * share)), available > 0),
            strata,
            lambda chosen: _seeded(sampling.seed, names.gather(chosen), labels.gather(chosen)),
            lambda chosen: _seeded(sampling.seed, names.gather(one_of[chosen])),
        )

    def by_stratum(self, values: NDArray[np.int64 | np.float64]) -> Ints:
        """Sums over the cells of each stratum."""
        return _sums(values, self.stratum, self.strata)

    def by_label(self, values: NDArray[np.int64 | np.float64]) -> Ints:
        """Sums over the cells of each label."""
        return _sums(values, self.label, len(self.thinned))


@dataclass(frozen=True)
class _Limits:
    """What a cell gives at least and at most; `alone` is the most before its label's limit."""

    alone: Ints
    floor: Ints
    cap: Ints
    quota: int | None  # of a stratum; that of a balanced sample for which none is given is the smallest
    of_stratum: Ints  # what a stratum gives at most


def _limits(cells: _Cells, sampling: Sampling) -> _Limits:
    quota = sampling.per_stratum
    if sampling.policy == "balanced" and not any((sampling.total, sampling.per_label, quota)):
        sizes = cells.by_stratum(np.where(cells.kept, cells.available, 0))
        quota = int(sizes[sizes > 0].min()) if sizes.any() else 0
    most = cells.available if quota is None else np.minimum(cells.available, quota)
    alone = np.where(cells.kept, most, 0)
    of_label = np.minimum(cells.by_label(alone), cells.thinned)
    if sampling.per_label is not None:
        of_label = np.minimum(of_label, sampling.per_label)
    weights = _weights(cells.counts, sampling)

    def in_label(floor: Ints, cap: Ints, totals: Ints) -> Ints:
        return fill(weights, floor, cap, cells.label, totals, cells.ties)

    def in_stratum(cap: Ints, totals: Ints) -> Ints:
        return fill(cells.counts, np.zeros_like(cap), cap, cells.stratum, totals, cells.ties)

    floor = in_stratum(alone, np.full(cells.strata, sampling.min_per_stratum))
    floor = in_label(np.zeros_like(floor), floor, of_label)
    cap = in_label(floor, alone, of_label)
    floor = in_label(floor, cap, np.minimum(of_label, sampling.min_per_label))
    of_stratum = cells.by_stratum(cap)
    if quota is not None:
        of_stratum = np.minimum(of_stratum, quota)
        floor = in_stratum(floor, of_stratum)
    return _Limits(alone, floor, cap, quota, of_stratum)


def _shared_out(cells: _Cells, limits: _Limits, sampling: Sampling) -> Ints:
    """What each stratum gives."""
    if sampling.total is None:
        return limits.of_stratum
    promised = int(limits.floor.sum())
    if sampling.total < promised:
        raise QuotaTooSmall(
            f"sampling.total: {sampling.total:,} is less than the {promised:,} that min_per_label = "
            f"{sampling.min_per_label} and min_per_stratum = {sampling.min_per_stratum} promise in all",
            f"set sampling.total to {promised} or more, or raise min_per_label or min_per_stratum, so that fewer "
            "labels or strata are kept",
        )
    return fill(
        _weights(cells.by_stratum(np.where(cells.kept, cells.counts, 0)).astype(float), sampling),
        cells.by_stratum(limits.floor),
        limits.of_stratum,
        np.zeros(cells.strata, dtype=np.int64),
        np.array([sampling.total]),
        cells.ties_of_strata,
    )


def _wanted(cells: _Cells, limits: _Limits, per_stratum: Ints, sampling: Sampling) -> Ints:
    """What the policy asks of each cell, whatever there is."""
    if sampling.policy == "all":
        return cells.available
    if sampling.policy == "balanced" and limits.quota is None and sampling.per_label is not None:
        in_label = np.maximum(1, cells.by_label(cells.kept.astype(np.int64)))
        highest = np.zeros(len(in_label), dtype=np.int64)
        np.maximum.at(highest, cells.label, limits.cap)
        return np.maximum(-(-sampling.per_label // in_label), highest)[cells.label]
    whole = cells.by_stratum(cells.counts)[cells.stratum]
    part = np.divide(cells.counts, whole, out=np.ones(len(whole)), where=whole > 0)
    return np.floor(_wanted_of_strata(cells, limits, per_stratum, sampling)[cells.stratum] * part + 0.5).astype(
        np.int64
    )


def _wanted_of_strata(cells: _Cells, limits: _Limits, per_stratum: Ints, sampling: Sampling) -> Ints:
    kept = cells.by_stratum(cells.kept.astype(np.int64)) > 0
    total = sampling.total or 0
    if sampling.policy != "balanced":
        weights = _weights(cells.by_stratum(cells.counts).astype(float), sampling)
        whole = max(math.fsum(weights[kept]), 1e-200)  # exact, so in any order
        return np.floor(total * np.minimum(weights / whole, 1) + 0.5).astype(np.int64)
    if limits.quota is not None:
        return np.full(cells.strata, limits.quota)
    return np.full(cells.strata, max(math.ceil(total / max(1, int(kept.sum()))), int(per_stratum.max(initial=0))))


def _reason(cells: _Cells, limits: _Limits, at_most: Mask, sampling: Sampling) -> pl.Expr:
    """Why a cell gives what it gives; the first that holds. `at_most`: its stratum gives all that it may."""
    # Where a label's limit binds, it is the smaller one of the two.
    by_thinning = cells.thinned < (sampling.per_label or np.inf)
    taken, wanted = pl.col("taken"), pl.col("wanted")
    of_stratum = ((taken < pl.Series(limits.cap)) & pl.Series(at_most)) | (taken == pl.Series(limits.alone))
    reasons: list[tuple[pl.Expr | pl.Series, str]] = [
        (pl.Series(cells.unlabelled), "fetched, but in no subset"),
        (pl.col("available") == 0, "none passes the filters"),
        (pl.Series(~cells.stratum_kept), f"fewer than min_per_stratum = {sampling.min_per_stratum}"),
        (pl.Series(~cells.kept), f"fewer than min_per_label = {sampling.min_per_label}"),
        (taken == wanted, "as wanted"),
        (taken == pl.col("available"), "all there are"),
        ((taken > wanted) & (taken <= pl.Series(limits.floor)), "raised to the floor"),
        ((taken > wanted) | ((taken < pl.Series(limits.cap)) & ~pl.Series(at_most)), "share of total"),
        (of_stratum, f"capped by per_stratum = {limits.quota}"),
        (pl.Series(by_thinning[cells.label]), "capped by downsample"),
    ]
    rest = pl.lit("capped by per_label")
    for holds, reason in reversed(reasons):
        rest = pl.when(holds).then(pl.lit(reason)).otherwise(rest)
    return rest


def _exponent(sampling: Sampling) -> float:
    if sampling.policy == "balanced":
        return 0.0
    if sampling.policy == "sqrt":
        return 0.5
    return 1 / sampling.temperature if sampling.temperature else 1.0


def _weights(counts: Floats, sampling: Sampling) -> Floats:
    """n^p of each count; of equal counts the same number, and on any machine."""
    exponent = _exponent(sampling)
    if exponent == 0:
        return np.ones(len(counts))
    if exponent == 1 or not len(counts):
        return counts
    unique, place = np.unique(counts, return_inverse=True)
    # The last digits of a power are the mathematical library's own; one over the largest cannot overflow.
    largest = max(float(unique[-1]), 1.0)
    powers = [max(float(f"{(count / largest) ** exponent:.12e}"), 1e-200) for count in unique.tolist()]
    return np.array(powers)[place]


def _seeded(seed: int, *names: pl.Series) -> NDArray[np.uint64]:
    """64 bits of SHA-256 of each row's names."""
    start = hashlib.sha256(str(seed).encode())

    def place(*parts: str) -> bytes:
        digest = start.copy()
        for part in parts:
            digest.update(b"\0" + part.encode())
        return digest.digest()[:8]

    return np.frombuffer(b"".join(map(place, *names)), dtype=">u8").astype(np.uint64)


def _numbered(names: pl.Series) -> Ints:
    """A number for each different name, from 0."""
    return names.rank("dense").to_numpy().astype(np.int64) - 1


def _sums(values: NDArray[np.int64 | np.float64], group: Ints, groups: int) -> Ints:
    """Sums of whole numbers by group; exact below 2^53."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)


def fill(weights: Floats, floor: Ints, cap: Ints, group: Ints, totals: Ints, ties: Ties) -> Ints:
    """Divide each group's total among its rows in proportion to their weights, between floor and cap.

    The divisor method of Webster and Sainte-Laguë: seat k of a row has the claim weight / (2k - 1), and the seats with
    the highest claims are given. So a larger total only adds seats, which largest remainders do not promise.

    Args:
        weights: above 0 wherever floor < cap. floor, cap: 0 <= floor <= cap < 2^50. All by row.
        group: number of each row's group, from 0. totals: by group; what floors and caps forbid is cut.
        ties: the place of rows whose seats have equal claims; no result depends on the order of the rows.

    Returns:
        seats by row.
    """
    groups = len(totals)
    least, most = _sums(floor, group, groups), _sums(cap, group, groups)
    alone = (np.bincount(group, minlength=groups) == 1)[group]
    seats = np.where(alone, np.clip(totals[group], floor, cap), np.where((totals >= most)[group], cap, floor))
    rows = np.flatnonzero(((totals > least) & (totals < most))[group] & (floor < cap) & ~alone)
    if not len(rows):
        return seats
    _, inner = np.unique(group[rows], return_inverse=True)
    open_floor, open_cap = floor[rows], cap[rows]
    wanted = np.zeros(int(inner.max()) + 1, dtype=np.int64)
    wanted[inner] = (totals - least)[group[rows]]
    wanted += _sums(open_floor, inner, len(wanted))
    claims = _Claims(weights[rows], open_floor.astype(float), open_cap.astype(float), inner, wanted)
    seats[rows] = claims.seats(lambda chosen: ties(rows[chosen]))
    return seats


@dataclass(frozen=True)
class _Claims:
    """Rows of groups whose total binds."""

    weights: Floats
    floor: Floats
    cap: Floats
    group: Ints
    totals: Ints

    def seats(self, ties: Ties) -> Ints:
        """The seats that are surely given, by bisection of the lowest claim that counts, and the rest one by one."""
        sure, possible = self.floor, self.cap
        low = np.full(len(self.totals), float((self.weights / (2 * self.cap - 1)).min()))
        high = np.full(len(self.totals), 2 * float(self.weights.max()))
        while (possible - sure).sum() > len(self.weights):
            middle = np.sqrt(low) * np.sqrt(high)
            seats = self._at_least(middle[self.group])
            enough = _sums(seats, self.group, len(self.totals)) >= self.totals
            low, high = np.where(enough, middle, low), np.where(enough, high, middle)
            of_row = enough[self.group]
            possible, sure = np.where(of_row, seats, possible), np.where(of_row, sure, seats)
        return self._settled(sure.astype(np.int64), possible.astype(np.int64), ties)

    def _at_least(self, claim: Floats) -> Floats:
        """How many seats of each row claim at least so much: consistent to the last bit with the claims themselves."""
        seats = np.floor((np.minimum(self.weights / claim, 2 * self.cap + 1) + 1) / 2)
        seats -= (seats > 0) & (self.weights / (2 * seats - 1) < claim)
        seats += self.weights / (2 * seats + 1) >= claim
        return np.clip(seats, self.floor, self.cap)

    def _settled(self, sure: Ints, possible: Ints, ties: Ties) -> Ints:
        """Give the seats between `sure` and `possible` in order of claim, then of `ties`."""
        gap = possible - sure
        rows = np.flatnonzero(gap)
        of_seat = np.repeat(np.arange(len(rows)), gap[rows])
        nth = np.arange(len(of_seat)) - np.repeat(np.cumsum(gap[rows]) - gap[rows], gap[rows]) + 1
        claim = self.weights[rows][of_seat] / (2 * (sure[rows][of_seat] + nth) - 1)
        group = self.group[rows][of_seat]
        free = self.totals - _sums(sure, self.group, len(self.totals))
        order = np.lexsort((-claim, group))
        first = np.searchsorted(group[order], np.arange(len(self.totals)))
        last = np.full(len(self.totals), np.inf)
        last[free > 0] = claim[order[(first + free - 1)[free > 0]]]
        tied = np.flatnonzero(claim == last[group])
        place = np.zeros(len(claim), dtype=np.uint64)
        place[tied] = ties(rows[of_seat[tied]])
        order = np.lexsort((place, -claim, group))
        given = order[np.arange(len(order)) - first[group[order]] < free[group[order]]]
        seats = sure.copy()
        seats[rows] += np.bincount(of_seat[given], minlength=len(rows))
        return seats
