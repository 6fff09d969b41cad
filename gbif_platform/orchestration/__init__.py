"""What knows Dagster, beside the component: assets, keys and partitions, metadata, the instance, the CLI's runs.

Logic does not belong here: an asset calls one step of `gbif_platform.steps` and translates its report.
"""
