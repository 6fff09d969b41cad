"""Runs from the command line: the same job as in the web UI, in this process, against the same instance."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from gbif_platform.dataset import Dataset
from gbif_platform.definitions import build_defs
from gbif_platform.errors import PlatformError
from gbif_platform.orchestration.assets import NEXT_STEP, Shell, shells
from gbif_platform.orchestration.instance import PROCESS_TAG, bury_dead_runs, this_process
from gbif_platform.orchestration.keys import asset_key, job_name, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Stage


@dataclass(frozen=True)
class Failure:
    """Why a stage failed; `traceback` is empty for mistakes and troubles that are explained."""

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
    with dg.DagsterInstance.get() as instance:
        bury_dead_runs(instance)
        instance.add_dynamic_partitions(partitions_name(dataset.name), [snapshot])
        job = build_defs(platform, [dataset]).resolve_job_def(job_name(dataset.name))
        result = job.execute_in_process(
            instance=instance,
            partition_key=snapshot,
            asset_selection=[asset_key(dataset.name, shell.stage) for shell in chosen],
            tags={PROCESS_TAG: this_process()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        return RunResult(result.run_id, [_failure(dataset, event) for event in result.get_step_failure_events()])


def _failure(dataset: Dataset, event: dg.DagsterEvent) -> Failure:
    data = event.step_failure_data
    stage = (event.step_key or "").removeprefix(f"{dataset.name}__").replace("__", "/")
    if told := data.user_failure_data:
        next_step = told.metadata.get(NEXT_STEP)
        return Failure(stage, told.description or "", str(next_step.value) if next_step else "", "")
    error = data.error.cause or data.error if data.error else None
    cause = error.message.strip() if error else "unknown"
    return Failure(stage, cause, "run again with --debug for the traceback", error.to_string() if error else "")
