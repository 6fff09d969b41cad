"""When a stage follows by itself, dry-run by Dagster's own evaluation."""

from pathlib import Path

import dagster as dg
import pytest

from gbif_platform.dataset import parse_dataset
from gbif_platform.definitions import build_defs
from gbif_platform.orchestration.keys import asset_key, partitions_name
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings

TEXT = """\
type: gbif_platform.components.ImageDataset
attributes: {name: frogs, source: {archive: frogs.zip}, label: species}
"""
KEY = "frogs-1"
STAGES = (
    "occurrences",
    "media_urls",
    "snapshot_changes",
    "taxa",
    "balanced_samples",
    "predicted_catalogue",
    "downloaded_images",
    "duplicate_images",
    "splits",
    "catalogue",
)


class Graph:
    """A dataset's graph on an instance, and what its conditions ask for at each tick."""

    def __init__(self, home: Path) -> None:
        self.defs = build_defs(Platform(Settings(home=home)), [parse_dataset(TEXT, home / "frogs.yaml")])
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor = None
        self.tick()
        self.instance.add_dynamic_partitions(partitions_name("frogs"), [KEY])

    def tick(self) -> set[str]:
        result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return {stage for stage in STAGES if KEY in result.get_requested_partitions(asset_key("frogs", stage))}

    def run(self, *stages: str, fails: str = "") -> None:
        """What Dagster records of a run that makes these stages and then fails at another one."""
        keys = [asset_key("frogs", stage) for stage in (*stages, *filter(None, [fails]))]
        job = self.defs.resolve_job_def("frogs_job").get_subset(asset_selection=set(keys))
        run = self.instance.create_run_for_job(
            job,
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": KEY},
            asset_selection=frozenset(keys),
        )
        for key in keys[: len(stages)]:
            event = dg.DagsterEvent(
                event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
                job_name=run.job_name,
                event_specific_data=dg._core.events.StepMaterializationData(  # type: ignore[attr-defined]
                    dg.AssetMaterialization(key, partition=KEY)
                ),
            )
            self.instance.report_dagster_event(event, run.run_id)
        if fails:
            self.instance.report_run_failed(run)
        else:
            self.instance.report_run_canceled(run)


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    return Graph(tmp_path)


def test_a_new_partition_alone_starts_nothing(graph: Graph) -> None:
    assert graph.tick() == set(), "its run comes from the dataset's sensor"


def test_new_rows_upstream_are_followed(graph: Graph) -> None:
    graph.run("occurrences")
    assert "media_urls" in graph.tick()


def test_a_run_that_makes_everything_is_not_followed_by_another(graph: Graph) -> None:
    graph.run(*STAGES)
    assert graph.tick() == set()


def test_nothing_goes_past_a_stage_that_refused_its_data(graph: Graph) -> None:
    graph.run("occurrences", "media_urls", "taxa", fails="balanced_samples")
    assert not graph.tick() & {"balanced_samples", "downloaded_images", "splits"}
    assert not graph.tick() & {"balanced_samples", "downloaded_images", "splits"}, "nor is it tried again and again"
    graph.run("taxa")
    assert "balanced_samples" in graph.tick(), "new rows upstream are a reason to try again"
