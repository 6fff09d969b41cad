"""Fixtures that start real servers on this machine: a PostgreSQL cluster, and an S3-speaking server (moto).

A test module takes them with `pytest_plugins = "gbif_platform_tests.services"`.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import psycopg2
import pytest
from moto.server import ThreadedMotoServer

POSTGRES_NEEDED = (
    "needs PostgreSQL's programs (initdb, postgres) on PATH or in /usr/lib/postgresql/*/bin: apt-get install postgresql"
)
PASSWORD = "p@ss/wörd' 100%"  # must come through URLs and SQL unharmed, and must not be shown
START_SECONDS = 60

# The shell reads what nobody writes: the end of the tests closes the pipe, however they ended (kill -9 too).
SERVE = """
"$1/postgres" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c shared_buffers=16MB </dev/null &
cat >/dev/null
kill -QUIT $!
wait $!
rm -rf "$2"
"""


def _postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    candidates = ([Path(found)] if found else []) + debian[::-1]
    return next((path.parent for path in candidates if path.with_name("postgres").exists()), None)


def _server_user() -> str | None:
    """Whom PostgreSQL runs as: it refuses root. None = the user of the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def postgres_url(port: int, database: str) -> str:
    """URL of a database of the test cluster."""
    return f"postgresql://tester:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}"


@contextmanager
def postgres_cluster(programs: Path) -> Iterator[int]:
    """A PostgreSQL cluster of its own; yields its port. It ends with this process, even when that is killed."""
    user = _server_user()
    with tempfile.TemporaryDirectory(prefix="gbif-platform-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "password").write_text(PASSWORD, encoding="utf-8")
        if user:
            shutil.chown(folder, user)
        command = [
            *(str(programs / "initdb"), "-D", str(folder / "data"), "--username=tester", "--auth=scram-sha-256"),
            *(f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync"),
        ]
        made = subprocess.run(command, cwd=folder, user=user, capture_output=True, text=True)
        assert made.returncode == 0, f"initdb failed: {made.stderr}"
        port = _free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                ["/bin/sh", "-c", SERVE, "sh", str(programs), name, str(port)],
                cwd=folder,
                user=user,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests; they end the server
            )
        try:
            _await_postgres(port, server, folder / "log")
            yield port
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()


def _await_postgres(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg2.connect(postgres_url(port, "postgres")).close()
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"PostgreSQL does not answer: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    """Port of a running PostgreSQL; skips where its programs are not installed."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip(POSTGRES_NEEDED)
    with postgres_cluster(programs) as port:
        yield port


@pytest.fixture
def postgres(postgres_port: int) -> str:
    """URL of a fresh, empty database."""
    database = f"lake_{uuid.uuid4().hex[:12]}"
    with closing(psycopg2.connect(postgres_url(postgres_port, "postgres"))) as con:
        con.autocommit = True
        con.cursor().execute(f"CREATE DATABASE {database}")
    return postgres_url(postgres_port, database)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of a running S3 server, a thread of this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a fresh, empty bucket; the AWS_* variables that reach it are set during the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret/with+signs",
        "AWS_REGION": "eu-north-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})
    return f"s3://{bucket}"
