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
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from filelock import FileLock, Timeout

from gbif_platform.errors import PlatformError, explained, first_line

LOCK_WAIT = timedelta(minutes=30)
LOCK_POLL_SECONDS = 0.05
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


def quoted(text: str) -> str:
    """A text as SQL."""
    # DuckDB's parser ends at a NUL, which a text may hold all the same.
    parts = ["'" + part.replace("'", "''") + "'" for part in text.split("\0")]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"


class Lake:
    """One DuckLake, seen from one process.

    Args:
        catalog: `sqlite:/path/catalog.sqlite` or `postgresql://user:password@host/database`.
        data: folder or `s3://bucket/prefix` that holds the Parquet files; S3 is reached by the `AWS_*` variables.
        read_only: attach without the right to write.

    Raises:
        LakeError: another kind of catalogue or of data.
    """

    def __init__(self, catalog: str, data: str, *, read_only: bool = False) -> None:
        if not catalog.startswith(("sqlite:", "postgresql://", "postgres://")):
            raise LakeError(
                f"catalog {catalog.partition(':')[0]!r} is not supported", "use postgresql://user@host/database"
            )
        if "://" in data and not data.startswith("s3://"):
            raise LakeError(f"data {data!r} is not supported", "use a folder or s3://bucket/prefix")
        self.catalog, self.read_only = catalog, read_only
        self.data = data if "://" in data else str(Path(data).absolute())
        self._root: duckdb.DuckDBPyConnection | None = None
        self._guard = threading.Lock()

    @property
    def folder(self) -> Path | None:
        """Where the data lie, if they lie on this machine."""
        return None if self.data.startswith("s3://") else Path(self.data)

    @property
    def _sqlite_file(self) -> Path | None:
        return Path(self.catalog.removeprefix("sqlite:")) if self.catalog.startswith("sqlite:") else None

    def _prepare(self) -> None:
        """Make folder and catalogue file; WAL lets readers go on while a writer commits."""
        if not self.data.startswith("s3://"):
            Path(self.data).mkdir(parents=True, exist_ok=True)
        if self._sqlite_file:
            with contextlib.closing(sqlite3.connect(self._sqlite_file)) as con:
                con.execute("PRAGMA journal_mode=WAL")

    def _open(self) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect()
        try:
            con.execute("SET TimeZone='UTC'")
            for name in ("ducklake", "sqlite_scanner" if self._sqlite_file else "postgres_scanner"):
                _load_extension(con, name)
            if self.data.startswith("s3://"):
                _load_extension(con, "httpfs")
                con.execute(_s3_secret())
            self._attach(con)
        except duckdb.Error as error:
            con.close()
            shown = _without_password(self.catalog)
            raise LakeError(
                f"cannot open the lake at {shown}: {first_line(str(error)).replace(self.catalog, shown)}",
                "run gbif-platform init, or check the catalog and data settings",
            ) from None  # DuckDB's message has the password in it
        except BaseException:
            con.close()
            raise
        return con

    def _attach(self, con: duckdb.DuckDBPyConnection) -> None:
        """Attach the lake; of several processes that find none, one makes it while the others wait."""
        source = f"ducklake:sqlite:{self._sqlite_file}" if self._sqlite_file else f"ducklake:postgres:{self.catalog}"
        options = f"DATA_PATH {quoted(self.data.rstrip('/') + '/')}, OVERRIDE_DATA_PATH true"
        attach = f"ATTACH {quoted(source)} AS lake ({options}"
        if self.read_only:
            con.execute(f"{attach}, READ_ONLY)")
            return
        with contextlib.suppress(duckdb.Error):
            con.execute(f"{attach}, CREATE_IF_NOT_EXISTS false)")
            return
        with self._commit_lock():
            self._prepare()
            con.execute(f"{attach})")

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

        Raises:
            LakeError: catalogue or data cannot be reached, or another process has been writing for `LOCK_WAIT`.
        """
        with self.reader() as con, self._commit_lock():  # opened first: that may need the lock itself
            con.execute("BEGIN")
            try:
                yield con
                con.execute("CALL lake.set_commit_message(?, ?)", [author, message])
                con.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(duckdb.Error):
                    con.execute("ROLLBACK")
                if isinstance(error, duckdb.IOException | duckdb.TransactionException):
                    raise self._lost(message, error) from None
                raise

    def _lost(self, message: str, error: duckdb.Error) -> PlatformError:
        """What is said of a transaction that catalogue or data did not take; DuckDB's text may hold the password."""
        text = first_line(str(error)).replace(self.catalog, _without_password(self.catalog))
        return explained(error) or LakeError(
            f"the lake did not take {message}: {text}", "check that its catalogue and data can be reached, run again"
        )

    @contextlib.contextmanager
    def _commit_lock(self) -> Iterator[None]:
        if self._sqlite_file is None:
            with _advisory_lock(self.catalog):
                yield
            return
        self._sqlite_file.parent.mkdir(parents=True, exist_ok=True)
        try:  # the kernel frees the lock when its process dies
            with FileLock(self._sqlite_file.with_name("commit.lock"), timeout=LOCK_WAIT.total_seconds()):
                yield
        except Timeout as error:
            raise _lake_is_busy() from error

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


