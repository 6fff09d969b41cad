"""Step `trained_model`: a model that knows exactly which rows it saw."""

import json
import logging
import re
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from gbif_platform import __version__
from gbif_platform.dataset import Dataset
from gbif_platform.errors import PlatformError
from gbif_platform.part import stated
from gbif_platform.settings import fingerprint
from gbif_platform.sources.snapshots import find_snapshot
from gbif_platform.steps.credit import citation_of
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.steps.seen import ROWS, RowsMissing, keep_training_rows, training_rows, unseen
from gbif_platform.storage.tables import RANKS, Outcome, refusals
from gbif_platform.training.weights_file import weights_digest

if TYPE_CHECKING:
    from gbif_platform.training.bundle import Bundle, Provenance
    from gbif_platform.training.data import Samples
    from gbif_platform.training.registry import Answer
    from gbif_platform.training.run import TrainResult
    from gbif_platform.training.tracking import MlflowTracker

log = logging.getLogger(__name__)

NAME = "trained_model"
VERSION = "3"
BUNDLE_FILES = ("bundle.json", "model.safetensors")
TAXON_TERMS = (*RANKS, *(f"{rank}_key" for rank in RANKS), "taxon_key")


def stage_name(model: str) -> str:
    """The stage of one model's training."""
    return f"{model}/{NAME}"


