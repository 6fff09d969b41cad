"""From a step's report to what Dagster shows; every metadata key keeps one type for ever, so that it plots."""

import base64
from typing import Any

import dagster as dg
import polars as pl

from gbif_platform.steps.run import Check, Report

MAX_ROWS = 50


def picture(data: bytes) -> dg.MarkdownMetadataValue:
    """A PNG or JPEG that the asset page shows behind [Show Markdown]."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return dg.MetadataValue.md(f"![picture](data:image/{kind};base64,{base64.b64encode(data).decode()})")


def table(frame: pl.DataFrame) -> dg.TableMetadataValue:
    """The first rows of a frame, inline on the asset page."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(name, "number" if kind.is_numeric() else "string") for name, kind in frame.schema.items()
        ]
    )
    records = [
        dg.TableRecord({name: _plain(value) for name, value in row.items()})
        for row in frame.head(MAX_ROWS).iter_rows(named=True)
    ]
    return dg.MetadataValue.table(records=records, schema=schema)


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)


def metadata(report: Report) -> dict[str, Any]:
    """All metadata of a report."""
    values: dict[str, Any] = {**report.numbers, **report.texts}
    values |= {name: table(frame) for name, frame in report.tables.items()}
    values |= {f"{name} (picture)": picture(data) for name, data in report.pictures.items()}
    values["newly_written"] = report.written
    if "rows" in report.numbers:
        values["dagster/row_count"] = int(report.numbers["rows"])
    if report.columns:
        columns = [dg.TableColumn(name, kind) for name, kind in report.columns.items()]
        values["dagster/column_schema"] = dg.TableSchema(columns=columns)
    return values


def check_result(check: Check, key: dg.AssetKey) -> dg.AssetCheckResult:
    """A check's verdict."""
    severity = dg.AssetCheckSeverity.WARN if check.only_warn else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        passed=check.passed,
        asset_key=key,
        check_name=check.name,
        severity=severity,
        description=check.description,
    )
