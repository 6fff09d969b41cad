"""The Dagster instance under the platform's home, and the runs that a kill left behind in it."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

from gbif_platform.errors import PlatformError
from gbif_platform.settings import Settings

PROCESS_TAG = "gbif_platform/process"
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_going: set[str] = set()
"""Ids of the runs that this process is executing."""


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
        if not os.access(settings.home, os.W_OK):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
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


@contextmanager
def going(run_id: str) -> Iterator[None]:
    """Mark a run as executed by this process, for as long as the context lasts."""
    _going.add(run_id)
    try:
        yield
    finally:
        _going.discard(run_id)


def _is_dead(run: dg.DagsterRun) -> bool:
    """Whether nobody executes a run any more; of other hosts' runs, and of the web UI's, we know nothing."""
    name = run.tags.get(PROCESS_TAG, "")
    if name == this_process():  # a full disk ends a run without a trace in Dagster's storage
        return run.run_id not in _going
    host, _, rest = name.partition(" ")
    if host != socket.gethostname():
        return False
    pid = rest.partition(" ")[0]
    try:
        return _process_name(psutil.Process(int(pid))) != name
    except psutil.NoSuchProcess:
        return True


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process was killed as failed and free the pool slots of dead runs; returns the ids of the marked.

    A killed run would stay STARTED, and the next run would wait for its slot for ever.
    """
    dead = [run for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if _is_dead(run)]
    for run in dead:
        instance.report_run_failed(run, "its process was killed; the next run goes on from what it had stored")
    for run_id in _slot_holders(instance):
        holder = instance.get_run_by_id(run_id)
        if holder is None or (holder.is_finished and PROCESS_TAG in holder.tags):
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return [run.run_id for run in dead]


def _slot_holders(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the runs that hold a pool's slot or wait for one."""
    storage = instance.event_log_storage
    holders: set[str] = set()
    for pool in storage.get_concurrency_infos(list(storage.get_concurrency_keys())).values():
        holders |= {slot.run_id for slot in pool.claimed_slots} | {step.run_id for step in pool.pending_steps}
    return holders
