"""What each step from all media to the sample lost."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation.candidates import Candidates, parquet

SCHEMA = {
    "position": pl.Int32,
    "filter": pl.String,
    "media_in": pl.Int64,
    "lost": pl.Int64,
    "alone": pl.Int64,
    "media_left": pl.Int64,
}
REPEATED = {
    "keep_if_labels_agree": ("label_conflict", "duplicate_url"),
    "keep_first": ("duplicate_url",),
    "drop_all": ("duplicate_url",),
    "keep_all": (),
}
"""Reasons for which a policy for repeated URLs leaves media out."""


class Funnel:
    """Counts media from step to step.

    Attributes:
        left: media that the steps so far have left.
    """

    def __init__(self, media: int) -> None:
        self.left = media
        self._steps: list[tuple[int, str, int, int, int | None, int]] = []

    def add(self, name: str, lost: int, alone: int | None = None) -> None:
        """Add a step.

        Args:
            lost: media that reach it and go no further.
            alone: media that it would rule out whatever the others do; None where that depends on the steps before.
        """
        self._steps.append((len(self._steps) + 1, name, self.left, lost, alone, self.left - lost))
        self.left -= lost

    def rows(self) -> pl.DataFrame:
        """Rows of table `sample_funnel`."""
        return pl.DataFrame(self._steps, schema=SCHEMA, orient="row")


def filter_funnel(
    con: duckdb.DuckDBPyConnection, candidates: Candidates, repeated: Sequence[Path], policy: str
) -> Funnel:
    """The conditions, each counted in its place and alone, and the repeated URLs.

    Args:
        repeated: the files of `repeated_urls`.
        policy: `filters.duplicates`.
    """
    funnel = Funnel(candidates.rows)
    failed = con.sql(f"SELECT failed, count(*) FROM {parquet(candidates.file)} GROUP BY failed").fetchall()
    for place, condition in enumerate(candidates.conditions):
        bit = 1 << place
        lost = sum(media for bits, media in failed if bits & -bits == bit)
        funnel.add(condition.filter, lost, sum(media for bits, media in failed if bits & bit))
    reasons = dict(
        con.sql(f"SELECT reason, count(*) FROM {parquet(repeated)} WHERE NOT kept GROUP BY reason").fetchall()
    )
    for reason in REPEATED[policy]:
        funnel.add(reason, reasons.get(reason, 0))
    return funnel
