"""Step `model_report`: one page on one model, for people who were not there; and its card."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl

from gbif_platform.settings import fingerprint
from gbif_platform.sources.snapshots import find_snapshot
from gbif_platform.steps.credit import credit
from gbif_platform.steps.evaluation_metrics import NAME as EVALUATION
from gbif_platform.steps.evaluation_metrics import SHOWN_SUBSET, TABLES, kept_evaluation
from gbif_platform.steps.promotion import NAME as PROMOTION
from gbif_platform.steps.promotion import decision
from gbif_platform.steps.run import Report, Run
from gbif_platform.steps.trained_model import beside, bundle_description, model_row, tracker_of
from gbif_platform.storage.tables import Outcome

if TYPE_CHECKING:
    from gbif_platform.evaluation.report import Mistake, ReportData

log = logging.getLogger(__name__)

NAME = "model_report"
VERSION = "1"
MISTAKES = 24
HTML, CARD = "report.html", "README.md"


def model_report(run: Run, model: str) -> Report:
    """Write the report and the model card of a model, from what is in the lake."""
    name = f"{model}/{NAME}"
    upstream = [run.version_of(f"{model}/{stage}") for stage in (EVALUATION, PROMOTION)]
    version = fingerprint(NAME, VERSION, *upstream)
    key = beside(model_row(run, model)["bundle"], "reports")

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        from gbif_platform.evaluation.card import model_card
        from gbif_platform.evaluation.report import write_report

        data = report_data(run, model)
        if data is None:
            return Outcome({}, 0, 0)
        write_report(work / HTML, data)
        (work / CARD).write_text(model_card(data), encoding="utf-8")
        for file in (HTML, CARD):
            run.platform.objects.put(f"{key}/{file}", work / file)
        tracker = tracker_of(run, model)
        for file in (HTML, CARD):
            tracker.log_bytes((work / file).read_bytes(), f"report/{file}")
        tracker.end("FINISHED")
        for warning in tracker.warnings:
            log.warning("%s: %s", model, warning)
        return Outcome({}, 1, 1)

    written = run.compute(name, version, make, keys={"model": model})
    report = run.account(name)
    report.written = written
    if report.numbers["rows"]:
        report.texts |= {file: run.platform.objects.url_of(f"{key}/{file}") for file in (HTML, CARD)}
    else:
        report.texts["decision"] = f"no picture in subset {SHOWN_SUBSET}: nothing to report"
    return report


def report_data(run: Run, model: str) -> "ReportData | None":
    """What the report and the card are written from; None where no test picture has a label of the model's."""
    from gbif_platform.evaluation.evaluate import Metric
    from gbif_platform.evaluation.report import ReportData

    found, row = kept_evaluation(run, model), model_row(run, model)
    if found is None:
        return None
    description, decided = bundle_description(run, model), decision(run, model)
    given = credit(run)
    compared = SimpleNamespace(promote=decided["promoted"], reason=decided["reason"], table=decided["comparison"])
    return ReportData(
        title=f"{run.dataset.name} {model}",
        dataset=run.dataset.name,
        snapshot=run.snapshot,
        summary=[Metric(**metric) for metric in found["summary"]],
        confusion=found["confusion"],
        **{name: found[name] for name in TABLES},
        unevaluated=found["unevaluated"],
        open_set=found["open_set"],
        temperature=found["numbers"]["temperature"],
        history=pl.read_json(row["history"].encode()).to_dicts(),
        mistakes=_mistakes(run, model),
        comparison=compared if len(decided["comparison"]) else None,
        card=_card(description, row),
        doi=find_snapshot(run.platform, run.dataset, run.snapshot).doi,
        citations=[*given.citations, *given.dataset_citations],
        licences=description["provenance"]["licences"],
        subset=SHOWN_SUBSET,
        groups=int(found["numbers"]["groups"]),
    )


def _card(description: dict[str, Any], row: dict[str, Any]) -> dict[str, object]:
    spec = description["spec"]
    said = ("backbone", "pretrained", "loss", "sampler", "output", "image_size", "batch_size", "learning_rate", "seed")
    return {
        **{name: spec[name] for name in said if spec.get(name) is not None},
        "labels": len(description["labels"]),
        "training pictures": sum(description["class_counts"]),
        "epochs": row["epochs"],
        "training seconds": round(row["seconds"]),
        "started from": row["start"] or "random or pretrained weights",
        "split": row["split_version"],
        "lake version": row["lake_version"],
        "MLflow run": row["run_id"] or "",
    }


def _mistakes(run: Run, model: str) -> list["Mistake"]:
    """The wrong answers that the model was surest of, with their pictures."""
    from gbif_platform.evaluation.report import Mistake

    with run.reader() as con:
        rows = run.rows(con, "predictions").filter(f"model = '{model}' AND subset = '{SHOWN_SUBSET}'")  # noqa: F841
        media = run.rows(con, "media_urls", 'media_id, url_id, url, creator, rights_holder, license, "references"')  # noqa: F841
        stored = f"transform = '{run.dataset.images.key}' AND status = 'ok'"
        images = con.sql(f"SELECT * EXCLUDE (url) FROM lake.images WHERE {stored}")  # noqa: F841
        wrong = con.sql(
            "SELECT media_id, label, predicted, score, coalesce(creator, rights_holder, '') AS credit, license, "
            'coalesce("references", url) AS url, shard, shard_offset, shard_size '
            "FROM rows JOIN media USING (media_id) JOIN images USING (url_id) WHERE predicted <> label "
            f"ORDER BY score DESC, media_id LIMIT {MISTAKES}"
        ).pl()
    return [
        Mistake(
            row["media_id"],
            run.platform.objects.get_range(row["shard"], row["shard_offset"], row["shard_size"]),
            row["label"],
            row["predicted"],
            row["score"],
            row["credit"],
            row["license"],
            row["url"],
        )
        for row in wrong.iter_rows(named=True)
    ]
