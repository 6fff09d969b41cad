"""The Dagster instance under the platform's home, and the runs that a kill left behind in it."""

import os
import shutil
import socket
from pathlib import Path

import dagster as dg
import psutil

from gbif_platform.errors import PlatformError
from gbif_platform.settings import Settings

PROCESS_TAG = "gbif_platform/process"
UNFINISHED = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]


def prepare_home(settings: Settings) -> Path:
    """Make DAGSTER_HOME under the platform's home, with the project's dagster.yaml in it.

    Raises:
        PlatformError: the platform does not run from its project folder, or home is not writable.
    """
    ours = Path(__file__).resolve().parents[2] / "dagster.yaml"
    if not ours.exists():
        raise PlatformError(f"{ours} is missing", "run gbif-platform from a checkout of the project (make setup)")
    home = settings.home / "dagster"
    try:
        home.mkdir(parents=True, exist_ok=True)
        copy = home / "dagster.yaml"
        if not copy.exists() or copy.read_bytes() != ours.read_bytes():
            shutil.copyfile(ours, copy)
    except OSError as error:
        raise PlatformError(
            f"cannot write {home}: {error.strerror}", "set GBIF_PLATFORM_HOME to a folder of yours"
        ) from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def this_process() -> str:
    """Host, pid and start time: names one process for ever."""
    return _process_name(psutil.Process())


def _process_name(process: psutil.Process) -> str:
    return f"{socket.gethostname()} {process.pid} {process.create_time():.0f}"


def _is_dead(name: str) -> bool:
    """Whether a process of this host is gone; of other hosts we know nothing."""
    host, pid, _ = name.split(" ")
    if host != socket.gethostname():
        return False
    try:
        return _process_name(psutil.Process(int(pid))) != name
    except psutil.NoSuchProcess:
        return True


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process was killed as failed and free their pool slots; returns their ids.

    A killed run would stay STARTED, and the next run would wait for its slot for ever.
    """
    dead = [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        if PROCESS_TAG in run.tags and _is_dead(run.tags[PROCESS_TAG])
    ]
    for run in dead:
        instance.report_run_failed(run, "its process was killed; the next run goes on from what it had stored")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]
