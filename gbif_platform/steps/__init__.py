"""The steps behind the assets, free of Dagster: read the lake, call plain functions, write the lake, report.

In a notebook: `report = occurrences(Run(Platform(), dataset, snapshot))`.
"""
