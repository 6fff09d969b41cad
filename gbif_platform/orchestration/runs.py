"""Runs from the command line: the same job as in the web UI, in this process, against the same instance."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import dagster as dg

from gbif_platform.dataset import Dataset
from gbif_platform.definitions import build_defs
from gbif_platform.errors import PlatformError, first_line, is_full, no_space
from gbif_platform.orchestration.assets import NEXT_STEP, Shell, shells
from gbif_platform.orchestration.instance import PROCESS_TAG, bury_dead_runs, going, this_process
from gbif_platform.orchestration.keys import asset_key, job_name, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Stage


@dataclass(frozen=True)
class Failure:
    """Why a stage failed."""

    stage: str
    cause: str
    next_step: str
    traceback: str


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    run_id: str
    failures: list[Failure]


def select(platform: Platform, dataset: Dataset, snapshot: str, names: Sequence[str]) -> list[Shell]:
    """The named stages, and what they need upstream that is not materialised; no names = all.

    A name without its model (`trained_model`) means all models.

    Raises:
        PlatformError: there is no such asset; lists those that there are.
    """
    every = {shell.stage: shell for shell in shells(dataset)}
    if not names:
        return list(every.values())
    wanted: set[str] = set()
    for name in names:
        found = {stage for stage in every if stage == name or stage.endswith(f"/{name}")}
        if not found:
            raise PlatformError(f"dataset {dataset.name} has no asset {name!r}", f"it has: {', '.join(every)}")
        wanted |= found
    open_ends = list(wanted)
    while open_ends:
        for name in every[open_ends.pop()].upstream:
            missing = tables.stage_version(platform.lake, Stage(dataset.name, snapshot, name)) is None
            if name not in wanted and missing:
                wanted.add(name)
                open_ends.append(name)
    return [shell for stage, shell in every.items() if stage in wanted]


def execute(platform: Platform, dataset: Dataset, snapshot: str, names: Sequence[str] = ()) -> RunResult:
    """Materialise assets of one snapshot; failures are returned, not raised."""
    chosen = select(platform, dataset, snapshot, names)
    run_id = str(uuid4())
    with dg.DagsterInstance.get() as instance, going(run_id):
        bury_dead_runs(instance)
        instance.add_dynamic_partitions(partitions_name(dataset.name), [snapshot])
        job = build_defs(platform, [dataset]).resolve_job_def(job_name(dataset.name))
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=snapshot,
            asset_selection=[asset_key(dataset.name, shell.stage) for shell in chosen],
            tags={PROCESS_TAG: this_process()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        return RunResult(run_id, [_failure(dataset, event) for event in result.get_step_failure_events()])


def _failure(dataset: Dataset, event: dg.DagsterEvent) -> Failure:
    data = event.step_failure_data
    stage = (event.step_key or "").removeprefix(f"{dataset.name}__").replace("__", "/")
    traceback = data.error.to_string() if data.error else ""
    if told := data.user_failure_data:
        next_step = told.metadata.get(NEXT_STEP)
        return Failure(stage, told.description or "", str(next_step.value) if next_step else "", traceback)
    error = data.error.cause or data.error if data.error else None
    if error and error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
        return Failure(stage, "interrupted", "run again: it goes on from what was stored", traceback)
    message = error.message if error else "unknown"
    if is_full(message):  # Dagster's own storage, after the step
        full = no_space(message)
        return Failure(stage, full.cause, full.next_step, traceback)
    return Failure(stage, first_line(message), "run again with --debug for the traceback", traceback)
