"""Step `snapshot_changes`: what differs from the snapshot before; and the same between any two."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import changes, taxonomy
from gbif_platform.curation.filters import licence_counted
from gbif_platform.dataset import Dataset
from gbif_platform.gbif.terms import snake_case
from gbif_platform.part import stated
from gbif_platform.platform import Platform
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.sources.snapshots import UnknownSnapshot
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome

NAME = "snapshot_changes"
TOP = 50  # lines of the report's table


def snapshot_changes(run: Run) -> Report:
    """Compare the snapshot with the one added before it that has media rows; of a first snapshot nothing is written.

    Rows `removed` and `licence_revoked` are the tombstones: the media leave the newer snapshot's samples, while the
    shards keep their pixels until compaction.

    Raises:
        UpstreamMissing: the snapshot has no media rows.
        UnknownLabel: its occurrences do not have the label.
    """
    own = run.version_of("media_urls")
    previous = previous_snapshot(run)
    if previous is None:
        return Report(
            numbers={"rows": 0},
            texts={"previous": "none: first snapshot"},
            checks=[Check("rows_reconcile", True, "the first snapshot: there is none to compare it with")],
            version=fingerprint(NAME, changes.VERSION, own),
            written=False,
        )
    written = _compare(run, previous)
    report = run.account(_stage(previous))
    report.written = written
    _describe(run, previous, report)
    return report


def diff(
    platform: Platform, dataset: Dataset, old: str, new: str, *, examples: int = 3, run_id: str = "snapshot diff"
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare any two snapshots of a dataset; the rows are in `snapshot_changes` (snapshot = new, previous = old) then.

    Args:
        old, new: snapshot keys, in any order of time.
        examples: rows shown of each change; there may be millions.

    Returns:
        `change`, `media` for each kind of change and `unchanged`; and `examples` rows of each change, as in the lake.

    Raises:
        UnknownSnapshot: the dataset has none of that name.
        UpstreamMissing: one of them has no media rows yet.
        UnknownLabel: the occurrences of `new` do not have the label.
    """
    known = tables.snapshots(platform.lake, dataset.name)["snapshot"].to_list()
    for key in (old, new):
        if key not in known:
            raise UnknownSnapshot(
                f"dataset {dataset.name} has no snapshot {key!r}; it has: {', '.join(known) or 'none yet'}",
                f"gbif-platform snapshot list {dataset.name}",
            )
    run = Run(platform, dataset, new, run_id)
    _compare(run, old)
    counts = _counts(run, old)
    chosen = platform.lake.frame(
        "SELECT * EXCLUDE (dataset, snapshot, previous) FROM snapshot_changes "
        "WHERE dataset = ? AND snapshot = ? AND previous = ? "
        "QUALIFY row_number() OVER (PARTITION BY change ORDER BY media_id) <= ? ORDER BY change, media_id",
        [dataset.name, new, old, examples],
    )
    return pl.DataFrame({"change": list(counts), "media": list(counts.values())}), chosen


def previous_snapshot(run: Run) -> str | None:
    """The snapshot added last before this one that has media rows."""
    before = run.platform.lake.frame(
        "SELECT snapshot FROM snapshots JOIN stages USING (dataset, snapshot) "
        "WHERE dataset = $1 AND stage = 'media_urls' AND (added_at, snapshot) < "
        "(SELECT (added_at, snapshot) FROM snapshots WHERE dataset = $1 AND snapshot = $2) "
        "ORDER BY added_at DESC, snapshot DESC LIMIT 1",
        [run.dataset.name, run.snapshot],
    )
    return before["snapshot"][0] if len(before) else None


def _stage(previous: str) -> str:
    """The stage's name in the lake: one account for each pair of snapshots."""
    return f"{NAME}/{previous}"


def _compare(run: Run, previous: str) -> bool:
    """Write the changes of a pair of snapshots, unless they are there; returns whether anything was written."""
    spec = run.dataset
    before = Run(run.platform, spec, previous, run.run_id)
    version = fingerprint(
        NAME,
        changes.VERSION,
        before.version_of("media_urls"),
        run.version_of("media_urls"),
        taxonomy.VERSION,
        snake_case(spec.label),
        stated(spec.taxonomy),
        (spec.filters.licences, spec.filters.licence_fallback),
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        found = changes.compare_snapshots(
            con, _media(before, con), _media(run, con), work, licences=spec.filters.licences
        )
        # counted on either side: the account holds only where both agree on how many media they share
        return Outcome(
            {NAME: found.rows},
            rows_in=found.old + found.added,
            rows_out=found.added + found.removed + found.changed,
            rows_left=found.unchanged,
        )

    return run.compute(_stage(previous), version, make, keys={"previous": previous})


def _media(run: Run, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """A snapshot's media as `compare_snapshots` takes them; label and licence are those that the samples go by."""
    licence = licence_counted(run.dataset.filters)
    media = run.rows(con, "media_urls", f"media_id, url_id, url, gbif_id, {licence} AS license")  # noqa: F841  read by name
    rows = run.rows(con, "occurrences")
    label = taxonomy.labelling(con, rows, run.dataset.label, run.dataset.taxonomy).sql
    occurrences = con.sql(f"SELECT gbif_id, dataset_key, {label} AS label FROM rows o")  # noqa: F841
    return con.sql("SELECT media.*, dataset_key, label FROM media LEFT JOIN occurrences USING (gbif_id)")


def _counts(run: Run, previous: str) -> dict[str, int]:
    """Media of each change, and those unchanged."""
    lake, key = run.platform.lake, [run.dataset.name, run.snapshot]
    found = lake.frame(
        "SELECT change, count(*) FROM snapshot_changes WHERE dataset = ? AND snapshot = ? AND previous = ? GROUP BY 1",
        [*key, previous],
    )
    counts = dict(found.iter_rows())
    account = lake.frame(
        "SELECT rows_left FROM stages WHERE dataset = ? AND snapshot = ? AND stage = ?", [*key, _stage(previous)]
    )
    return {change: counts.get(change, 0) for change in changes.CHANGES} | {"unchanged": account["rows_left"][0]}


def _describe(run: Run, previous: str, report: Report) -> None:
    counts = _counts(run, previous)
    says = "media of the snapshot before + added = added + removed + changed + unchanged"
    report.checks = [Check("rows_reconcile", report.checks[0].passed, f"{report.numbers['rows_in']:,} {says}")]
    report.numbers = {"rows": sum(counts[change] for change in changes.CHANGES), **counts}
    report.texts["previous"] = previous
    report.columns = run.columns(NAME)
    report.tables["changes_by_label"] = run.platform.lake.frame(
        "SELECT change, coalesce(label, previous_label, '(no label)') AS label, count(*) AS media "
        "FROM snapshot_changes WHERE dataset = ? AND snapshot = ? AND previous = ? "
        f"GROUP BY ALL ORDER BY media DESC, change, 2 LIMIT {TOP}",
        [run.dataset.name, run.snapshot, previous],
    )
    report.pictures["changes"] = bars(list(changes.CHANGES), {"media": [counts[change] for change in changes.CHANGES]})
