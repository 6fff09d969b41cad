"""Step `promotion`: whether a model takes the champion's place, decided once, on pictures that neither has seen."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.steps.evaluation_metrics import NAME as EVALUATION
from gbif_platform.steps.model_answers import Model, answer, known_slices, slice_values
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.seen import RowsMissing, training_rows, unseen
from gbif_platform.steps.trained_model import (
    bundle_folder,
    champion,
    labelled_pictures,
    model_row,
    register,
    registered_name,
    tracker_of,
)
from gbif_platform.storage.tables import Outcome

if TYPE_CHECKING:
    from gbif_platform.evaluation.comparison import Comparison
    from gbif_platform.evaluation.scores import Scores

log = logging.getLogger(__name__)

NAME = "promotion"
VERSION = "2"
PROTECTED = "protected_slices"
DECIDED = (
    "bundle",
    "champion_snapshot",
    "champion_bundle",
    "comparison",
    "test_digest",
    "test_pictures",
    "promoted",
    "reason",
    "decided_at",
)


def promotion(run: Run, model: str) -> Report:
    """Compare the model with the champion in force, picture by picture, and move the alias unless it is worse.

    Both answer the test pictures of this snapshot, less those that either of them, or a model that it was started from,
    has seen. What was decided stays: a champion that comes later does not open the question again.
    """
    name, spec = f"{model}/{NAME}", run.dataset.models[model].evaluation
    version = fingerprint(NAME, VERSION, run.version_of(f"{model}/{EVALUATION}"), stated(spec))

    def make(con: duckdb.DuckDBPyConnection, _: Path) -> Outcome:
        test = _test_pictures(run, con)
        row = _decision(run, model, name, test)
        tracker = tracker_of(run, model)
        tracker.log_metrics({"promoted": float(row["promoted"])})
        tracker.end("FINISHED")
        # The lake's row is what counts; where MLflow does not listen, doctor tells it later.
        if row["promoted"] and (trouble := move_alias(run, model, row["bundle"], tracker.run_id)):
            log.warning("%s: the alias champion has not moved: %s", model, trouble)
        rows = pl.DataFrame([row], infer_schema_length=None).cast(
            {"champion_snapshot": pl.String, "champion_bundle": pl.String, "comparison": pl.String}
        )
        return Outcome({"promotions": rows}, len(test), len(test))

    written = run.compute(name, version, make, keys={"model": model})
    report = run.account(name)
    report.written = written
    report.columns = run.columns("promotions")
    _describe(run, model, report)
    return report


def _decision(run: Run, model: str, stage: str, test: pl.DataFrame) -> dict[str, Any]:
    """The row of `promotions`."""
    bundle, force = str(model_row(run, model)["bundle"]), champion(run, model)
    row: dict[str, Any] = {"bundle": bundle, "champion_snapshot": None, "champion_bundle": None, "comparison": None}
    if force is None:
        promoted, reason = True, "the first model: there is no champion to compare it with"
    elif force["bundle"] == bundle:  # judged by other settings now: what made it champion stays
        kept = _rows(run, model).filter(pl.col("promoted") & (pl.col("bundle") == bundle))
        if len(kept):
            return kept.select(DECIDED).row(0, named=True)
        promoted, reason = True, "the model is the champion in force"
    else:
        row |= {"champion_snapshot": force["snapshot"], "champion_bundle": force["bundle"]}
        promoted, reason, test, row["comparison"] = _challenge(run, model, stage, test, force["bundle"])
    return row | {
        "test_digest": fingerprint(*test["media_id"].to_list()),
        "test_pictures": len(test),
        "promoted": promoted,
        "reason": reason,
        "decided_at": datetime.now(UTC),
    }


def _test_pictures(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    return labelled_pictures(run, con).filter(pl.col("subset") == "test")


def _challenge(
    run: Run, model: str, stage: str, test: pl.DataFrame, champion_bundle: str
) -> tuple[bool, str, pl.DataFrame, str | None]:
    """Whether the model takes the place of another, why, the pictures that decided, and the comparison as JSON."""
    try:
        # Not the splits of the champion's snapshot: those are made anew where a setting changes.
        seen = training_rows(run.platform.objects, champion_bundle)
    except RowsMissing as error:
        log.warning("%s: %s: the champion gives way", stage, error.cause)
        return True, f"the champion cannot be judged fairly any more: {error.cause}", test, None
    test = _fair(run, model, test, seen)
    if test.is_empty():
        return False, "there is no test picture that neither the champion nor the model has seen", test, None
    found = _compared(run, model, stage, test, champion_bundle)
    return found.promote, found.reason, test, json.dumps(found.table.to_pylist())


def _fair(run: Run, model: str, test: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """The pictures that neither the champion nor the model has seen, by media id, and where the model's answers are."""
    own = training_rows(run.platform.objects, str(model_row(run, model)["bundle"]))
    kept = run.platform.lake.frame(
        "SELECT media_id, answers, answer_row FROM predictions WHERE dataset = ? AND snapshot = ? AND model = ?",
        [run.dataset.name, run.snapshot, model],
    )
    return unseen(test, pl.concat([seen, own])).join(kept, on="media_id").sort("media_id")


