"""What the report's tables show: numbers in words, rows in order, pictures made small."""

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from markupsafe import Markup
from PIL import Image

from gbif_platform.evaluation import report_charts as charts
from gbif_platform.evaluation.report_data import Comparison, Metric, Mistake, ReportData, Table
from gbif_platform.evaluation.wording import BUCKETS, NOTHING, interval, wording, written
from gbif_platform.gbif.licences import from_spdx
from gbif_platform.plots.figure import counted, exact, share

THUMBNAIL = 256
"""Longest side of a picture in the report, in pixels."""
CONFUSIONS = 15
"""Pairs of labels in the list of the commonest mistakes."""
SLICE_ROWS = 12
"""Values of a slice that are seen without a click, the worst first."""


def safe_link(url: str) -> str:
    """The URL where a click on it can do no harm (http or https), else an empty text."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return ""
    return url.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def drawn(draw: Callable[[pl.DataFrame], Markup], table: Table | None) -> Markup | None:
    """The chart of a table, None where there is nothing to draw."""
    return draw(pl.DataFrame(table)) if table is not None and len(table) else None


@dataclass(frozen=True)
class MetricRow:
    """A metric as a row of the table."""

    title: str
    meaning: str
    value: str
    interval: str
    baseline: str
    centroid: str
    mark: Markup


def metric_row(metric: Metric) -> MetricRow:
    """A metric in words."""
    words = wording(metric.name)
    return MetricRow(
        words.title,
        words.meaning,
        written(metric.value, share=words.share),
        interval(metric.low, metric.high, share=words.share),
        written(metric.baseline, share=words.share),
        written(metric.centroid, share=words.share),
        charts.interval_mark(metric.value, metric.low, metric.high, metric.baseline) if words.share else Markup(""),
    )


def verdict(top1: Metric | None) -> str:
    """Whether the model is better than no model; empty where it cannot be said."""
    if top1 is None or top1.baseline is None or not math.isfinite(top1.baseline):
        return ""
    other = f"always answering the commonest label, which is right in {written(top1.baseline)}"
    if top1.low is None or not math.isfinite(top1.low):
        return f"Of too few groups of pictures to say whether it is better than {other}."
    return f"{'Better' if top1.low > top1.baseline else 'Not surely better'} than {other}."


@dataclass(frozen=True)
class Epochs:
    """The history of a training as a table."""

    columns: list[str]
    rows: list[list[str]]


def epoch_rows(history: Sequence[Mapping[str, float]]) -> Epochs:
    """A row an epoch, the epoch counted from 1 and first; every key of any row is a column."""
    names = list(dict.fromkeys(name for row in history for name in row))
    rows = [
        [str(int(row["epoch"]) + 1), *(_figures(row.get(name)) for name in names if name != "epoch")] for row in history
    ]
    return Epochs(["epoch", *(name.replace("_", " ") for name in names if name != "epoch")], rows)


def _figures(value: float | None) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.4g}"


def facts(data: ReportData, classes: pl.DataFrame) -> list[tuple[str, str]]:
    """The sizes of the evaluation: name and text."""
    evaluated = int((classes["support"] > 0).sum())
    groups = f" in {counted(data.groups, 'independent group', 'independent groups')}" if data.groups else ""
    return [
        (f"Pictures in {data.subset}", exact(data.pictures) + groups),
        ("Labels", f"{exact(len(classes))}, {exact(evaluated)} of them with pictures in {data.subset}"),
        ("Training pictures", exact(float(classes["train_pictures"].sum()))),
    ]


@dataclass(frozen=True)
class Compared:
    """The comparison as a table; `words` says which columns are text, `worse` which rows speak against the model."""

    promote: bool
    reason: str
    columns: list[str]
    words: list[bool]
    rows: list[list[str | Markup]]
    worse: list[bool]


def comparison_rows(comparison: Comparison | None) -> Compared | None:
    """The table of a comparison, each number in its metric's form, and the differences drawn."""
    if comparison is None:
        return None
    table = pl.DataFrame(comparison.table)
    shown = table.drop("worse", strict=False)
    reach = _reach(table)
    rows: list[list[str | Markup]] = []
    for row in shown.iter_rows(named=True):
        metric = wording(str(row.get("metric", "top1")))
        cells: list[str | Markup] = [_cell(name, value, metric.share) for name, value in row.items()]
        if reach:
            cells.append(_difference(row, reach, metric.higher_is_better))
        rows.append(cells)
    names = {"rows": "pictures"}
    return Compared(
        bool(comparison.promote),
        comparison.reason,
        [names.get(name, name.replace("_", " ")) for name in shown.columns] + ["difference, drawn"] * bool(reach),
        [kind == pl.String for kind in shown.dtypes] + [False] * bool(reach),
        rows,
        [bool(worse) for worse in table["worse"]] if "worse" in table.columns else [False] * len(table),
    )


