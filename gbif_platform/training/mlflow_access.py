"""How MLflow is called: quietly, with short time-outs, in threads that may hang without harm."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

SQLITE = "sqlite:///"
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 600.0  # seconds between tries after a failure, doubling
QUIET_LOGGERS = ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "urllib3.connectionpool")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
Answer = TypeVar("Answer")


def connect(uri: str) -> Any:
    """An `MlflowClient`; raises what SQLite or MLflow raises."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if uri.startswith(SQLITE):
        _check_sqlite(Path(uri.removeprefix(SQLITE)))
    from mlflow import MlflowClient

    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def ask(action: Callable[[], Answer], seconds: float) -> tuple[Answer | None, str | None]:
    """Run an action that may hang or fail. Returns (its answer, None) or (None, what went wrong)."""
    outcome: list[tuple[Answer | None, str | None]] = []

    def run() -> None:
        try:
            outcome.append((action(), None))
        except Exception as error:
            outcome.append((None, root_cause(error)))

    thread = threading.Thread(target=run, name="mlflow", daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else (None, no_answer(seconds))


class Background:
    """One action that may hang, run again and again in a thread, never twice at once.

    Attributes:
        trouble: what went wrong the last time; None where it went well.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self.trouble: str | None = None
        self._action = action
        self._guard = threading.Lock()
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._thread: threading.Thread | None = None

    @property
    def paused(self) -> bool:
        """Whether the last run failed a moment ago."""
        return time.monotonic() < self._not_before

    def start(self) -> None:
        """Run, unless it runs already or failed a moment ago. Returns at once."""
        if not self.paused:
            self._start()

    def finish(self, seconds: float) -> None:
        """Run, after what runs already, and wait for it; `trouble` tells how it went."""
        deadline = time.monotonic() + seconds
        if not self._running(seconds):
            self._start()
            self._running(deadline - time.monotonic())
        if self._running():
            self.trouble = no_answer(seconds)
            self._wait_a_while()

    def _running(self, wait: float = 0.0) -> bool:
        if self._thread is not None:
            self._thread.join(max(wait, 0.0))
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        with self._guard:
            if not self._running():
                self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            self._action()
        except Exception as error:
            self.trouble = root_cause(error)
            self._wait_a_while()
        else:
            self.trouble, self._pause, self._not_before = None, FIRST_PAUSE, 0.0

    def _wait_a_while(self) -> None:
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def no_answer(seconds: float) -> str:
    """What is said of a call that hangs."""
    return f"no answer in {seconds:.0f} s"


def shown(uri: str) -> str:
    """A tracking URI without the password that a database's may hold."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":…@") if password else uri


def root_cause(error: BaseException) -> str:
    """The innermost error on one line: MLflow wraps a refused connection four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _check_sqlite(path: Path) -> None:
    """Fail at once on a file that is no database or cannot be opened: MLflow would try for 100 seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute("PRAGMA schema_version")