def _compared(run: Run, model: str, stage: str, test: pl.DataFrame, champion_bundle: str) -> "Comparison":
    from gbif_platform.evaluation.comparison import compare

    spec = run.dataset.models[model].evaluation
    own, other = Model.of(run, str(model_row(run, model)["bundle"])), Model.of(run, champion_bundle)
    asked = test.with_columns(
        answers=pl.lit(answer(run, stage, champion_bundle, test)), answer_row=pl.int_range(pl.len())
    )
    return compare(
        _scores(run, own, test),
        _scores(run, other, asked),
        test["label"].to_numpy(),
        group=test["group_id"].to_numpy(),
        protected=slice_values(run, test, spec.protected),
        slice_min=spec.slice_min,
        margin=spec.margin,
        log_loss=own.output == other.output == "softmax",
        resamples=spec.resamples,
    )


def _scores(run: Run, model: Model, asked: pl.DataFrame) -> "Scores":
    """A model's answers as it was judged: with the temperature and the prior beside its bundle."""
    from gbif_platform.training.bundle import CALIBRATION

    kept = json.loads(run.platform.objects.get(f"{model.key}/{CALIBRATION}"))
    return model.scores(
        run,
        asked["answers"][0],
        asked["label"],
        tau=kept["tau"],
        temperature=kept["temperature"],
        rows=asked["answer_row"],
    )


def move_alias(run: Run, model: str, bundle: str, mlflow_run: str | None = None) -> str | None:
    """Make a bundle of this snapshot the champion in MLflow's registry, registering it where that is missing.

    Returns:
        What went wrong, or None.
    """
    from gbif_platform.training.registry import set_champion

    row = model_row(run, model)
    if row["bundle"] != bundle:  # trained anew since, and not promoted
        return f"the MLflow run of {bundle} is not known any more: set {registered_name(run, model)}'s alias by hand"
    mlflow_run = mlflow_run or row["run_id"]
    answer = register(run, model, bundle_folder(run, bundle), bundle, mlflow_run)
    if answer.version is not None:
        uri = run.platform.settings.tracking_uri
        answer = set_champion(uri, registered_name(run, model), answer.version.version)
    return answer.trouble


def is_astray(run: Run, model: str) -> bool | None:
    """Whether MLflow's champion is another one than the lake's; None where MLflow does not say."""
    from gbif_platform.training.registry import CHAMPION, find_alias

    force = champion(run, model)
    answer = find_alias(run.platform.settings.tracking_uri, registered_name(run, model), CHAMPION)
    if answer.trouble or force is None:
        return None
    return answer.version is None or answer.version.tags.get("bundle") != force["bundle"]


def _rows(run: Run, model: str) -> pl.DataFrame:
    """The row of `promotions`; none before the first decision."""
    return run.platform.lake.frame(
        "SELECT * FROM promotions WHERE dataset = ? AND snapshot = ? AND model = ?",
        [run.dataset.name, run.snapshot, model],
    )


def decision(run: Run, model: str) -> dict[str, Any]:
    """The row of `promotions`, its comparison as a frame."""
    row = _rows(run, model).row(0, named=True)
    table = pl.DataFrame(json.loads(row["comparison"] or "[]"), infer_schema_length=None)
    return row | {"comparison": table}


def _describe(run: Run, model: str, report: Report) -> None:
    found = decision(run, model)
    report.numbers |= {"promoted": int(found["promoted"]), "test_pictures": found["test_pictures"]}
    report.texts |= {
        "decision": found["reason"],
        "champion_before": found["champion_snapshot"] or "none",
        "registered_model": registered_name(run, model),
        "test_digest": found["test_digest"],
    }
    if len(found["comparison"]):
        report.tables["comparison"] = found["comparison"]
    check = _protection(run, model)
    report.checks.append(check)
    if report.written and not check.passed:
        log.warning("%s/%s: %s", model, NAME, check.description)


def _protection(run: Run, model: str) -> Check:
    """Whether each slice that is to be protected has values to compare; a mistyped name would protect nothing."""
    from gbif_platform.evaluation.slices import slicings

    spec = run.dataset.models[model].evaluation
    if not spec.protected:
        return Check(PROTECTED, True, "no slice is protected", only_warn=True)
    with run.reader() as con:
        test = _test_pictures(run, con)
    found = slice_values(run, test, spec.protected)
    compared = {one.name for one in slicings(found, spec.slice_min)}
    known = known_slices(run)
    unknown = [name for name in spec.protected if name not in known]
    empty = [name for name in spec.protected if name in known and name not in found]
    rare = [name for name in found if name not in compared]
    troubles = [
        f"{', '.join(map(repr, names))}: {trouble}"
        for names, trouble in (
            (unknown, f"no such slice; known are {', '.join(sorted(known))}"),
            (empty, "known of no test picture, nothing to compare"),
            (rare, f"no value has {spec.slice_min} test pictures, nothing to compare"),
        )
        if names
    ]
    says = "; ".join(troubles) or f"compared by {', '.join(spec.protected)}"
    return Check(PROTECTED, not troubles, says, only_warn=True)
