"""Runs that stay RUNNING in MLflow because their process was killed."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gbif_platform.training.forwarding import RUN_KEY
from gbif_platform.training.mlflow_access import ask, connect, shown

RUN_STARTED = "gbif_platform.run_started"
SECONDS = 120.0


@dataclass(frozen=True)
class Orphan:
    """A run that was closed as KILLED: MLflow's id of it, its name, and its key."""

    run_id: str
    name: str
    run_key: str


def close_orphans(uri: str, alive: Callable[[dict[str, str]], bool]) -> tuple[list[Orphan], str | None]:
    """Set the platform's RUNNING runs that are no longer alive to KILLED; a training that goes on sets its own back.

    Args:
        uri: MLflow's tracking URI.
        alive: told a run's tags, with `RUN_STARTED` (ISO time, UTC) beside them; false = nobody works on it.

    Returns:
        The runs closed, and what went wrong or None; never raises for a trouble of MLflow's.
    """
    closed: list[Orphan] = []

    def close() -> None:
        client = connect(uri)
        for run in _running(client):
            started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat()
            if not alive({**run.data.tags, RUN_STARTED: started}):
                client.set_terminated(run.info.run_id, "KILLED")
                closed.append(Orphan(run.info.run_id, run.info.run_name, run.data.tags[RUN_KEY]))

    _, trouble = ask(close, SECONDS)
    return closed, None if trouble is None else f"MLflow at {shown(uri)}: {trouble}"


def _running(client: Any) -> list[Any]:
    experiments = _all(lambda token: client.search_experiments(page_token=token))
    ids = [experiment.experiment_id for experiment in experiments]
    runs = _all(lambda token: client.search_runs(ids, "attributes.status = 'RUNNING'", page_token=token))
    return [run for run in runs if RUN_KEY in run.data.tags]


def _all(page: Callable[[str | None], Any]) -> list[Any]:
    """Every page of a search."""
    found, token = [], None
    while True:
        answer = page(token)
        found += answer
        if not (token := answer.token):
            return found
