"""Step `evaluation_metrics`: predictions as rows, and every metric from them."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.steps.model_answers import Model, answer, nearest, several_labels, slice_values
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.trained_model import (
    beside,
    labelled_pictures,
    model_row,
    stage_name,
    tracker_of,
)
from gbif_platform.storage.tables import Outcome

if TYPE_CHECKING:
    from gbif_platform.evaluation.evaluate import Evaluation, Metric
    from gbif_platform.evaluation.scores import Scores

log = logging.getLogger(__name__)

NAME = "evaluation_metrics"
VERSION = "2"
SHOWN_SUBSET = "test"
SHOWN = (
    *("top1", "top1_low", "top1_high", "top5", "macro_accuracy", "macro_accuracy_low", "macro_accuracy_high"),
    *("log_loss", "ece", "macro_average_precision", "binary_log_loss", "open_set_auroc", "temperature"),
    *("baseline_top1", "baseline_macro_accuracy", "baseline_binary_log_loss", "centroid_top1"),
    *("pictures", "groups", "labels", "labels_evaluated"),
)
"""Numbers that stand by themselves on the asset, so that they plot over the snapshots; the table `metrics` has all."""
TABLES = ("classes", "reliability", "coverage", "ranks", "rollup", "slices")
KEPT = "evaluation.json"


def evaluation_metrics(run: Run, model: str) -> Report:
    """Ask the model about every picture outside `train`, and compute all metrics of each subset from its answers.

    Pictures of labels that the model does not know are asked about too: they say whether it can tell strangers.
    """
    name, spec = f"{model}/{NAME}", run.dataset.models[model].evaluation
    version = fingerprint(NAME, VERSION, run.version_of(stage_name(model)), stated(spec))

    def make(con: duckdb.DuckDBPyConnection, _: Path) -> Outcome:
        pictures = labelled_pictures(run, con)
        asked, train = pictures.filter(pl.col("subset") != "train"), pictures.filter(pl.col("subset") == "train")
        known = Model.of(run, model_row(run, model)["bundle"])
        answers = answer(run, name, known.key, asked, train)
        judged = _Judged(run, model, asked, known, answers)
        found = judged.evaluations()
        run.platform.objects.put(_kept_key(run, model, version), _as_json(found))
        _keep_calibration(run, known.key, judged.temperature, spec.tau)
        return Outcome(
            {"predictions": judged.predictions(), "evaluation_metrics": _metric_rows(run, model, found)},
            len(asked),
            len(asked),
        )

    written = run.compute(name, version, make, keys={"model": model})
    report = run.account(name)
    report.written = written
    report.columns = run.columns("evaluation_metrics")
    _describe(run, model, report)
    return report


class _Judged:
    """A model's answers to the pictures outside `train`, calibrated on `validation`."""

    def __init__(self, run: Run, model: str, pictures: pl.DataFrame, known: Model, answers: str) -> None:
        self._run, self._model, self._pictures, self._known, self._answers = run, model, pictures, known, answers
        self._spec = run.dataset.models[model].evaluation
        labels, tau = pictures["label"], self._spec.tau
        self.temperature = known.temperature(run, answers, labels, pictures["subset"] == "validation", tau)
        self.scores: Scores = known.scores(
            run, answers, labels, tau=tau, temperature=self.temperature, k=self._spec.top_k
        )

    def predictions(self) -> pl.DataFrame:
        """Rows of the `predictions` table."""
        scores, names = self.scores, pa.array(self._known.labels, pa.string())
        rows, k = scores.top.shape
        offsets = pa.array(np.arange(0, rows * k + 1, k, dtype=np.int64))
        top = pa.LargeListArray.from_arrays(offsets, names.take(pa.array(scores.top.ravel())))
        shares = pa.LargeListArray.from_arrays(offsets, pa.array(scores.top_probability.ravel(), pa.float64()))
        own = pl.Series(scores.label_log_probability).fill_nan(None)
        return self._pictures.select("media_id", "subset", "group_id", "label").with_columns(
            predicted=pl.Series(names.take(pa.array(scores.predicted))),
            score=pl.Series(scores.top_probability[:, 0]).cast(pl.Float64),
            log_probability=own,
            top_labels=pl.Series(top),
            top_scores=pl.Series(shares),
            answers=pl.lit(self._answers),
            answer_row=pl.int_range(rows),
        )

    def evaluations(self) -> dict[str, "Evaluation"]:
        """The evaluation of each subset that holds a label of the model's."""
        from gbif_platform.evaluation.evaluate import evaluate

        close, spec = nearest(self._run, self._answers), self._spec
        slices = slice_values(self._run, self._pictures, spec.slices)
        strange = self.scores.label < 0
        found = {}
        for subset in self._pictures["subset"].unique().sort():
            rows = np.flatnonzero((self._pictures["subset"] == subset).to_numpy() & ~strange)
            if not len(rows):
                continue
            judged = evaluate(
                self.scores.take(rows),
                self._known.labels,
                self._known.counts,
                group=self._pictures["group_id"].to_numpy()[rows],
                slices={name: pl.Series(values).gather(rows) for name, values in slices.items()},
                slice_min=spec.slice_min,
                rank_confidence=spec.rank_confidence,
                centroid=close[rows],
                strangers=self.scores.take(strange) if subset == SHOWN_SUBSET and strange.any() else None,
                temperature=self.temperature,
                resamples=spec.resamples,
            )
            found[subset] = replace(judged, summary=[*judged.summary, *self._of_several_labels(rows)])
        return found

    def _of_several_labels(self, rows: np.ndarray) -> list["Metric"]:
        """Metrics of a model that takes each label for itself."""
        from gbif_platform.evaluation.evaluate import Metric

        if self._known.output != "sigmoid":
            return []
        known = pl.col("labels").list.set_intersection(self._known.labels)
        pictures = self._pictures.with_row_index("answer_row")[rows].with_columns(known)
        found = several_labels(self._run, self._answers, self._known, pictures)
        return [Metric(name, value, baseline=baseline) for name, (value, baseline) in found.items() if value == value]


