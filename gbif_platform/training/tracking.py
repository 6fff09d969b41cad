"""MLflow, best effort: a tracking store that is down costs a training a warning and a few seconds, never the training.

Everything is on disk first, in the run's journal (`training.journal`); a thread sends it on (`training.forwarding`).
What was not taken is sent again during the run and at its end, and after that by `gbif-platform doctor`.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbif_platform.training.forwarding import RUN_KEY, Forwarder
from gbif_platform.training.journal import Journal
from gbif_platform.training.mlflow_access import SQLITE, Background, shown
from gbif_platform.training.system_metrics import PREFIX, SystemMetrics

HOST, PID, STARTED = "gbif_platform.host", "gbif_platform.pid", "gbif_platform.process_started"
BEGIN_SECONDS = 20.0  # the first time: importing MLflow and making a database's tables; then it goes on in its thread
CALL_SECONDS = 120.0
UPLOAD_SECONDS = 300.0
STEP_PREFIX = "step/"


@dataclass(frozen=True)
class TrackedDataset:
    """What a run was trained on, as MLflow's run input and as tags of the run.

    Attributes:
        name: of the dataset.
        digest: of the split; MLflow keeps 36 characters of it in the input, all in the tag `split_digest`.
        source: URL of the download, `https://doi.org/…` where there is a DOI.
        doi: of the download.
        derived_doi: of the derived dataset that the training pictures make up.
        lake_version: the lake's state that was read.
    """

    name: str
    digest: str
    source: str
    doi: str | None = None
    derived_doi: str | None = None
    lake_version: int | None = None

    def tags(self) -> dict[str, str]:
        """What is known of the origin."""
        known = {
            "split_digest": self.digest,
            "doi": self.doi,
            "derived_doi": self.derived_doi,
            "lake_version": self.lake_version,
        }
        return {name: str(value) for name, value in known.items() if value not in (None, "")}


class MlflowTracker:
    """One run in MLflow, found again by its key: a resumed training goes on in the same run.

    Args:
        uri: tracking URI, such as `sqlite:////home/me/mlflow.db` or `http://mlflow:5000`.
        experiment: its name; made where it is missing.
        run_key: what makes the run this run, such as dataset/snapshot/model/split digest; stored as a tag.
        run_name: shown by MLflow.
        tags: dataset, snapshot, code version, Dagster run id, …
        artifacts: URI or folder under which a new experiment keeps its files; None = beside a SQLite file, or as a
            server decides (MLflow's own default is a folder where the process happens to run).
        dataset: the run's input.
        journal: folder of the run's journal, under the platform's `work/training` so that `doctor` finds it; gone when
            MLflow has everything of a finished run. None = a temporary one.

    Attributes:
        warnings: why MLflow has not taken everything yet; empty where it has.

    No method raises for a trouble of MLflow's.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_key: str,
        *,
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
        artifacts: str | None = None,
        dataset: TrackedDataset | None = None,
        journal: Path | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self._uri, self._kept = uri, journal is not None
        if journal is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="gbif-platform-journal-", ignore_cleanup_errors=True)
            journal = Path(self._temporary.name) / "journal"
        if artifacts is None and uri.startswith(SQLITE):
            artifacts = str(Path(uri.removeprefix(SQLITE)).parent / "artifacts")
        # MLflow's search language has no way to write a quote inside a string.
        own_tags = {**_process_tags(), RUN_KEY: run_key.replace("'", "_")}
        origin = dataset.tags() if dataset else {}
        run = {
            "experiment": experiment,
            "name": run_name,
            "time": int(time.time() * 1000),
            "tags": {**origin, **{name: str(value) for name, value in (tags or {}).items()}, **own_tags},
            "artifacts": _as_uri(artifacts),
            "dataset": {"name": dataset.name, "digest": dataset.digest, "source": dataset.source, "tags": origin}
            if dataset
            else None,
        }
        self._journal = Journal(journal, run)
        self._forwarder = Forwarder(self._journal, uri, alive=True)
        self._background = Background(self._forwarder.send)
        self._system: SystemMetrics | None = None
        self._disk_trouble: str | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's, once it is known."""
        return self._forwarder.run_id

    def begin(self, params: dict[str, Any]) -> None:
        """Make or find the run and set it RUNNING. Params are written once: MLflow never changes them."""
        named = {name: str(value) for name, value in params.items()}
        self._write(lambda: self._journal.write("begin", params=named))
        self._send_now(BEGIN_SECONDS)
        self._system = SystemMetrics(self._log_system)
        self._system.start()

    def log_epoch(self, row: dict[str, float]) -> None:
        """One row of the history, at step `row["epoch"]`; what was logged of that epoch before stays."""
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        self._log(metrics, int(row["epoch"]))

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Curves within the epochs, as `step/<name>` at optimiser step `step`; returns at once."""
        self._log({STEP_PREFIX + name: value for name, value in metrics.items()}, step)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Metrics of the finished model, such as `test_top1`; another value replaces the one before."""
        self._write(lambda: self._journal.write_metrics(metrics, step, revised=True))
        self._send_soon(CALL_SECONDS)

    def log_folder(self, folder: Path, name: str) -> None:
        """A folder's files as artifacts under `name`."""
        self._write(lambda: self._journal.write_folder(folder, name))
        self._send_soon(UPLOAD_SECONDS)

    def log_bytes(self, data: bytes, name: str) -> None:
        """One artifact, such as a PNG; `name` may hold folders."""
        self._write(lambda: self._journal.write_bytes(data, name))
        self._send_soon(UPLOAD_SECONDS)

    def log_table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        """A table that MLflow's UI shows as one, such as sample predictions; JSON values, `name` ends in .json."""
        self._write(lambda: self._journal.write_table(columns, rows, name))
        self._send_soon(UPLOAD_SECONDS)

    def end(self, status: str) -> None:
        """Send what is left and close the run as FINISHED, FAILED or KILLED."""
        if self._system is not None:
            self._system.stop()
            self._system = None
        self._write(lambda: self._journal.write("end", status=status))
        self._send_now(CALL_SECONDS)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self._write(lambda: self._journal.write_metrics(metrics, step))
        self._background.start()
        self._tell()

    def _log_system(self, metrics: dict[str, float]) -> None:
        self._log(metrics, self._journal.next_step(PREFIX))

    def _send_soon(self, seconds: float) -> None:
        """Send now, unless MLflow failed a moment ago: then with what comes next."""
        if not self._background.paused:
            self._send_now(seconds)

    def _send_now(self, seconds: float) -> None:
        self._background.finish(seconds)
        self._tell()
        if self._background.trouble is None and self._journal.finished and self._journal.whole:
            self._journal.remove()

    def _tell(self) -> None:
        told = [self._disk_trouble] if self._disk_trouble else []
        if trouble := self._background.trouble:
            kept = f"; it waits in {self._journal.folder}, gbif-platform doctor sends it" if self._kept else ""
            told.append(f"MLflow at {shown(self._uri)} has not taken everything: {trouble}{kept}")
        self.warnings[:] = told  # the list that others hold

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:  # a full disk stops a training by its own checkpoint, in words
            self._disk_trouble = f"{self._journal.folder} cannot be written: {error}"


def _process_tags() -> dict[str, str]:
    """What names this process for ever: host, pid and start (seconds since 1970)."""
    import psutil

    process = psutil.Process(os.getpid())
    return {HOST: socket.gethostname(), PID: str(process.pid), STARTED: f"{process.create_time():.0f}"}


def _as_uri(location: str | None) -> str | None:
    if location is None or "://" in location:
        return location
    return Path(location).absolute().as_uri()