def labelled_pictures(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Split pictures and their places.

    Returns:
        media_id, url_id, subset, nested, group_id, label, labels (all that the picture stands under), shard, offset,
        size, license, gbif_id.
    """
    splits = run.rows(con, "splits", "media_id, subset, nested, group_id")  # noqa: F841  read by name
    pictures = run.pictures(con)  # noqa: F841
    return con.sql("""
        SELECT media_id, url_id, subset, nested, group_id, label, license, gbif_id,
               list_sort(list(DISTINCT label) OVER (PARTITION BY url_id)) AS labels,
               shard, shard_offset AS offset, shard_size AS size
        FROM splits JOIN pictures USING (media_id) ORDER BY media_id""").pl()


def _taken(train_on: str) -> pl.Expr:
    """What the training sees: `train` or the nested part of it that is named, and `validation`."""
    learnt = pl.col("subset") == "train"
    if train_on != "train":
        learnt &= pl.col("nested").list.contains(train_on)
    return learnt | (pl.col("subset") == "validation")


def trained_model(run: Run, model: str) -> Report:
    """Train a model on the `train` subset; `validation` chooses its best epoch.

    A kill loses at most a minute of work; running again goes on from the last checkpoint.

    Raises:
        TrainingDataError: fewer than two labels have training pictures.
        PlatformError: the backbone or its weights are not to be had.
    """
    name, spec = stage_name(model), run.dataset.models[model]
    version = _version(run, model)
    work = run.platform.work_folder("training", run.dataset.name, fingerprint(run.snapshot), f"{model}-{version}")

    def make(con: duckdb.DuckDBPyConnection, _: Path) -> Outcome:
        lake_version = run.platform.lake.version()
        pictures = labelled_pictures(run, con)
        rows = pictures.filter(_taken(spec.train_on))
        labels = sorted(rows.filter(pl.col("subset") == "train")["label"].unique())
        known = rows.filter(pl.col("label").is_in(labels))
        start = _start(run, model, pictures.filter(pl.col("subset") == "test"))
        bundle_key, result, run_id = _train(run, model, version, known, labels, lake_version, work, start)
        stranger = rows.filter(~pl.col("label").is_in(labels))
        refused = [(row, "label_not_in_training", label) for row, label in stranger.select("media_id", "label").rows()]
        trained = pl.DataFrame(
            {
                "run_id": [run_id],
                "bundle": [bundle_key],
                "version": [version],
                "split_version": [run.version_of("splits")],
                "lake_version": [lake_version],
                "epochs": [result.epochs],
                "seconds": [result.seconds],
                "trained_at": [datetime.now(UTC)],
                "history": [pl.DataFrame(result.history).write_json()],
                "start": [start],
            },
            schema_overrides={"start": pl.String},
        )
        return Outcome({"models": trained}, len(rows), len(known), refused=refusals(refused))

    written = run.compute(name, version, make, keys={"model": model})
    shutil.rmtree(work, ignore_errors=True)
    report = run.account(name)
    report.written = written
    _describe(run, model, report)
    return report


def _version(run: Run, model: str) -> str:
    """Fingerprint of what the weights follow from: pictures, settings, the content of a weights file."""
    spec = run.dataset.models[model]
    return fingerprint(
        NAME, VERSION, run.version_of("splits"), stated(spec.training()), weights_digest(spec.pretrained)
    )


def _start(run: Run, model: str, test: pl.DataFrame) -> str | None:
    """The bundle that the training starts from, where the dataset file asks for a warm start and there is one.

    Args:
        test: the pictures that the model will be judged on, less those that the champion has seen.
    """
    found = champion(run, model) if run.dataset.models[model].warm_start else None
    if found is None or found["snapshot"] == run.snapshot:
        return None
    name, bundle = stage_name(model), str(found["bundle"])
    backbone = json.loads(run.platform.objects.get(f"{bundle}/bundle.json"))["backbone"]
    if backbone != run.dataset.models[model].backbone:
        log.warning("%s: the champion's backbone is %s: no warm start", name, backbone)
        return None
    try:
        left = len(unseen(test, training_rows(run.platform.objects, bundle)))
    except RowsMissing as error:
        log.warning("%s: %s: no warm start", name, error.cause)
        return None
    if left < len(test):
        says = "%s: the champion of snapshot %s has seen %d of the %d test pictures, or others of their groups: %s"
        then = "the model that starts from it is judged on the rest" if left else "no warm start"
        log.warning(says, name, found["snapshot"], len(test) - left, len(test), then)
    return bundle if left or test.is_empty() else None


def _train(
    run: Run,
    model: str,
    version: str,
    rows: pl.DataFrame,
    labels: list[str],
    lake_version: int,
    work: Path,
    start: str | None,
) -> tuple[str, "TrainResult", str | None]:
    """Train, track and store the bundle; returns its key in the object store, the result, and MLflow's run id."""
    from gbif_platform.training.bundle import save_bundle
    from gbif_platform.training.process import train_in_child
    from gbif_platform.training.run import Progress

    name, spec = stage_name(model), run.dataset.models[model]
    train_rows = rows.filter(pl.col("subset") == "train")
    training, validation = (
        _samples(rows.filter(pl.col("subset") == subset), labels, several=spec.output == "sigmoid")
        for subset in ("train", "validation")
    )
    report_progress = run.progress(name)

    def show(progress: Progress) -> None:
        done = (progress.epoch - 1) * progress.steps + progress.step
        note = f"epoch {progress.epoch}/{progress.epochs}, loss {progress.loss:.3f}, {progress.rate:.0f} pictures/s"
        report_progress(done, progress.epochs * progress.steps, note)
        run.observe({"epoch": progress.epoch, "loss": progress.loss, "pictures_per_second": progress.rate})

    tracker = open_tracker(run, model, version, lake_version)
    result = train_in_child(
        spec, training, validation, labels, run.platform.shards, work / "run",
        tracker=tracker, progress=show, start=bundle_folder(run, start) if start else None,
        log=lambda line: log.info("%s: %s", name, line),
    )  # fmt: skip
    provenance, taxonomy = _provenance(run, train_rows, lake_version), _taxonomy(run, train_rows)
    pictures = asdict(run.dataset.images)
    bundle = save_bundle(work / "bundle", result, spec, labels, provenance, taxonomy, pictures)
    key = bundle_key(run.dataset, run.snapshot, model, version)
    keep_training_rows(run.platform.objects, key, rows, start)
    for file in BUNDLE_FILES:
        run.platform.objects.put(f"{key}/{file}", bundle.folder / file)
    tracker.log_folder(bundle.folder, "bundle")
    answer = register(run, model, bundle.folder, key, tracker.run_id)
    for warning in filter(None, [*result.warnings, answer.trouble]):
        log.warning("%s: %s", name, warning)
    return key, result, tracker.run_id


def _samples(rows: pl.DataFrame, labels: list[str], *, several: bool) -> "Samples":
    """What the training sees: a picture under several labels is one example of all of them, or one of each."""
    from gbif_platform.training.data import Samples

    if several:
        rows = rows.unique("url_id", keep="first", maintain_order=True)
        rows = rows.with_columns(pl.col("labels").list.set_intersection(labels))
    else:
        rows = rows.drop("labels")
    return Samples.from_table(rows.to_arrow(), labels)


def _provenance(run: Run, train: pl.DataFrame, lake_version: int) -> "Provenance":
    from gbif_platform.training.bundle import Provenance

    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    return Provenance(
        dataset=run.dataset.name,
        snapshot=run.snapshot,
        lake_version=lake_version,
        split_digest=run.version_of("splits"),
        doi=snapshot.doi or None,
        citation=citation_of(run, snapshot),
        licences=dict(train.group_by("license").len().sort("license").iter_rows()),
        code_version=__version__,
    )


def register(run: Run, model: str, folder: Path, key: str, mlflow_run_id: str | None) -> "Answer":
    """The version of a bundle in MLflow's registry, made where it is missing; it is `challenger` then."""
    from gbif_platform.training.registry import register

    snapshot = find_snapshot(run.platform, run.dataset, run.snapshot)
    tags = {"dataset": run.dataset.name, "snapshot": run.snapshot, "doi": snapshot.doi, "bundle": key}
    return register(run.platform.settings.tracking_uri, registered_name(run, model), mlflow_run_id, folder, tags=tags)


def registered_name(run: Run, model: str) -> str:
    """What MLflow's registry calls the model of a dataset."""
    return f"{run.dataset.name}-{model}"


def champion(run: Run, model: str) -> dict[str, Any] | None:
    """`bundle` and `snapshot` of the champion in force, of whatever snapshot; None before the first decision."""
    found = run.platform.lake.frame(
        "SELECT CASE WHEN promoted THEN bundle ELSE champion_bundle END AS bundle, "
        "CASE WHEN promoted THEN snapshot ELSE champion_snapshot END AS snapshot "
        "FROM promotions WHERE dataset = ? AND model = ? ORDER BY decided_at DESC LIMIT 1",
        [run.dataset.name, model],
    )
    return found.row(0, named=True) if len(found) else None


def bundle_key(dataset: Dataset, snapshot: str, model: str, version: str) -> str:
    """Where a bundle lies in the object store."""
    return f"bundles/{dataset.name}/{re.sub(r'[^A-Za-z0-9.-]', '_', snapshot)}/{model}-{version}"


def beside(bundle: str, what: str) -> str:
    """Where the `answers`, `evaluations` or `reports` of a bundle lie in the object store."""
    return bundle.replace("bundles/", f"{what}/", 1)


def tracker_of(run: Run, model: str) -> "MlflowTracker":
    """The MLflow run of a model that is trained."""
    return open_tracker(run, model, run.version_of(stage_name(model)), model_row(run, model)["lake_version"])


def open_tracker(run: Run, model: str, version: str, lake_version: int) -> "MlflowTracker":
    """The MLflow run of this training; it is found again after a kill, and by the evaluation."""
    from gbif_platform.training.tracking import MlflowTracker, TrackedDataset

    settings, snapshot = run.platform.settings, find_snapshot(run.platform, run.dataset, run.snapshot)
    split_version = run.version_of("splits")
    run_key = "/".join((run.dataset.name, run.snapshot, model, version))
    return MlflowTracker(
        settings.tracking_uri,
        run.dataset.name,
        run_key,
        run_name=f"{model} {run.snapshot}",
        tags={
            "dataset": run.dataset.name,
            "snapshot": run.snapshot,
            "model": model,
            "code_version": __version__,
            "run_id": run.run_id,
        },
        artifacts=None if settings.mlflow_uri else str(settings.home / "mlflow" / "artifacts"),
        dataset=TrackedDataset(
            name=run.dataset.name,
            digest=split_version,
            source=f"https://doi.org/{snapshot.doi}" if snapshot.doi else Path(snapshot.reference).as_uri(),
            doi=snapshot.doi or None,
            derived_doi=_derived_doi(run),
            lake_version=lake_version,
        ),
        journal=settings.home.joinpath("work", "training", "journals", fingerprint(run_key)),
    )


def _derived_doi(run: Run) -> str | None:
    """Of the derived dataset that the snapshot's pictures were registered as last, if they were."""
    found = run.frame("SELECT doi FROM derived_datasets WHERE {key} ORDER BY registered_at DESC LIMIT 1")
    return found["doi"][0] if len(found) else None


def _taxonomy(run: Run, rows: pl.DataFrame) -> dict[str, dict[str, str]]:
    """The commonest lineage of each label."""
    with run.reader() as con:
        occurrences = run.rows(con, "occurrences")
        ranks = [rank for rank in TAXON_TERMS if rank in occurrences.columns]
        if not ranks:
            return {}
        fields = ", ".join(f'mode("{rank}") AS "{rank}"' for rank in ranks)
        frame = con.sql(f"SELECT label, {fields} FROM rows JOIN occurrences USING (gbif_id) GROUP BY label").pl()
    return {row.pop("label"): {k: v for k, v in row.items() if v} for row in frame.iter_rows(named=True)}


def open_bundle(run: Run, model: str, key: str | None = None) -> "Bundle":
    """A bundle, copied to this machine where the object store is elsewhere; default = the trained model's."""
    from gbif_platform.training.bundle import fetch_bundle

    key = key or model_row(run, model)["bundle"]
    return fetch_bundle(run.platform.objects, key, run.platform.settings.home.joinpath("work", *key.split("/")))


def bundle_folder(run: Run, key: str) -> Path:
    """Where a bundle can be read on this machine."""
    return open_bundle(run, "", key).folder


def bundle_description(run: Run, model: str) -> dict[str, Any]:
    """The bundle's `bundle.json`: labels, class counts, provenance; without torch, so that a no-op run is quick."""
    description: dict[str, Any] = json.loads(run.platform.objects.get(f"{model_row(run, model)['bundle']}/bundle.json"))
    return description


def model_row(run: Run, model: str) -> dict[str, Any]:
    """The trained model's row of the `models` table."""
    return run.platform.lake.frame(
        "SELECT * FROM models WHERE dataset = ? AND snapshot = ? AND model = ?", [run.dataset.name, run.snapshot, model]
    ).row(0, named=True)


def _describe(run: Run, model: str, report: Report) -> None:
    from gbif_platform.evaluation.plots import training_curves

    row = model_row(run, model)
    history = pl.read_json(row["history"].encode())
    report.numbers |= {"epochs": row["epochs"], "training_seconds": row["seconds"]}
    report.texts |= {"mlflow_run_id": row["run_id"] or "", "lake_version": str(row["lake_version"])}
    report.texts["bundle"] = run.platform.objects.url_of(row["bundle"])
    report.tables["epochs"] = history
    report.pictures["curves"] = training_curves(history.to_dicts())
    check = _bundle_check(run, model, whole=report.written)
    report.checks.append(check)
    if check.passed:
        report.numbers["labels"] = len(bundle_description(run, model)["labels"])


def _bundle_check(run: Run, model: str, *, whole: bool) -> Check:
    """Whether the bundle can be used; a new one is read whole, one that was checked before is only looked for."""
    key = model_row(run, model)["bundle"]
    missing = [file for file in (*BUNDLE_FILES, ROWS) if not run.platform.objects.exists(f"{key}/{file}")]
    if missing:
        return Check("bundle_loads", False, f"{', '.join(missing)} of {key} is gone: train the model again")
    try:
        labels = open_bundle(run, model).labels if whole else bundle_description(run, model)["labels"]
    except PlatformError as error:
        return Check("bundle_loads", False, error.cause)
    return Check("bundle_loads", True, f"{len(labels)} labels" + (", weights agree with their digest" if whole else ""))
