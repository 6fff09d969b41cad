"""What every step shares: which snapshot of which dataset it works on, whether there is work, and what it reports."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform
from gbif_platform.settings import fingerprint
from gbif_platform.storage import tables
from gbif_platform.storage.lake import quoted
from gbif_platform.storage.tables import Outcome, Stage


class UpstreamMissing(PlatformError):
    """A step was asked for before the one it reads from."""


@dataclass(frozen=True)
class Check:
    """A statement about a step's rows that is either true or not; a failed one that is not `only_warn` is an error."""

    name: str
    passed: bool
    description: str
    only_warn: bool = False


@dataclass
class Report:
    """What a step says about the state it left: numbers that plot, tables and pictures to look at, checks."""

    numbers: dict[str, int | float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pl.DataFrame] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    version: str = ""
    written: bool = True


def unobserved(numbers: Mapping[str, float]) -> None:
    """Take no note of how a step goes on."""


@dataclass(frozen=True)
class Run:
    """One run over one snapshot of a dataset.

    Args:
        run_id: who writes, in the lake's history: Dagster's run id, or the name of a notebook.
        observe: called with numbers, by name, about twice a second while a step that takes hours goes on.
    """

    platform: Platform
    dataset: Dataset
    snapshot: str
    run_id: str = "notebook"
    observe: Callable[[Mapping[str, float]], None] = unobserved

    def stage(self, name: str) -> Stage:
        """The stage of this dataset and snapshot with that name."""
        return Stage(self.dataset.name, self.snapshot, name)

    def version_of(self, name: str) -> str:
        """Version of the rows of an earlier stage.

        Raises:
            UpstreamMissing: it has none yet.
        """
        version = tables.stage_version(self.platform.lake, self.stage(name))
        if version is None:
            raise UpstreamMissing(
                f"{name} of {self.dataset.name}, snapshot {self.snapshot}, is not materialised",
                f"gbif-platform run {self.dataset.name} --snapshot {self.snapshot} --select {name}",
            )
        return version

    def is_current(self, name: str, version: str) -> bool:
        """Whether the lake already holds a stage's rows in this version."""
        return tables.stage_version(self.platform.lake, self.stage(name)) == version

    def progress(self, name: str) -> Callable[[int, int | None, str], None]:
        """A place to report to: (done, total, note)."""

        def report(done: int, total: int | None = None, note: str = "") -> None:
            self.platform.progress(name, done, total, note)

        return report

    @contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to read the lake with and to compute on."""
        with self.platform.lake.reader() as con:
            yield con

    def rows(self, con: duckdb.DuckDBPyConnection, table: str, columns: str = "*") -> duckdb.DuckDBPyRelation:
        """This snapshot's rows of a table, lazily."""
        where = " AND ".join(
            f"{key} = {quoted(value)}" for key, value in (("dataset", self.dataset.name), ("snapshot", self.snapshot))
        )
        return con.sql(f"SELECT {columns} FROM lake.{table} WHERE {where}")

    def pictures(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        """The sampled media with label, credit and what the image ledger knows of them (null: not asked for yet)."""
        samples = self.rows(con, "balanced_samples", "media_id, url_id, label")  # noqa: F841  read by name
        media = self.rows(con, "media_urls", "media_id, gbif_id, url, license, creator, rights_holder")  # noqa: F841
        ledger = con.sql(f"SELECT * EXCLUDE (url) FROM lake.images WHERE transform = '{self.dataset.images.key}'")  # noqa: F841
        return con.sql("FROM samples JOIN media USING (media_id) LEFT JOIN ledger USING (url_id)")

    def compute(
        self,
        name: str,
        version: str,
        make: Callable[[duckdb.DuckDBPyConnection, Path], Outcome],
        keys: Mapping[str, str] | None = None,
    ) -> bool:
        """Make and write a stage's rows, unless the lake holds them in this version.

        Args:
            make: called with a connection and a scratch folder.
            keys: further key columns of the rows, e.g. `{"model": …}`.

        Returns:
            Whether anything was written.
        """
        if self.is_current(name, version):
            return False
        start = time.monotonic()
        work = self.platform.work_folder("staging", fingerprint(self.dataset.name, self.snapshot, name))
        try:
            with self.reader() as con:
                outcome = make(con, work)
            outcome.seconds += time.monotonic() - start
            tables.write_stage(self.platform.lake, self.stage(name), version, outcome, run_id=self.run_id, keys=keys)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return True

    def account(self, name: str, upstream_rows: int | None = None) -> Report:
        """The start of a stage's report: its account, what was refused and why, and the proof that nothing was lost.

        Args:
            upstream_rows: rows that the stage before left, where the lake holds them.
        """
        key = [self.dataset.name, self.snapshot, name]
        lake = self.platform.lake
        where = "WHERE dataset = ? AND snapshot = ? AND stage = ?"
        account = lake.frame(f"SELECT * FROM stages {where}", key).row(0, named=True)
        refused = lake.frame(
            f"SELECT reason, count(*) AS rows, any_value(detail) AS example FROM quarantine {where} "
            "GROUP BY reason ORDER BY rows DESC, reason",
            key,
        )
        out, left, kept_back = account["rows_out"], account["rows_left"], int(refused["rows"].sum())
        whole = account["rows_in"] == out + left + kept_back and upstream_rows in (None, account["rows_in"])
        says = f"{account['rows_in']:,} rows in = {out:,} out + {kept_back:,} quarantined"
        says += f" + {left:,} not asked for" if left else ""
        says += f"; the stage before left {upstream_rows:,}" if upstream_rows is not None else ""
        return Report(
            numbers={"rows": out, "rows_in": account["rows_in"], "rows_quarantined": kept_back, "rows_left": left},
            tables={"quarantined": refused} if len(refused) else {},
            checks=[Check("rows_reconcile", whole, says)],
            version=account["version"],
        )

    def frame(self, sql: str) -> pl.DataFrame:
        """Rows of the lake; `{key}` in the SQL stands for this dataset and snapshot."""
        return self.platform.lake.frame(
            sql.replace("{key}", "dataset = $1 AND snapshot = $2"), [self.dataset.name, self.snapshot]
        )

    def count(self, table: str) -> int:
        """Rows of this snapshot in a table."""
        return int(self.frame(f"SELECT count(*) AS n FROM {table} WHERE {{key}}")["n"][0])

    def columns(self, table: str) -> dict[str, str]:
        """Names and types of a table's columns that hold anything for this snapshot."""
        with self.reader() as con:
            relation = self.rows(con, table)
            counts = ", ".join(f'count("{name}")' for name in relation.columns)
            filled = con.sql(f"SELECT {counts} FROM relation").fetchone() or ()
            described = zip(relation.columns, relation.types, filled, strict=True)
            return {name: str(kind) for name, kind, count in described if count}
