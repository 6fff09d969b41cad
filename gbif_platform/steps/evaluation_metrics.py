"""Step `evaluation_metrics`: predictions as rows, and every metric from them."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.steps.model_answers import Model, answer, known_slices, nearest, several_labels, slice_values
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.seen import training_rows, unseen
from gbif_platform.steps.trained_model import (
    beside,
    labelled_pictures,
    model_row,
    stage_name,
    tracker_of,
)
from gbif_platform.storage.tables import Outcome, refusals

if TYPE_CHECKING:
    from gbif_platform.evaluation.evaluate import Evaluation, Metric
    from gbif_platform.evaluation.scores import Scores

log = logging.getLogger(__name__)

NAME = "evaluation_metrics"
VERSION = "3"
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
SAMPLE = 100
"""Predictions that MLflow shows; the lake has all."""
SEEN = "seen_by_the_model_it_was_started_from"


def evaluation_metrics(run: Run, model: str) -> Report:
    """Ask the model about every picture outside `train`, and compute all metrics of each subset from its answers.

    Pictures of labels that the model does not know are asked about too: they say whether it can tell strangers.
    Refused are those that a model has seen which this one was started from (`warm_start`).
    """
    name, spec = f"{model}/{NAME}", run.dataset.models[model].evaluation
    version = fingerprint(NAME, VERSION, run.version_of(stage_name(model)), stated(spec))

    def make(con: duckdb.DuckDBPyConnection, _: Path) -> Outcome:
        pictures = labelled_pictures(run, con)
        outside, train = pictures.filter(pl.col("subset") != "train"), pictures.filter(pl.col("subset") == "train")
        row = model_row(run, model)
        known, seen = Model.of(run, row["bundle"]), training_rows(run.platform.objects, row["bundle"])
        own = pl.col("bundle") == known.key
        asked = new_to_ancestors(outside, seen.filter(~own))
        refused = outside.join(asked, on="media_id", how="anti", maintain_order="left")["media_id"]
        answers = answer(run, name, known.key, asked, train)
        trained = seen.filter(own & (pl.col("subset") == "train"))["url_id"].n_unique()
        judged = _Judged(run, model, asked, known, answers, trained)
        found = judged.evaluations()
        run.platform.objects.put(_kept_key(run, model, version), _as_json(found))
        _keep_calibration(run, known.key, judged.temperature, spec.tau)
        return Outcome(
            {"predictions": judged.predictions(), "evaluation_metrics": _metric_rows(run, model, found)},
            len(outside),
            len(asked),
            refused=refusals([(media_id, SEEN, row["start"]) for media_id in refused]),
        )

    written = run.compute(name, version, make, keys={"model": model})
    report = run.account(name)
    report.written = written
    report.columns = run.columns("evaluation_metrics")
    _describe(run, model, report)
    return report


def new_to_ancestors(pictures: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """The pictures outside `train` that say what a model is worth that was started from others, by media id.

    Validation pictures that those were validated on stay: they have chosen models then as now, and taught none.

    Args:
        pictures: as of `labelled_pictures`. seen: of `training_rows`, those of the other models.
    """
    validation = pl.col("subset") == "validation"
    kept = [
        unseen(pictures.filter(~validation), seen),
        unseen(pictures.filter(validation), seen.filter(pl.col("subset") == "train")),
    ]
    return pl.concat(kept).sort("media_id")


class _Judged:
    """A model's answers to the pictures outside `train`, calibrated on `validation`."""

    def __init__(
        self, run: Run, model: str, pictures: pl.DataFrame, known: Model, answers: str, training_pictures: int
    ) -> None:
        self._run, self._known, self._answers = run, known, answers
        self._pictures, self._training_pictures = pictures.with_row_index("answer_row"), training_pictures
        self._spec = run.dataset.models[model].evaluation
        tau, validation = self._spec.tau, self._pictures.filter(pl.col("subset") == "validation")
        self.temperature = known.temperature(run, answers, validation, tau)
        self.scores: Scores = known.scores(
            run, answers, pictures["label"], tau=tau, temperature=self.temperature, k=self._spec.top_k
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
                output=self._known.output,
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
        found = several_labels(
            self._run,
            self._answers,
            self._known,
            self._pictures[rows],
            temperature=self.temperature,
            training_pictures=self._training_pictures,
        )
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
    report.checks.append(_slices_known(run, run.dataset.models[model].evaluation.slices))
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
        "coverage": plots.coverage_curve(found["coverage"]),
        "buckets": plots.bucket_bars(found["classes"]),
    }
    for name, draw in (("reliability", plots.reliability_diagram), ("slices", plots.slice_bars)):
        if found[name] is not None:
            report.pictures[name] = draw(found[name])
    report.checks.append(Check("beats_baseline", found["beats_baseline"], _beside_baseline(numbers), only_warn=True))
    if report.written:
        _track(run, model, numbers, report.pictures)


def _slices_known(run: Run, names: Sequence[str]) -> Check:
    """A mistyped slice would be left out like one of which nothing is known."""
    known = known_slices(run)
    unknown = ", ".join(repr(name) for name in names if name not in known)
    says = f"{unknown}: no such slice; known are {', '.join(sorted(known))}" if unknown else f"{len(names)} slices"
    return Check("slices_known", not unknown, says, only_warn=True)


def _beside_baseline(numbers: Mapping[str, float]) -> str:
    says = "top-1 {top1:.1%} ({top1_low:.1%} – {top1_high:.1%})"
    if "top1_low" not in numbers:
        says = "{groups:.0f} groups are too few for an interval: it cannot be said; top-1 {top1:.1%}"
    return f"{says}, always the commonest label {{baseline_top1:.1%}}".format(**numbers)


def _track(run: Run, model: str, numbers: Mapping[str, float], pictures: Mapping[str, bytes]) -> None:
    """Add to the model's MLflow run what it is worth, and some of its answers."""
    from gbif_platform.training.bundle import CALIBRATION

    tracker = tracker_of(run, model)
    tracker.log_metrics({f"{SHOWN_SUBSET}_{name}": value for name, value in numbers.items()})
    calibration = run.platform.objects.get(f"{model_row(run, model)['bundle']}/{CALIBRATION}")
    tracker.log_bytes(calibration, f"bundle/{CALIBRATION}")
    for name, picture in pictures.items():
        tracker.log_bytes(picture, f"{name}.png")
    sample = sample_predictions(run, model)
    tracker.log_table(sample.columns, sample.rows(), "sample_predictions.json")
    tracker.end("FINISHED")  # where MLflow was down during training, this is the first it hears of the run
    for warning in tracker.warnings:
        log.warning("%s: %s", model, warning)


def sample_predictions(run: Run, model: str) -> pl.DataFrame:
    """media_id, label, predicted, score and url of some pictures of the test subset: the first by media id, a hash."""
    with run.reader() as con:
        rows = run.rows(con, "predictions").filter(f"model = '{model}' AND subset = '{SHOWN_SUBSET}'")  # noqa: F841
        media = run.rows(con, "media_urls", "media_id, url")  # noqa: F841
        return con.sql(
            "SELECT media_id, label, predicted, score, url FROM rows JOIN media USING (media_id) "
            f"ORDER BY media_id LIMIT {SAMPLE}"
        ).pl()
