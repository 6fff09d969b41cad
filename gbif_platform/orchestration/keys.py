"""Names in Dagster: asset keys, partitions and jobs of a dataset."""

import dagster as dg

DATASET_TAG = "gbif_platform/dataset"
"""On assets, and on the runs of a dataset's job: dagster.yaml lets one of them go on at a time."""


def asset_key(dataset: str, stage: str) -> dg.AssetKey:
    """The key of a stage's asset; a model's stages are named `model/trained_model`."""
    return dg.AssetKey([dataset, *stage.split("/")])


def partitions(dataset: str) -> dg.DynamicPartitionsDefinition:
    """One partition a snapshot."""
    return dg.DynamicPartitionsDefinition(name=partitions_name(dataset))


def partitions_name(dataset: str) -> str:
    """Name under which the instance keeps a dataset's snapshots."""
    return f"{dataset}_snapshots"


def job_name(dataset: str) -> str:
    """The job that materialises a whole dataset."""
    return f"{dataset}_job"
