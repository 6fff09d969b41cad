"""The lake: DuckLake tables over Parquet, with a SQLite catalogue on one machine and PostgreSQL past it.

Readers are never refused; writers take turns through `Lake.transaction`, the one way to write. Why not a DuckDB
file: any open writer locks out the web UI, the notebook and the other steps.
"""

import contextlib
import importlib.util
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from filelock import FileLock, Timeout

from gbif_platform.errors import PlatformError

LOCK_WAIT = timedelta(minutes=30)
READ_STATEMENTS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.RELATION}


class LakeError(PlatformError):
    """The lake cannot be opened, or refuses a statement."""


def _load_extension(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension from its wheel by path: no home folder, no network."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or not spec.submodule_search_locations:
        raise LakeError(f"DuckDB extension {name} is not installed", "run make setup")
    folder = Path(spec.submodule_search_locations[0])
    con.execute(f"LOAD '{next(folder.rglob('*.duckdb_extension'))}'")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Lake:
    """One DuckLake, seen from one process.

    Args:
        catalog: `sqlite:/path/catalog.sqlite` or `postgresql://user:password@host/database`.
        data: folder or `s3://bucket/prefix` that holds the Parquet files.
        read_only: attach without the right to write.
    """

    def __init__(self, catalog: str, data: str, *, read_only: bool = False) -> None:
        self.catalog, self.data, self.read_only = catalog, data, read_only
        self._root: duckdb.DuckDBPyConnection | None = None
        self._guard = threading.Lock()

    @property
    def _sqlite_file(self) -> Path | None:
        return Path(self.catalog.removeprefix("sqlite:")) if self.catalog.startswith("sqlite:") else None

    def exists(self) -> bool:
        """False where the SQLite catalogue is not there yet; a PostgreSQL catalogue is created on attaching."""
        return self._sqlite_file is None or self._sqlite_file.exists()

    def _prepare(self) -> None:
        """Make folder and catalogue file; WAL lets readers go on while a writer commits."""
        if "://" not in self.data:
            Path(self.data).mkdir(parents=True, exist_ok=True)
        if (file := self._sqlite_file) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(file)) as con:
                con.execute("PRAGMA journal_mode=WAL")

    def _open(self) -> duckdb.DuckDBPyConnection:
        if not self.read_only:
            self._prepare()
        con = duckdb.connect()
        con.execute("SET TimeZone='UTC'")
        for name in ("ducklake", "sqlite_scanner" if self._sqlite_file else "postgres_scanner"):
            _load_extension(con, name)
        if self.data.startswith("s3://"):
            _load_extension(con, "httpfs")
            con.execute(_s3_secret())
        source = f"ducklake:sqlite:{self._sqlite_file}" if self._sqlite_file else f"ducklake:postgres:{self.catalog}"
        options = f"DATA_PATH {_quote(self.data.rstrip('/') + '/')}, OVERRIDE_DATA_PATH true"
        options += ", READ_ONLY" if self.read_only else ""
        try:
            con.execute(f"ATTACH {_quote(source)} AS lake ({options})")
        except duckdb.Error as error:
            con.close()
            raise LakeError(
                f"cannot open the lake at {_without_password(self.catalog)}: {str(error).splitlines()[0]}",
                "run gbif-platform init, or check the catalog and data settings",
            ) from error
        return con

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own, with the lake attached as `lake`; loading extensions takes 0.3 s, a cursor 1 ms."""
        with self._guard:
            if self._root is None:
                self._root = self._open()
            return self._root.cursor()

    @contextlib.contextmanager
    def reader(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to read with, closed afterwards."""
        with contextlib.closing(self.cursor()) as con:
            yield con

    @contextlib.contextmanager
    def transaction(self, author: str, message: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The one way to write: all of the block or nothing, one writer at a time.

        Args:
            author: the run id, or the command.
            message: the asset key, or what is done; both stay in the lake's history.
        """
        with self._commit_lock(), self.reader() as con:
            con.execute("BEGIN")
            try:
                yield con
                con.execute("CALL lake.set_commit_message(?, ?)", [author, message])
                con.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    con.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _commit_lock(self) -> Iterator[None]:
        if self._sqlite_file is None:  # a crash drops the session, and with it the lock
            import psycopg2

            with contextlib.closing(psycopg2.connect(self.catalog)) as con:
                con.autocommit = True
                con.cursor().execute("SELECT pg_advisory_lock(hashtext('gbif-platform lake'))")
                yield
            return
        self._sqlite_file.parent.mkdir(parents=True, exist_ok=True)
        try:  # the kernel frees the lock when its process dies
            with FileLock(self._sqlite_file.with_name("commit.lock"), timeout=LOCK_WAIT.total_seconds()):
                yield
        except Timeout as error:
            raise LakeError(
                f"another process has been writing to the lake for {LOCK_WAIT}", "see gbif-platform status"
            ) from error

    def frame(self, sql: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """The rows of a query over the lake, as a Polars frame; tables go by their plain names."""
        with self.reader() as con:
            con.execute("USE lake")
            return con.execute(sql, list(parameters)).pl()

    def query(self, sql: str) -> pl.DataFrame:
        """The rows of one read-only statement written by a person.

        Raises:
            LakeError: it is not one SELECT, or DuckDB refuses it; the message is DuckDB's.
        """
        try:
            statements = duckdb.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READ_STATEMENTS:
                raise LakeError("only one SELECT statement is run here", "write to the lake through gbif-platform run")
            return self.frame(sql)
        except duckdb.Error as error:
            raise LakeError(str(error), "the tables: gbif-platform sql 'SHOW TABLES'") from error

    def version(self) -> int:
        """Number of the lake's newest snapshot: `SELECT … FROM table AT (VERSION => n)` reads this state again."""
        with self.reader() as con:
            row = con.execute("SELECT id FROM lake.current_snapshot()").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Detach; the next cursor attaches again."""
        with self._guard:
            if self._root is not None:
                self._root.close()
                self._root = None


def _s3_secret() -> str:
    """DuckDB's S3 access from the usual AWS_* variables."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    fields = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "SESSION_TOKEN": os.environ.get("AWS_SESSION_TOKEN", ""),
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        "ENDPOINT": endpoint.split("://")[-1].rstrip("/"),
    }
    options = [f"{name} {_quote(value)}" for name, value in fields.items() if value]
    if endpoint:
        options += ["URL_STYLE 'path'", f"USE_SSL {json.dumps(endpoint.startswith('https'))}"]
    return f"CREATE OR REPLACE SECRET lake_s3 (TYPE s3, {', '.join(options)})"


def _without_password(catalog: str) -> str:
    """The catalogue's address as it may be shown."""
    scheme, separator, rest = catalog.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if separator else catalog