@contextlib.contextmanager
def _advisory_lock(catalog: str) -> Iterator[None]:
    """Hold the lake's lock in PostgreSQL; a crash drops the session, and with it the lock."""
    import psycopg2

    try:
        con = psycopg2.connect(catalog)
    except psycopg2.Error as error:
        raise LakeError(
            f"cannot reach the lake at {_without_password(catalog)}: {first_line(str(error))}",
            "check the catalog setting, and that PostgreSQL is running",
        ) from error
    with contextlib.closing(con), con.cursor() as cursor:
        con.autocommit = True
        cursor.execute("SET tcp_keepalives_idle = 60")  # a machine that was cut off loses the lock too
        deadline = time.monotonic() + LOCK_WAIT.total_seconds()
        while not _try_lock(cursor):  # asked again and again: Ctrl-C does not end a wait in the server
            if time.monotonic() > deadline:
                raise _lake_is_busy()
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(cursor: Any) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(hashtext('gbif-platform lake'))")
    return bool(cursor.fetchone()[0])


def _lake_is_busy() -> LakeError:
    return LakeError(f"another process has been writing to the lake for {LOCK_WAIT}", "see gbif-platform status")


def _s3_secret() -> str:
    """DuckDB's S3 access from the usual AWS_* variables."""
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        raise LakeError(
            "the lake's data is in S3, but AWS_ACCESS_KEY_ID is not set",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL where it is not Amazon's S3",
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    fields = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "SESSION_TOKEN": os.environ.get("AWS_SESSION_TOKEN", ""),
        "REGION": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        "ENDPOINT": endpoint.split("://")[-1].rstrip("/"),
    }
    options = [f"{name} {quoted(value)}" for name, value in fields.items() if value]
    if endpoint:
        options += ["URL_STYLE 'path'", f"USE_SSL {json.dumps(endpoint.startswith('https'))}"]
    return f"CREATE OR REPLACE SECRET lake_s3 (TYPE s3, {', '.join(options)})"


def _without_password(catalog: str) -> str:
    """The catalogue's address as it may be shown."""
    if catalog.startswith("sqlite:"):
        return catalog
    from psycopg2 import ProgrammingError
    from psycopg2.extensions import parse_dsn

    try:
        parts = parse_dsn(catalog)
    except ProgrammingError:  # libpq cannot read it, so nobody knows where the password is
        return "postgresql://…"
    port = f":{parts['port']}" if "port" in parts else ""
    return f"postgresql://{parts.get('host', '')}{port}/{parts.get('dbname', '')}"
