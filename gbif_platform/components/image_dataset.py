"""The component that turns a dataset file into partitioned assets, their checks, jobs, a sensor and a schedule."""

import dagster as dg
from pydantic import BaseModel

from gbif_platform.dataset import Dataset, at_home
from gbif_platform.orchestration.assets import dataset_assets
from gbif_platform.orchestration.automation import dataset_sensor, refresh_job, refresh_schedule
from gbif_platform.orchestration.keys import DATASET_TAG, job_name
from gbif_platform.settings import Settings, load_settings


class ImageDataset(dg.Component):
    """A dataset of species photographs, from a GBIF download to evaluated models."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @classmethod
    def get_model_cls(cls) -> type[Dataset]:
        """The dataset file's own model: the domain knows what a dataset is, Dagster only reads it."""
        return Dataset

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "ImageDataset":
        """Called by Dagster with the checked attributes of a defs.yaml."""
        if not isinstance(attributes, Dataset):
            raise ValueError("attributes are needed: at least name, source and label")
        return cls(at_home(attributes, context.path))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The dataset's assets, a job over all of them, its sensor and its schedule."""
        return self.definitions(load_settings())

    def definitions(self, settings: Settings) -> dg.Definitions:
        """The same without a load context, for dataset files outside the package."""
        name, asks_again = self.dataset.name, self.dataset.refresh is not None
        job = dg.define_asset_job(
            job_name(name),
            selection=dg.AssetSelection.groups(name),
            description=f"Everything of {name}, for one snapshot.",
            tags={DATASET_TAG: name},
        )
        return dg.Definitions(
            assets=dataset_assets(self.dataset),
            jobs=[job, refresh_job(self.dataset)] if asks_again else [job],
            sensors=[dataset_sensor(self.dataset, settings)],
            schedules=[refresh_schedule(self.dataset, settings)] if asks_again else [],
        )
