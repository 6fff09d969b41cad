"""Floors: whole groups move between subsets until a subset has enough pictures of every label."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contents:
    """How many pictures of which label are in which group; groups are numbered in the order of their hashes.

    Args:
        group, label, pictures: one entry for each label of each group, sorted by group and label; int64.
        groups, labels: how many there are.
    """

    group: Ints
    label: Ints
    pictures: Ints
    groups: int
    labels: int

    def in_subsets(self, subset: Ints, subsets: int) -> tuple[Ints, Ints]:
        """Pictures, and groups, of each label in each subset: arrays of shape (labels, subsets)."""
        shape = (self.labels, subsets)
        pictures, groups = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        where = (self.label, subset[self.group])
        np.add.at(pictures, where, self.pictures)
        np.add.at(groups, where, 1)
        return pictures, groups


@dataclass(frozen=True)
class Filled:
    """The subset of each group once the floors are filled, and the labels that went to train as they are too small."""

    subset: Ints
    train_only: frozenset[int]


def fill_floors(
    contents: Contents, subset: Ints, free: npt.NDArray[np.bool_], wanted: Mapping[int, int], train: int, subsets: int
) -> Filled:
    """Move free groups until every label has its floors, and a group in train.

    A label goes to train only, where its free groups cannot fill all floors and leave a group in train. Of the others,
    those in fewest groups first, free groups move in hash order: first those in train, then those that another subset
    can spare. Train keeps a group of every label, and no floor that is filled is broken. Floors may stay unfilled where
    groups are large, or hold several labels.

    Args:
        subset: number of the subset of each group.
        free: whether a group may move at all: it is new, and neither held out nor rare.
        wanted: floor by number of subset.
        train, subsets: the number of train, and how many subsets there are.
    """
    floors = _Floors(contents, subset.copy(), free.copy(), dict(wanted), train, subsets)
    train_only = [label for label in floors.short() if floors.is_too_small(label)]
    for label in train_only:
        floors.send_to_train(label)
    for label in floors.short():
        for target in (train, *wanted):
            floors.fill(label, target)
    return Filled(floors.subset, frozenset(train_only))


class _Floors:
    """The state of the work: where the groups are, and what each subset has of each label."""

    def __init__(
        self,
        contents: Contents,
        subset: Ints,
        free: npt.NDArray[np.bool_],
        wanted: dict[int, int],
        train: int,
        subsets: int,
    ) -> None:
        self.subset, self.free, self.wanted, self.train = subset, free, wanted, train
        self.pictures, self.groups = contents.in_subsets(subset, subsets)
        self._contents = contents
        self._of_group = np.searchsorted(contents.group, np.arange(contents.groups + 1))
        self._by_label = np.argsort(contents.label, kind="stable")
        self._of_label = np.searchsorted(contents.label[self._by_label], np.arange(contents.labels + 1))

    def short(self) -> list[int]:
        """Labels that lack a floor, or train; those in the fewest groups first."""
        lacking = self.groups[:, self.train] == 0
        for subset, floor in self.wanted.items():
            lacking |= self.pictures[:, subset] < floor
        labels = np.flatnonzero(lacking)
        return [int(label) for label in labels[np.argsort(self.groups[labels].sum(axis=1), kind="stable")]]

    def is_too_small(self, label: int) -> bool:
        """Whether the label's free groups are too few, or too small, to fill what is lacking without them."""
        entries = self._entries(label)
        groups, pictures = self._contents.group[entries], self._contents.pictures[entries]
        free = self.free[groups]
        if not free.any():
            return False
        fixed = self.subset[groups[~free]]
        needs = [max(0, floor - int(pictures[~free][fixed == subset].sum())) for subset, floor in self.wanted.items()]
        for_train = 0 if (fixed == self.train).any() else 1
        spare = int(pictures[free].sum()) - for_train * int(pictures[free].min())
        return int(free.sum()) < sum(need > 0 for need in needs) + for_train or spare < sum(needs)

    def send_to_train(self, label: int) -> None:
        """Move the label's free groups to train, for good."""
        groups = self._contents.group[self._entries(label)]
        for group in groups[self.free[groups]]:
            self._move(group, self.train)
            self.free[group] = False

    def fill(self, label: int, target: int) -> None:
        """Move groups of the label to a subset while it is short of it, and there are any to spare."""
        groups = self._contents.group[self._entries(label)]
        groups = groups[self.free[groups]]
        from_train_first = np.argsort(self.subset[groups] != self.train, kind="stable")
        for group in groups[from_train_first]:
            if not self._is_short(label, target):
                return
            if self.subset[group] != target and self._can_be_spared(group):
                self._move(group, target)

    def _is_short(self, label: int, subset: int) -> bool:
        if subset == self.train:
            return bool(self.groups[label, subset] == 0)
        return bool(self.pictures[label, subset] < self.wanted[subset])

    def _can_be_spared(self, group: int) -> bool:
        """Whether its subset needs the group for none of its labels."""
        subset = self.subset[group]
        labels, pictures = self._content(group)
        if subset == self.train:
            return bool((self.groups[labels, subset] > 1).all())
        return bool((self.pictures[labels, subset] - pictures >= self.wanted.get(int(subset), 0)).all())

    def _move(self, group: int, target: int) -> None:
        labels, pictures = self._content(group)
        for subset, sign in ((self.subset[group], -1), (target, 1)):
            self.pictures[labels, subset] += sign * pictures
            self.groups[labels, subset] += sign
        self.subset[group] = target

    def _entries(self, label: int) -> Ints:
        """Where the label's groups are, in hash order."""
        return self._by_label[self._of_label[label] : self._of_label[label + 1]]

    def _content(self, group: int) -> tuple[Ints, Ints]:
        """Labels of a group, and its pictures of each."""
        inside = slice(self._of_group[group], self._of_group[group + 1])
        return self._contents.label[inside], self._contents.pictures[inside]
