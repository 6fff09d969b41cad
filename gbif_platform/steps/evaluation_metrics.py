"""Step `evaluation_metrics`: predictions as rows, and every metric from them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.trained_model import (
    bundle_description,
    labelled_pictures,
    model_row,
    open_bundle,
    open_tracker,
    stage_name,
)
from gbif_platform.storage.tables import Outcome, refusals

if TYPE_CHECKING:
    from gbif_platform.evaluation.metrics import Evaluation

log = logging.getLogger(__name__)

NAME = "evaluation_metrics"
VERSION = "1"
SHOWN_SUBSET = "test"


def evaluation_metrics(run: Run, model: str) -> Report:
    """Predict every picture outside `train`, and compute the metrics of each subset from the stored predictions."""
    name, training_version = f"{model}/{NAME}", run.version_of(stage_name(model))
    version = fingerprint(NAME, VERSION, training_version)

    def make(con: duckdb.DuckDBPyConnection, _: Path) -> Outcome:
        pictures = labelled_pictures(run, con).filter(pl.col("subset") != "train")
        known = pl.col("label").is_in(open_bundle(run, model).labels)
        stranger = pictures.filter(~known).select("media_id", pl.lit("label_not_in_training"), "label")
        predictions = _predict(run, model, pictures.filter(known))
        metrics = [
            row for evaluation in evaluations(run, model, predictions).items() for row in _rows(run, model, *evaluation)
        ]
        return Outcome(
            {"predictions": predictions, "evaluation_metrics": pl.DataFrame(metrics)},
            len(pictures),
            len(predictions),
            refused=refusals(stranger.rows()),
        )

    written = run.compute(name, version, make, keys={"model": model})
    report = run.account(name)
    report.written = written
    report.columns = run.columns("evaluation_metrics")
    _describe(run, model, training_version, report)
    return report


def _predict(run: Run, model: str, pictures: pl.DataFrame) -> pl.DataFrame:
    """Rows of the `predictions` table for these pictures."""
    from gbif_platform.training.data import Samples
    from gbif_platform.training.predict import predict

    bundle = open_bundle(run, model)
    report_progress = run.progress(f"{model}/{NAME}")
    answers = pl.DataFrame(
        predict(
            bundle,
            Samples.from_table(pictures.to_arrow(), bundle.labels),
            run.platform.shards,
            progress=lambda done, total: report_progress(done, total, "pictures predicted"),
        )
    )
    names = pl.Series(bundle.labels)
    top = pl.col("top_labels").list.eval(pl.element().replace_strict(pl.Series(range(len(names))), names))
    return (
        answers.join(pictures.select("media_id", "subset", "group_id"), on="media_id")
        .with_columns(top_labels=top, label=names.gather(answers["label"]))
        .select(
            "media_id",
            "subset",
            "group_id",
            "label",
            predicted=pl.col("top_labels").list.first(),
            score=pl.col("top_probabilities").list.first().cast(pl.Float64),
            log_probability=pl.col("label_log_probability").cast(pl.Float64),
            top_labels="top_labels",
            top_scores=pl.col("top_probabilities").cast(pl.List(pl.Float64)),
        )
        .sort("media_id")
    )


def evaluations(run: Run, model: str, predictions: pl.DataFrame) -> dict[str, "Evaluation"]:
    """The evaluation of each subset from rows of the `predictions` table; needs neither pictures nor a GPU."""
    from gbif_platform.evaluation.metrics import Predictions, evaluate

    bundle = bundle_description(run, model)
    labels = bundle["labels"]
    index = {label: place for place, label in enumerate(labels)}
    found = {}
    for subset in predictions["subset"].unique().sort():
        rows = predictions.filter(pl.col("subset") == subset)
        table = rows.select(
            label=pl.col("label").replace_strict(index),
            top_labels=pl.col("top_labels").list.eval(pl.element().replace_strict(index)),
            label_log_probability="log_probability",
        )
        found[subset] = evaluate(
            Predictions.from_table(table.to_arrow(), labels, bundle["class_counts"], rows["group_id"].to_numpy())
        )
    return found


def _rows(run: Run, model: str, subset: str, evaluation: "Evaluation") -> list[dict[str, object]]:
    run_id = str(model_row(run, model)["run_id"] or "")
    rows = evaluation.rows(dataset=run.dataset.name, snapshot=run.snapshot, model=model, run_id=run_id, subset=subset)
    return [{key: row[key] for key in ("run_id", "subset", "slice", "metric", "value")} for row in rows]


def _describe(run: Run, model: str, training_version: str, report: Report) -> None:
    from gbif_platform.evaluation.plots import confusion_matrix

    with run.reader() as con:
        predictions = run.rows(con, "predictions").filter(f"model = '{model}'").pl()
    found = evaluations(run, model, predictions)
    if SHOWN_SUBSET not in found:
        report.checks.append(Check("beats_baseline", False, f"no picture in subset {SHOWN_SUBSET}", only_warn=True))
        return
    shown = found[SHOWN_SUBSET]
    report.numbers |= {f"test_{name}": value for name, value in shown.summary.items()}
    report.tables["per_class"] = pl.DataFrame(shown.classes)
    report.pictures["confusion_matrix"] = confusion_matrix(shown.confusion, shown.labels)
    says = "top-1 {top1:.1%} ({top1_low:.1%} – {top1_high:.1%}), always the commonest label {baseline_top1:.1%}"
    report.checks.append(Check("beats_baseline", shown.beats_baseline, says.format(**shown.summary), only_warn=True))
    if report.written:
        tracker = open_tracker(run, model, training_version, model_row(run, model)["lake_version"])
        tracker.log_metrics({f"test_{name}": value for name, value in shown.summary.items()})
        tracker.log_bytes(report.pictures["confusion_matrix"], "confusion_matrix.png")
        tracker.end("FINISHED")  # where MLflow was down during training, this is the first it hears of the run
        for warning in tracker.warnings:
            log.warning("%s: %s", model, warning)