def _cell(name: str, value: object, is_share: bool) -> str:
    if name == "metric":
        return wording(str(value)).title
    if isinstance(value, float):
        sign = "+" if name in ("difference", "low", "high") and value > 0 else ""
        return sign + written(value, share=is_share)
    return exact(value) if isinstance(value, int) else str(value if value is not None else "–")


def _reach(table: pl.DataFrame) -> dict[str, float]:
    """The largest difference of each metric: the ends of its line. Empty where the table has no intervals."""
    if not {"difference", "low", "high"} <= set(table.columns):
        return {}
    metric = pl.col("metric") if "metric" in table.columns else pl.lit("top1").alias("metric")
    largest = pl.max_horizontal(pl.col("low").abs(), pl.col("high").abs(), pl.col("difference").abs()).max()
    return dict(table.group_by(metric).agg(largest.alias("reach")).iter_rows())


def _difference(row: Mapping[str, Any], reach: Mapping[str, float], higher_is_better: bool) -> Markup:
    value, low, high = row["difference"], row["low"], row["high"]
    most = reach[row.get("metric", "top1")]
    if None in (value, low, high) or not math.isfinite(value + low + high) or not most:
        return Markup("")
    return charts.difference_mark(value, low, high, most, higher_is_better=higher_is_better)


def commonest_confusions(confusion: np.ndarray, labels: Sequence[str]) -> list[tuple[str, str, int, str]]:
    """True label, answer, pictures, and their share of the true label's: the commonest mistakes first."""
    if not len(confusion):
        return []
    support = np.bincount(confusion[:, 0], weights=confusion[:, 2], minlength=len(labels))
    wrong = confusion[confusion[:, 0] != confusion[:, 1]]
    order = np.lexsort((wrong[:, 1], wrong[:, 0], -wrong[:, 2]))[:CONFUSIONS]
    return [(labels[t], labels[p], int(n), share(float(n), float(support[t]))) for t, p, n in wrong[order]]


def coverage_points(table: Table | None) -> list[tuple[str, str, str]]:
    """For 80, 90, 95 and 99 % right answers: the wish, the largest coverage that has it, the confidence it takes."""
    if table is None or not len(table):
        return []
    points = pl.DataFrame(table)
    rows = []
    for wish in (0.8, 0.9, 0.95, 0.99):
        enough = points.filter((pl.col("accuracy") >= wish) & (pl.col("coverage") > 0)).sort("coverage")
        threshold = enough["threshold"][-1] if len(enough) and "threshold" in enough.columns else None
        coverage = enough["coverage"][-1] if len(enough) else 0.0
        rows.append((f"{100 * wish:.0f} %", written(coverage), written(threshold)))
    return rows


@dataclass(frozen=True)
class Bucket:
    """Labels with about as many training pictures; `interval` is that of the summary, where it has the bucket."""

    name: str
    meaning: str
    labels: int
    evaluated: int
    pictures: int
    recall: float | None
    interval: str
    mark: Markup


def bucket_rows(classes: pl.DataFrame, summary: Sequence[Metric]) -> list[Bucket]:
    """The buckets that have labels, from many to few training pictures."""
    if "bucket" not in classes.columns:
        return []
    found = []
    for name, meaning in BUCKETS.items():
        rows = classes.filter(pl.col("bucket") == name)
        if not len(rows):
            continue
        recall = float(rows["recall"].mean()) if rows["recall"].count() else None  # type: ignore[arg-type]
        metric = next((metric for metric in summary if name in metric.name.split("_")), None)
        low, high, baseline = (metric.low, metric.high, metric.baseline) if metric else (None, None, None)
        evaluated = int((rows["support"] > 0).sum())
        mark = charts.interval_mark(recall, low, high, baseline)
        pictures = int(rows["support"].sum())
        found.append(Bucket(name, meaning, len(rows), evaluated, pictures, recall, interval(low, high), mark))
    return found


