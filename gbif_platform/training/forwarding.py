"""From a run's journal to MLflow: what MLflow lacks is sent, nothing twice, whoever sends and however often."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gbif_platform.training.journal import Event, Journal
from gbif_platform.training.mlflow_access import ask, connect, shown

RUN_KEY = "gbif_platform.run_key"
HEARTBEAT = "gbif_platform.heartbeat"
HEARTBEAT_SECONDS = 60.0
SHOWN_ARTIFACTS = "mlflow.loggedArtifacts"
REPLAY_SECONDS = 300.0
IDLE_SECONDS = 60.0  # a journal this quiet is nobody's, though its run may have an evaluation to come
METRICS_A_CALL, PARAMS_A_CALL = 900, 90  # MLflow takes 1000 and 100
PARAM_LENGTH = 6000


class Forwarder:
    """Sends one journal to one MLflow, in the run that the journal's key names; made where it is missing.

    Attributes:
        run_id: MLflow's, once it is known.
    """

    def __init__(self, journal: Journal, uri: str, *, alive: bool) -> None:
        self.run_id: str | None = None
        self._journal, self._uri = journal, uri
        self._alive = alive  # whether this process is the run's own, whose heart beats
        self._beat = 0.0
        self._client: Any = None
        self._present: dict[str, dict[int, float]] = {}

    def send(self) -> None:
        """Send what MLflow lacks; raises what MLflow raises, and is called again then."""
        try:
            with self._journal.sending():
                self._connect()
                self._send_lines()
                if self._alive and time.monotonic() - self._beat > HEARTBEAT_SECONDS:
                    self._client.set_tag(self.run_id, HEARTBEAT, datetime.now(UTC).isoformat(timespec="seconds"))
                    self._beat = time.monotonic()
        except BaseException:
            self._client = None  # after a failure nobody knows what MLflow has: it is asked again
            raise

    def _connect(self) -> None:
        if self._client is not None:
            return
        client = connect(self._uri)
        self.run_id = self._find_run(client) or self._create_run(client)
        for name, value in self._journal.run["tags"].items():
            client.set_tag(self.run_id, name, value)
        if dataset := self._journal.run["dataset"]:
            client.log_inputs(self.run_id, datasets=[_dataset_input(dataset)])
        self._present = {}
        self._client = client

    def _find_run(self, client: Any) -> str | None:
        experiment = client.get_experiment_by_name(self._journal.run["experiment"])
        if experiment is None:
            return None
        wanted = f"tags.`{RUN_KEY}` = '{self._journal.run['tags'][RUN_KEY]}'"
        runs = client.search_runs([experiment.experiment_id], wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    def _create_run(self, client: Any) -> str:
        run = self._journal.run
        experiment = client.get_experiment_by_name(run["experiment"])
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(run["experiment"], artifact_location=run["artifacts"])
        )
        created = client.create_run(experiment_id, start_time=run["time"], tags=run["tags"], run_name=run["name"])
        run_id: str = created.info.run_id
        return run_id

    def _send_lines(self) -> None:
        metrics: list[Any] = []
        size = None
        for event, size in self._journal.unsent():
            if event["kind"] == "metrics":
                metrics += self._missing(event)
                if len(metrics) < METRICS_A_CALL // 2:
                    continue
            self._send_metrics(metrics)
            metrics = []
            self._send_line(event)
            self._journal.acknowledge(size)
        if size is not None:
            self._send_metrics(metrics)
            self._journal.acknowledge(size)

    def _missing(self, event: Event) -> list[Any]:
        """The metrics of a line that MLflow has no value of at its step, or another than the revised one."""
        from mlflow.entities import Metric

        missing = []
        for name, value in event["values"].items():
            present = self._values(name)
            known = present.get(event["step"])
            if known is None or (event["revised"] and known != value):
                present[event["step"]] = value
                missing.append(Metric(name, value, event["time"], event["step"]))
        return missing

    def _values(self, name: str) -> dict[int, float]:
        """The newest value at each step that MLflow has, asked once a connection."""
        if name not in self._present:
            history = self._client.get_metric_history(self.run_id, name)
            by_time = sorted(history, key=lambda metric: metric.timestamp)
            self._present[name] = {metric.step: metric.value for metric in by_time}
        return self._present[name]

    def _send_metrics(self, metrics: list[Any]) -> None:
        for start in range(0, len(metrics), METRICS_A_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_A_CALL])

    def _send_line(self, event: Event) -> None:
        if event["kind"] == "begin":
            self._send_params(event["params"])
            self._client.update_run(self.run_id, status="RUNNING")
        elif event["kind"] == "end":
            self._client.set_terminated(self.run_id, event["status"], event["time"])
        elif event["kind"] == "files" and (folder := self._journal.artifacts(event)).is_dir():
            self._client.log_artifacts(self.run_id, str(folder))
            self._journal.forget_artifacts(event)
        elif event["kind"] == "table":
            self._show_table(event["what"])

    def _show_table(self, name: str) -> None:
        """Tell MLflow's UI that an artifact is a table."""
        told = json.loads(self._client.get_run(self.run_id).data.tags.get(SHOWN_ARTIFACTS, "[]"))
        table = {"path": name, "type": "table"}
        if table not in told:
            self._client.set_tag(self.run_id, SHOWN_ARTIFACTS, json.dumps([*told, table]))

    def _send_params(self, params: dict[str, str]) -> None:
        """MLflow never changes a parameter, and refuses a second value."""
        from mlflow.entities import Param

        present = self._client.get_run(self.run_id).data.params
        missing = [Param(name, value[:PARAM_LENGTH]) for name, value in params.items() if name not in present]
        for start in range(0, len(missing), PARAMS_A_CALL):
            self._client.log_batch(self.run_id, params=missing[start : start + PARAMS_A_CALL])


def replay(folder: Path, uri: str, seconds: float = REPLAY_SECONDS) -> str | None:
    """Send what MLflow lacks of a journal; that of a finished run is removed then.

    Args:
        folder: the journal's.
        uri: MLflow's tracking URI.
        seconds: given up after so long.

    Returns:
        what went wrong, or None; never raises for a trouble of MLflow's.
    """

    def send() -> None:
        journal = Journal(folder)
        if not journal.whole:
            Forwarder(journal, uri, alive=False).send()
        if journal.finished and journal.idle_seconds > IDLE_SECONDS:
            journal.remove()

    _, trouble = ask(send, seconds)
    return None if trouble is None else f"MLflow at {shown(uri)} did not take {folder}: {trouble}"


def _dataset_input(dataset: dict[str, Any]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=dataset["name"],
        digest=dataset["digest"][:36],
        source_type="http",
        source=json.dumps({"url": dataset["source"]}),
        profile=json.dumps(dataset["tags"]),
    )
    tags = {"mlflow.data.context": "training", **dataset["tags"]}
    return DatasetInput(entity, tags=[InputTag(name, value) for name, value in tags.items()])
