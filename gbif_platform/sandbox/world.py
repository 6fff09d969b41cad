"""Everything that the sandbox's GBIF knows at a moment: the newest state of every published record."""

from collections.abc import Iterable

from gbif_platform.sandbox.predicates import Test
from gbif_platform.sandbox.records import Occurrence


class World:
    """The records that searches and requested downloads see."""

    def __init__(self) -> None:
        self._records: dict[int, Occurrence] = {}
        self._ordered: tuple[Occurrence, ...] = ()

    def add(self, occurrences: Iterable[Occurrence]) -> None:
        """Know these records from now on; of one gbifID the newest state."""
        self._replace(self._records | {occurrence.gbif_id: occurrence for occurrence in occurrences})

    def replace(self, occurrences: Iterable[Occurrence]) -> None:
        """Know these records alone, as after publishers have deleted the others."""
        self._replace({occurrence.gbif_id: occurrence for occurrence in occurrences})

    def get(self, gbif_id: int) -> Occurrence | None:
        """One record."""
        return self._records.get(gbif_id)

    def matching(self, test: Test) -> list[Occurrence]:
        """The records that satisfy a test in GBIF's default order: year descending, month, gbifID ascending."""
        return [occurrence for occurrence in self._ordered if test(occurrence)]

    def _replace(self, records: dict[int, Occurrence]) -> None:
        self._records, self._ordered = records, tuple(sorted(records.values(), key=_default_order))


def _default_order(occurrence: Occurrence) -> tuple[int, int, int]:
    return -int(occurrence.terms["year"]), int(occurrence.terms["month"]), occurrence.gbif_id
