"""The code location: shipped datasets, the datasets of the home folder, and the platform they run on."""

from pathlib import Path

import dagster as dg

from gbif_platform.components import ImageDataset
from gbif_platform.dataset import Dataset, named_datasets
from gbif_platform.orchestration.automation import automation_sensor
from gbif_platform.orchestration.executors import step_executor
from gbif_platform.platform import Platform


def build_defs(platform: Platform, datasets: list[Dataset]) -> dg.Definitions:
    """The assets of these datasets, on this platform: what tests, the CLI and the web UI share."""
    return dg.Definitions.merge(
        *(ImageDataset(dataset).definitions(platform.settings) for dataset in datasets),
        dg.Definitions(
            resources={"platform": platform},
            executor=step_executor(platform.settings),
            sensors=[automation_sensor(platform.settings)],
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster` and `dg` load."""
    platform = Platform()
    shipped = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(
        shipped, build_defs(platform, list(named_datasets(platform.settings.datasets).values()))
    )