def _metric_rows(run: Run, model: str, found: Mapping[str, "Evaluation"]) -> pl.DataFrame:
    """Rows of the `evaluation_metrics` table; bounds of an interval stand beside their number."""
    run_id = str(model_row(run, model)["run_id"] or "")
    columns = ("run_id", "subset", "slice", "metric", "value")
    rows = [
        {column: row[column] for column in columns}
        for subset, evaluation in found.items()
        for row in evaluation.rows(
            dataset=run.dataset.name, snapshot=run.snapshot, model=model, run_id=run_id, subset=subset
        )
    ]
    numbers = pl.DataFrame(rows, schema=dict.fromkeys(columns[:4], pl.String) | {"value": pl.Float64})
    bounds = {
        end: numbers.filter(pl.col("metric").str.ends_with(f"_{end}")).select(
            "subset", "slice", pl.col("metric").str.strip_suffix(f"_{end}"), pl.col("value").alias(end)
        )
        for end in ("low", "high")
    }
    kept = numbers.filter(~pl.col("metric").str.contains("_(low|high)$"))
    for bound in bounds.values():
        kept = kept.join(bound, on=["subset", "slice", "metric"], how="left")
    return kept


def _keep_calibration(run: Run, bundle_key: str, temperature: float, tau: float) -> None:
    """Beside the bundle: whoever opens it answers as it was judged."""
    from gbif_platform.training.bundle import CALIBRATION, calibration_text

    objects = run.platform.objects
    digest = json.loads(objects.get(f"{bundle_key}/bundle.json"))["weights_sha256"]
    objects.put(f"{bundle_key}/{CALIBRATION}", calibration_text(digest, temperature, tau).encode())


def _kept_key(run: Run, model: str, version: str) -> str:
    return f"{beside(model_row(run, model)['bundle'], 'evaluations')}/{version}/{KEPT}"


def _as_json(found: Mapping[str, "Evaluation"]) -> bytes:
    return json.dumps(
        {
            subset: {
                "numbers": one.numbers,
                "beats_baseline": one.beats_baseline,
                "summary": [vars(metric) for metric in one.summary],
                "confusion": one.confusion.tolist(),
                "unevaluated": one.unevaluated,
                "open_set": one.open_set,
                **{name: getattr(one, name).to_pylist() for name in TABLES},
            }
            for subset, one in found.items()
        }
    ).encode()


def kept_evaluation(run: Run, model: str) -> dict[str, Any] | None:
    """The evaluation of the test subset as it was computed: numbers, summary, confusion, and tables as frames
    (None for one without rows).

    None where no picture of the subset has a label of the model's.
    """
    key = _kept_key(run, model, run.version_of(f"{model}/{NAME}"))
    found: dict[str, Any] | None = json.loads(run.platform.objects.get(key)).get(SHOWN_SUBSET)
    if found is None:
        return None
    tables = {name: pl.DataFrame(found[name], infer_schema_length=None) if found[name] else None for name in TABLES}
    return found | tables | {"confusion": np.array(found["confusion"], dtype=np.int64).reshape(-1, 3)}


def _describe(run: Run, model: str, report: Report) -> None:
    from gbif_platform.evaluation import plots

    found = kept_evaluation(run, model)
    if found is None:
        report.checks.append(Check("beats_baseline", False, f"no picture in subset {SHOWN_SUBSET}", only_warn=True))
        return
    numbers, labels = found["numbers"], found["classes"]["label"].to_list()
    report.numbers |= {f"{SHOWN_SUBSET}_{name}": numbers[name] for name in SHOWN if name in numbers}
    metrics = pl.DataFrame(found["summary"], infer_schema_length=None)
    report.tables |= {"metrics": metrics, "per_class": found["classes"]}
    report.tables |= {name: found[name] for name in ("ranks", "slices") if found[name] is not None}
    if found["unevaluated"]:
        report.tables["not_evaluated"] = pl.DataFrame({"label": found["unevaluated"]})
    report.pictures |= {
        "confusion_matrix": plots.confusion_matrix(found["confusion"], labels),
        "reliability": plots.reliability_diagram(found["reliability"]),
        "coverage": plots.coverage_curve(found["coverage"]),
        "buckets": plots.bucket_bars(found["classes"]),
    }
    if found["slices"] is not None:
        report.pictures["slices"] = plots.slice_bars(found["slices"])
    says = "top-1 {top1:.1%} ({top1_low:.1%} – {top1_high:.1%}), always the commonest label {baseline_top1:.1%}"
    report.checks.append(Check("beats_baseline", found["beats_baseline"], says.format(**numbers), only_warn=True))
    if report.written:
        from gbif_platform.training.bundle import CALIBRATION

        tracker = tracker_of(run, model)
        tracker.log_metrics({f"{SHOWN_SUBSET}_{name}": value for name, value in numbers.items()})
        calibration = run.platform.objects.get(f"{model_row(run, model)['bundle']}/{CALIBRATION}")
        tracker.log_bytes(calibration, f"bundle/{CALIBRATION}")
        for name, picture in report.pictures.items():
            tracker.log_bytes(picture, f"{name}.png")
        tracker.end("FINISHED")  # where MLflow was down during training, this is the first it hears of the run
        for warning in tracker.warnings:
            log.warning("%s: %s", model, warning)
