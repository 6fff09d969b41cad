"""MLflow, best effort: a tracking store that is down costs a training a warning and a few seconds, never the training.

Every call has a deadline and runs in a thread of its own, since MLflow's client retries for minutes, over HTTP as well
as on a database it cannot open. What was not taken is sent again with the next epoch and once more at the end. The
history is on disk first (`history.jsonl`), so nothing is lost.
"""

import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"
RUN_KEY = "gbif_platform.run_key"
CONNECT_SECONDS = 120.0  # the first time: importing MLflow and making a database's tables, on a busy machine
CALL_SECONDS = 30.0
UPLOAD_SECONDS = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 600.0  # seconds between tries after a failure, doubling
BATCH = 900  # MLflow takes 1000 metrics a call
QUIET_LOGGERS = ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "urllib3.connectionpool")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}


@dataclass(frozen=True)
class TrackedDataset:
    """What a run was trained on, as MLflow's run input.

    Attributes:
        name: of the dataset.
        digest: of the split; MLflow keeps 36 characters.
        source: URL of the download, `https://doi.org/…` where there is a DOI.
        profile: numbers worth showing, as JSON text.
    """

    name: str
    digest: str
    source: str
    profile: str = "{}"


class MlflowTracker:
    """One run in MLflow, found again by its key: a resumed training goes on in the same run.

    Args:
        uri: tracking URI, such as `sqlite:////home/me/mlflow.db` or `http://mlflow:5000`.
        experiment: its name; made where it is missing.
        run_key: what makes the run this run, such as dataset/snapshot/model/split digest; stored as a tag.
        run_name: shown by MLflow.
        tags: dataset, snapshot, lake version, split digest, code version, Dagster run id, …
        artifacts: URI or folder under which a new experiment keeps its files; None = beside a SQLite file, or as a
            server decides (MLflow's own default is a folder where the process happens to run).
        dataset: the run's input.

    Attributes:
        run_id: MLflow's, once it is known.
        warnings: what MLflow did not take, one line each.

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
    ) -> None:
        self.uri = uri
        self.run_id: str | None = None
        self.warnings: list[str] = []
        self._experiment = experiment
        # MLflow's search language has no way to write a quote inside a string.
        self._run_key = run_key.replace("'", "_")
        self._tags = {**{name: str(value) for name, value in (tags or {}).items()}, RUN_KEY: self._run_key}
        self._run_name = run_name
        if artifacts is None and uri.startswith(SQLITE):
            artifacts = str(Path(uri.removeprefix(SQLITE)).parent / "artifacts")
        self._artifacts = artifacts
        self._dataset = dataset
        self._params: dict[str, str] = {}
        self._rows: dict[int, dict[str, float]] = {}
        self._sent = -1  # last epoch that MLflow has
        self._client: Any = None
        self._calls = _BoundedCalls()

    def begin(self, params: dict[str, Any]) -> None:
        """Make or find the run and set it RUNNING. Params are written once: MLflow never changes them."""
        self._params = {name: str(value) for name, value in params.items()}
        self._try("the start of the run", lambda: self._client.update_run(self.run_id, status="RUNNING"))

    def log_epoch(self, row: dict[str, float]) -> None:
        """One row of the history, at step `row["epoch"]`; a row that MLflow has is not sent again."""
        self._rows[int(row["epoch"])] = row
        if self._unsent():
            self._try("an epoch's metrics", self._send_rows)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Metrics of the finished model, such as `test_top1`."""
        self._try("metrics", lambda: self._send({step: metrics}), now=True)

    def log_folder(self, folder: Path, name: str) -> None:
        """A folder's files as artifacts under `name`."""
        self._try(name, lambda: self._client.log_artifacts(self.run_id, str(folder), name), now=True, upload=True)

    def log_bytes(self, data: bytes, name: str) -> None:
        """One artifact, such as a PNG; `name` may hold folders."""
        self._try(name, lambda: self._send_bytes(data, name), now=True, upload=True)

    def end(self, status: str) -> None:
        """Send what is left and close the run as FINISHED, FAILED or KILLED."""

        def finish() -> None:
            self._send_rows()
            self._client.set_terminated(self.run_id, status)

        self._try(f"the end of the run ({status})", finish, now=True)

    def _try(self, what: str, action: Callable[[], Any], *, now: bool = False, upload: bool = False) -> None:
        def connected() -> None:
            self._connect()
            action()

        if not now and self._calls.paused():
            return
        seconds = CONNECT_SECONDS if self._client is None else CALL_SECONDS
        trouble = self._calls.call(connected, UPLOAD_SECONDS if upload else seconds)
        if trouble is not None:
            self._client = None  # reconnecting asks MLflow what it has: a late success is not sent twice
            self.warnings.append(f"MLflow at {self.uri} did not take {what}: {trouble}")

    def _connect(self) -> None:
        if self._client is not None:
            return
        client = _client(self.uri)
        self.run_id = self._find_run(client) or self._create_run(client)
        present = client.get_run(self.run_id).data.params
        from mlflow.entities import Param

        missing = [Param(name, value[:6000]) for name, value in self._params.items() if name not in present]
        client.log_batch(self.run_id, params=missing)
        history = client.get_metric_history(self.run_id, "train_loss")
        self._sent = max((metric.step for metric in history), default=-1)
        self._client = client

    def _find_run(self, client: Any) -> str | None:
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return None
        wanted = f"tags.`{RUN_KEY}` = '{self._run_key}'"
        runs = client.search_runs([experiment.experiment_id], wanted, max_results=1)
        if not runs:
            return None
        for name, value in self._tags.items():
            client.set_tag(runs[0].info.run_id, name, value)
        return runs[0].info.run_id

    def _create_run(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(self._experiment, artifact_location=_as_uri(self._artifacts))
        )
        run_id: str = client.create_run(experiment_id, tags=self._tags, run_name=self._run_name).info.run_id
        if self._dataset is not None:
            client.log_inputs(run_id, datasets=[_dataset_input(self._dataset)])
        return run_id

    def _unsent(self) -> dict[int, dict[str, float]]:
        return {epoch: row for epoch, row in sorted(self._rows.items()) if epoch > self._sent}

    def _send_rows(self) -> None:
        rows = self._unsent()
        self._send(rows)
        self._sent = max(rows, default=self._sent)

    def _send(self, rows: dict[int, dict[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, step)
            for step, row in rows.items()
            for name, value in row.items()
            if name != "epoch" and math.isfinite(value)
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def _send_bytes(self, data: bytes, name: str) -> None:
        folder, _, file_name = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / file_name
            path.write_bytes(data)
            self._client.log_artifact(self.run_id, str(path), folder or None)


class _BoundedCalls:
    """Calls that may hang: each gets a deadline, and after a failure there is a pause before the next try."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._hanging: threading.Thread | None = None

    def paused(self) -> bool:
        """Whether the last call failed a moment ago."""
        return time.monotonic() < self._not_before

    def call(self, action: Callable[[], None], seconds: float) -> str | None:
        """Run `action`. Returns what went wrong, or None."""
        if self._hanging is not None and self._hanging.is_alive():
            return "an earlier call still hangs"
        trouble = self._run(action, seconds)
        if trouble is None:
            self._pause, self._not_before = FIRST_PAUSE, 0.0
        else:
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return trouble

    def _run(self, action: Callable[[], None], seconds: float) -> str | None:
        outcome: list[str | None] = []

        def run() -> None:
            try:
                action()
            except Exception as error:
                outcome.append(_root_cause(error))
            else:
                outcome.append(None)

        thread = threading.Thread(target=run, name="mlflow", daemon=True)
        thread.start()
        thread.join(seconds)
        if not outcome:
            self._hanging = thread
            return f"no answer in {seconds:.0f} s"
        return outcome[0]


def _root_cause(error: BaseException) -> str:
    """The innermost error on one line: MLflow wraps a refused connection four times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _client(uri: str) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if uri.startswith(SQLITE):
        _check_sqlite(Path(uri.removeprefix(SQLITE)))
    from mlflow import MlflowClient

    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _check_sqlite(path: Path) -> None:
    """Fail at once on a file that is no database or cannot be opened: MLflow would try for 100 seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=5)) as database:
        database.execute("PRAGMA schema_version")


def _as_uri(location: str | None) -> str | None:
    if location is None or "://" in location:
        return location
    return Path(location).absolute().as_uri()


def _dataset_input(dataset: TrackedDataset) -> Any:
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=dataset.name,
        digest=dataset.digest[:36],
        source_type="http",
        source=json.dumps({"url": dataset.source}),
        profile=dataset.profile,
    )
    return DatasetInput(entity, tags=[InputTag("mlflow.data.context", "training")])
