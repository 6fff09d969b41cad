"""Answers at coarser ranks: taxa of the labels, how far off a wrong answer is, and the rank that can be told safely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gbif_platform.errors import PlatformError

if TYPE_CHECKING:
    from gbif_platform.evaluation.scores import Scores

RANKS = ("genus", "family", "order", "class", "phylum", "kingdom")
"""Of Darwin Core, from the finest."""
LABEL, NONE = "label", "none"


class HierarchyError(PlatformError):
    """The taxa of the labels do not fit the labels."""


@dataclass(frozen=True)
class Hierarchy:
    """The taxon of each of C labels at R ranks.

    A label without a taxon at a rank is there what it is at the next finer rank (at last itself), so that the
    probabilities of a rank always sum to one; such stand-ins have numbers from `taxa[rank]` on and no name.

    Attributes:
        ranks: R names, the finest first.
        taxon: int32 (R, C).
        names: of the named taxa of each rank; the place is the number.
    """

    ranks: tuple[str, ...]
    taxon: np.ndarray
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def from_names(cls, lineage: Mapping[str, Sequence[str | None]], classes: int) -> "Hierarchy":
        """From the taxon's name or key of each label at each rank; ranks where no label has one are left out.

        Args:
            lineage: rank → C names (None or "" where there is none), the finest rank first; see `in_order`.
            classes: C.

        Raises:
            HierarchyError: a rank with another number of names.
        """
        finer = np.arange(classes)
        ranks, taxa, names = [], [], []
        for rank, given in lineage.items():
            if len(given) != classes:
                raise HierarchyError(f"rank {rank} names {len(given)} labels of {classes}", "give one name a label")
            known = np.array([bool(name) for name in given], dtype=bool)
            if not known.any():
                continue
            unique = sorted({str(name) for name in given if name})
            number = {name: place for place, name in enumerate(unique)}
            code = np.array([number[str(name)] if name else -1 for name in given])
            # Stand-ins: one for each taxon of the finer rank.
            code[~known] = len(unique) + np.unique(finer[~known], return_inverse=True)[1]
            ranks.append(rank)
            taxa.append(code.astype(np.int32))
            names.append(tuple(unique))
            finer = code
        taxon = np.stack(taxa) if taxa else np.zeros((0, classes), np.int32)
        return cls(tuple(ranks), taxon, tuple(names))

    @classmethod
    def none(cls, classes: int) -> "Hierarchy":
        """No ranks."""
        return cls.from_names({}, classes)

    @property
    def sizes(self) -> np.ndarray:
        """int32 (R,), taxa and stand-ins of each rank."""
        return (self.taxon.max(axis=1) + 1).astype(np.int32) if len(self.ranks) else np.zeros(0, np.int32)

    def chain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same as a chain of ever fewer groups, so that sums at a coarse rank come from those of the finer one.

        Returns:
            parent int32 (R, C): from a group of the step before (step 0: the labels) to one of step r; size int32 (R,),
            groups of step r; taxon int32 (R, C): taxon at rank r of a group of step r. Groups of step r are the labels
            with equal taxa at rank r and all coarser ones, so every group has one parent, also where a name occurs
            under two families.
        """
        count, classes = self.taxon.shape
        parent, taxon = np.zeros((count, classes), np.int32), np.zeros((count, classes), np.int32)
        size = np.zeros(count, np.int32)
        members = np.arange(classes)  # a label of each group of the step before
        for step in range(count):
            _, first, group = np.unique(self.taxon[step:, members], axis=1, return_index=True, return_inverse=True)
            parent[step, : len(members)] = group.reshape(-1)
            members = members[first]
            size[step] = len(members)
            taxon[step, : len(members)] = self.taxon[step, members]
        return parent, size, taxon

    def severity(self, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Height of the lowest common ancestor: int64, 0 = the same label, 1 = only the first rank's taxon in common,
        …, R + 1 = none (Bertinetto et al. 2020)."""
        same = self.taxon[:, true] == self.taxon[:, predicted]
        height = np.where(same.any(axis=0), same.argmax(axis=0) + 1, len(self.ranks) + 1) if len(same) else 1
        return np.where(true == predicted, 0, height)


def in_order(lineage: Mapping[str, Sequence[str | None]]) -> dict[str, Sequence[str | None]]:
    """The Darwin Core ranks among the given ones, the finest first."""
    return {rank: lineage[rank] for rank in RANKS if rank in lineage}


def rolled_up(scores: "Scores", confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The answer at the lowest rank whose best taxon has at least this probability.

    Returns:
        depth: int64 (N,), 0 = the label, r = the r-th rank, R + 1 = no answer; right: bool (N,).
    """
    ranks = list(scores.ranks.values())
    sure = np.stack([scores.top_probability[:, 0] >= confidence, *(rank.probability >= confidence for rank in ranks)])
    right = np.stack([scores.right, *(rank.right for rank in ranks)])
    depth = np.where(sure.any(axis=0), sure.argmax(axis=0), len(sure))
    answered = depth < len(sure)
    return depth, answered & right[np.minimum(depth, len(sure) - 1), np.arange(len(depth))]


def rollup_table(scores: "Scores", confidence: float) -> pa.Table:
    """Where the answers end: rank (`label`, the ranks, `none`), rows, right (int64), share (float64, of all rows) and
    accuracy (float64, null without rows and for `none`)."""
    depth, right = rolled_up(scores, confidence)
    names = [LABEL, *scores.ranks, NONE]
    rows = np.bincount(depth, minlength=len(names))
    hits = np.bincount(depth[right], minlength=len(names))
    answered = (rows > 0) & (np.arange(len(names)) < len(names) - 1)
    return pa.table(
        {
            "rank": names,
            "rows": rows,
            "right": hits,
            "share": rows / max(len(depth), 1),
            "accuracy": pa.array(hits / np.maximum(rows, 1), pa.float64(), mask=~answered),
        }
    )
