"""What makes a dataset go by itself: a sensor on new snapshots, a schedule that asks GBIF again, and conditions."""

import asyncio
import json
from datetime import datetime
from typing import Any

import dagster as dg

from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError, explained
from gbif_platform.gbif.blocking import run_blocking
from gbif_platform.gbif.errors import TooManyDownloads, Unreachable
from gbif_platform.orchestration.assets import shells
from gbif_platform.orchestration.instance import UNFINISHED
from gbif_platform.orchestration.keys import asset_key, job_name, partitions, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources import gbif_source
from gbif_platform.sources.snapshots import ask_again
from gbif_platform.sources.watch import Sighting, look

ATTEMPTS = 2
"""Of a sensor's call to GBIF: it looks again soon anyway."""
LOOK_S = 45
"""Of a whole look: Dagster gives a tick a minute."""


def automation_sensor(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates every stage's condition."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus(settings.automation),
        description="Makes what lies downstream of new rows. STOPPED unless GBIF_PLATFORM_AUTOMATION=RUNNING.",
    )


def dataset_sensor(dataset: Dataset, settings: Settings) -> dg.SensorDefinition:
    """Each new snapshot becomes a partition and one run of the whole dataset.

    The cursor holds where the next look begins and which snapshots were launched; run keys keep a repeated tick from
    launching twice.
    """

    # named one by one: the conditions of assets see by it that a run makes what lies downstream too
    everything = [asset_key(dataset.name, shell.stage) for shell in shells(dataset)]

    @dg.sensor(
        name=f"{dataset.name}_sensor",
        job_name=job_name(dataset.name),
        minimum_interval_seconds=settings.sensor_interval,
        default_status=dg.DefaultSensorStatus(settings.automation),
        description=f"New snapshots of {dataset.name}: its own requests at GBIF, watched DOIs and accounts, and what "
        "snapshot add or the partitions page added. Each becomes a partition and one run.",
    )
    def sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> Any:
        cursor = json.loads(context.cursor or "{}")
        try:
            sighting = run_blocking(_look(platform, dataset, cursor.get("since")))
        except Unreachable as error:
            return dg.SkipReason(error.cause)
        except TimeoutError:
            return dg.SkipReason(f"GBIF has not answered for {LOOK_S} s")
        except PlatformError as error:
            raise dg.Failure(f"{error.cause}; next: {error.next_step}") from error
        new = _new(context.instance, platform, dataset, sighting, cursor.get("launched", []))
        for note in sighting.notes:
            context.log.info(note)
        says = "; ".join(sighting.notes) or "nothing new"
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{dataset.name}:{key}", partition_key=key, asset_selection=everything)
                for key in new
            ],
            dynamic_partitions_requests=[partitions(dataset.name).build_add_request(new)] if new else [],
            cursor=json.dumps(
                {
                    "since": sighting.since.isoformat() if sighting.since else None,
                    "launched": [*cursor.get("launched", []), *new],
                }
            ),
            skip_reason=None if new else dg.SkipReason(says),
        )

    return sensor


async def _look(platform: Platform, dataset: Dataset, since: str | None) -> Sighting:
    async with asyncio.timeout(LOOK_S), gbif_source.client(platform, dataset, attempts=ATTEMPTS) as gbif:
        return await look(platform, dataset, gbif, datetime.fromisoformat(since) if since else None)


def _new(
    instance: dg.DagsterInstance, platform: Platform, dataset: Dataset, sighting: Sighting, launched: list[str]
) -> list[str]:
    """Snapshots and partitions that nobody has begun to work on."""
    begun = platform.lake.frame("SELECT DISTINCT snapshot FROM stages WHERE dataset = ?", [dataset.name])["snapshot"]
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name(dataset.name), statuses=UNFINISHED))
    begun_or_running = {*begun, *launched, *(run.tags.get("dagster/partition") for run in runs)}
    known = [*sighting.snapshots, *instance.get_dynamic_partitions(partitions_name(dataset.name))]
    return [key for key in dict.fromkeys(known) if key not in begun_or_running]


def refresh_job(dataset: Dataset) -> dg.JobDefinition:
    """A job of one step that asks GBIF again; the sensor goes on when GBIF has finished."""

    @dg.op(
        name=f"{dataset.name}_ask_gbif",
        description="Requests the dataset's question again; a repetition within the same tick asks nothing.",
        retry_policy=dg.RetryPolicy(max_retries=6, delay=300, backoff=dg.Backoff.EXPONENTIAL),
        out=dg.Out(dg.Nothing),
    )
    def ask(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
        tick = context.run.tags.get(TICK) or f"{datetime.now():%Y-%m-%d}"
        try:
            context.log.info(ask_again(platform, dataset, tick))
        except Exception as error:
            if known := explained(error):
                passes = isinstance(known, Unreachable | TooManyDownloads)
                raise dg.Failure(f"{known.cause}; next: {known.next_step}", allow_retries=passes) from error
            raise

    @dg.job(name=f"{dataset.name}_refresh_job", description=f"Asks GBIF again for {dataset.name}.")
    def job() -> None:
        ask()

    return job


TICK = "gbif_platform/tick"


def refresh_schedule(dataset: Dataset, settings: Settings) -> dg.ScheduleDefinition:
    """Runs the refresh job at the times of `refresh.cron`."""
    assert dataset.refresh is not None

    @dg.schedule(
        name=f"{dataset.name}_schedule",
        job_name=f"{dataset.name}_refresh_job",
        cron_schedule=dataset.refresh.cron,
        execution_timezone=dataset.refresh.timezone,
        default_status=dg.DefaultScheduleStatus(settings.automation),
        description=f"Asks GBIF again for {dataset.name}; the answer becomes a new snapshot.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        tick = f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        return dg.RunRequest(run_key=tick, tags={TICK: tick})

    return schedule