@dataclass(frozen=True)
class SliceRows:
    """The values of one slice, the worst first; `first` are seen at once."""

    name: str
    first: list[dict[str, Any]]
    rest: list[dict[str, Any]]


def slice_rows(table: Table | None) -> list[SliceRows]:
    """The slices in the order of their names."""
    if table is None:
        return []
    rows = pl.DataFrame(table).sort("top1", nulls_last=True)
    found = []
    for (name,), values in rows.group_by("slice", maintain_order=True):
        said = values.with_columns(pl.col("value").cast(pl.String).fill_null("(none)")).to_dicts()
        found.append(SliceRows(str(name), said[:SLICE_ROWS], said[SLICE_ROWS:]))
    return sorted(found, key=lambda part: part.name)


def summary_rows(data: ReportData) -> list[MetricRow]:
    """The metrics in words, without those of the ranks where these have a table."""
    ranks = tuple(f"{rank}_" for rank in pl.DataFrame(data.ranks)["rank"]) if data.ranks is not None else ()
    return [metric_row(metric) for metric in data.summary if not metric.name.startswith(ranks)]


def rank_rows(data: ReportData) -> list[dict[str, Any]]:
    """A row a rank with its baselines; what there is not is None."""
    if data.ranks is None:
        return []
    names = ("taxa", "low", "high", "log_loss", "severity_share", "baseline", "centroid")
    rows = []
    for row in pl.DataFrame(data.ranks).to_dicts():
        metric = data.metric(f"{row['rank']}_top1" if row["rank"] != "label" else "top1")
        compared = {"baseline": metric.baseline, "centroid": metric.centroid} if metric else {}
        rows.append(dict.fromkeys(names) | row | compared)
    return rows


def rollup_rows(table: Table | None) -> list[tuple[str, str, str, str]]:
    """Rank at which it is answered, pictures, their share of all, share of right answers."""
    rows = pl.DataFrame(table).to_dicts() if table is not None else []
    whole = sum(row["rows"] for row in rows)
    return [
        (
            str(row["rank"]),
            exact(row["rows"]),
            share(row["rows"], whole),
            share(row["right"], row["rows"]) if row["rows"] and row["rank"] != "none" else NOTHING,
        )
        for row in rows
    ]


def open_set_rows(numbers: Mapping[str, float] | None) -> list[tuple[str, str, str]]:
    """Name, number and meaning."""
    counts = {"rows": "Pictures of unseen labels", "known_rows": "Pictures of known labels"}
    found = []
    for name, value in (numbers or {}).items():
        words = wording(name)
        text = exact(value) if name in counts else written(value, share=words.share)
        found.append((counts.get(name, words.title), text, words.meaning))
    return found


def class_rows(classes: pl.DataFrame) -> Iterable[tuple[Any, ...]]:
    """The per-class table in the order of the report's columns."""
    bucket = pl.col("bucket") if "bucket" in classes.columns else pl.lit("")
    return classes.select(
        "label", bucket.alias("bucket"), "train_pictures", "support", "recall", "precision", "f1",
        "most_confused_with", "confused_rows",
    ).iter_rows()  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A mistake with its small picture: a JPEG in base64, and its pixels."""

    mistake: Mistake
    data: str
    width: int
    height: int


def shown_mistakes(mistakes: Sequence[Mistake], show_unlicensed: bool) -> tuple[list[Picture], dict[str, int]]:
    """The pictures, and how many are left out for which reason."""
    shown, omitted = [], {"without a known licence": 0, "that cannot be read": 0}
    for mistake in mistakes:
        if from_spdx(mistake.licence).unknown and not show_unlicensed:
            omitted["without a known licence"] += 1
        elif picture := _thumbnail(mistake.jpeg):
            data, width, height = picture
            shown.append(Picture(mistake, base64.b64encode(data).decode(), width, height))
        else:
            omitted["that cannot be read"] += 1
    return shown, {reason: count for reason, count in omitted.items() if count}


def _thumbnail(data: bytes) -> tuple[bytes, int, int] | None:
    """A JPEG of at most `THUMBNAIL` pixels a side without metadata, its width and height; None of no picture."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue(), small.width, small.height
