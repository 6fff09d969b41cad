"""What dead runs leave in Dagster's storage: a run that goes on for ever, and a pool slot that nobody gives back."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gbif_platform.orchestration.instance import PROCESS_TAG, bury_dead_runs, going, prepare_home, this_process
from gbif_platform.settings import Settings

POOL = "fetch"
STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
OURS = this_process()
DEAD = f"{OURS.split()[0]} 999999999 0"


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", "")  # put back afterwards
    prepare_home(Settings(home=tmp_path))
    with dg.DagsterInstance.get() as opened:
        opened.event_log_storage.initialize_concurrency_limit_to_default(POOL)
        yield opened


def left_behind(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, process: str | None) -> str:
    """A run in this state that holds the pool's only slot."""
    tags = {PROCESS_TAG: process} if process else {}
    run = instance.add_run(dg.DagsterRun(job_name="insects_job", status=status, tags=tags))
    assert instance.event_log_storage.claim_concurrency_slot(POOL, run.run_id, "downloaded_images").is_claimed
    return run.run_id


def holders(instance: dg.DagsterInstance) -> set[str]:
    return {slot.run_id for slot in instance.event_log_storage.get_concurrency_info(POOL).claimed_slots}


@pytest.mark.parametrize(
    ("status", "process", "marked"),
    [
        (STARTED, DEAD, True),
        (STARTED, OURS, True),  # a full disk: this process is alive, its run is not
        (FAILURE, OURS, False),
    ],
    ids=["killed", "ended without a trace", "ended without giving its slot back"],
)
def test_a_dead_run_is_marked_and_its_slot_is_free(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus, process: str, marked: bool
) -> None:
    run_id = left_behind(instance, status, process)
    assert holders(instance) == {run_id}
    assert bury_dead_runs(instance) == ([run_id] if marked else [])
    assert holders(instance) == set()
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == FAILURE
    assert bury_dead_runs(instance) == []


@pytest.mark.parametrize("process", [OURS, "elsewhere 1 0", None], ids=["this process", "another host", "the web UI"])
def test_a_run_that_may_be_going_on_is_left_alone(instance: dg.DagsterInstance, process: str | None) -> None:
    run_id = left_behind(instance, STARTED, process)
    with going(run_id):
        assert bury_dead_runs(instance) == []
    assert holders(instance) == {run_id}
