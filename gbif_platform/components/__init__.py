"""Dagster components: what a YAML file can say `type:` of."""

from gbif_platform.components.image_dataset import ImageDataset

__all__ = ["ImageDataset"]
