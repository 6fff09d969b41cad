"""The card of a model, README.md beside its weights: what it is for, what it is worth, whose pictures it is made of.

Markdown with the header of Hugging Face (https://huggingface.co/docs/hub/model-cards), which other readers pass over.
"""

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import polars as pl
import yaml

from gbif_platform.evaluation.report_data import Metric, ReportData
from gbif_platform.evaluation.wording import interval, wording, written
from gbif_platform.exports.card import plain
from gbif_platform.exports.huggingface import hub_licences
from gbif_platform.gbif.citations import licence_of_the_whole
from gbif_platform.gbif.licences import RESTRICTIONS, UNKNOWN, from_spdx, page_of
from gbif_platform.plots.figure import counted, exact

LABELS_SHOWN = 50
"""Labels without test data that the card names; the report names all."""
INTENDED_USE = (
    "Suggests a label for a photograph of the kind that it was trained on, to a person who can judge it, or to a "
    "process that looks at the confidence and leaves unsure pictures to a person.",
    "Not meant for decisions without a person where a mistake does harm: eating or treating what was found, law, "
    "quarantine; nor for counting individuals or estimating abundances.",
)
LIMITS = (
    "It knows no labels but its own: a picture of anything else gets one of them, at times with much confidence.",
    "The pictures show what people chose to photograph and to publish: common, large and showy species, populated "
    "regions, daylight. Elsewhere it is worth less than the figures above.",
    "Labels are identifications by the records' publishers; some are wrong, in training as in the test.",
    "How frequent a label is in training is part of the answer; where other frequencies hold, the prior is to be set.",
)
HUB_METRICS = {"top1": "accuracy", "f1_macro": "f1"}
"""Our names of metrics that the Hub knows, and its."""


def model_card(
    data: ReportData,
    *,
    licence: str | None = None,
    intended_use: Sequence[str] = INTENDED_USE,
    limits: Sequence[str] = LIMITS,
    base_model: str = "",
) -> str:
    """README.md of a model.

    Args:
        data: what the report is written from; `licences` counts the training pictures.
        licence: SPDX id under which the weights are given; None = the strictest of the pictures', as a cautious guess.
        intended_use: one text a paragraph.
        limits: one text each.
        base_model: the Hub's name of the pretrained weights, such as timm/resnet18.a1_in1k.
    """
    whole = licence or _licence_of(data)
    front = yaml.safe_dump(_header(data, whole, base_model), sort_keys=False, allow_unicode=True, width=120)
    parts = [
        f"# {plain(data.title)}",
        _about(data),
        _section("Intended use", ["\n\n".join(intended_use)]),
        _section("What it is worth", _worth(data)),
        _section("Limits", [f"- {limit}" for limit in limits]),
        *([_section("Labels without test data", _unevaluated(data))] if data.unevaluated else []),
        _section("Licences", _licences(data, whole, given=licence is not None)),
        _section("How to cite", _citations(data)),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _header(data: ReportData, licence: str, base_model: str) -> dict[str, Any]:
    found: dict[str, Any] = {"license": hub_licences([licence])[0]}
    if found["license"] in ("other", UNKNOWN):
        # The Hub wants a name for what it does not know.
        found |= {"license": "other", "license_name": licence.lower().replace(" ", "-")}
    found |= {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["biology", "biodiversity", "species", *(["GBIF"] if data.doi else [])],
        "datasets": [_link(data.doi)] if data.doi else [_one_line(data.dataset)],
        **({"base_model": base_model} if base_model else {}),
        "metrics": sorted(set(HUB_METRICS.values())),
        "model-index": [{"name": _one_line(data.title), "results": [_result(data)]}],
    }
    return found


def _result(data: ReportData) -> dict[str, Any]:
    """The Hub's form of an evaluation."""
    name = _one_line(data.dataset)
    dataset = {"type": name, "name": name, "split": data.subset, "revision": data.doi or data.snapshot}
    return {
        "task": {"type": "image-classification"},
        "dataset": dataset,
        "metrics": [_hub_metric(metric) for metric in data.summary if math.isfinite(metric.value)],
    }


def _hub_metric(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": HUB_METRICS.get(metric.name, metric.name),
        "name": wording(metric.name).title,
        "value": round(float(metric.value), 5),
    }
    if metric.low is not None and metric.high is not None:
        found["args"] = {"confidence_interval_95": [round(float(metric.low), 5), round(float(metric.high), 5)]}
    return found


def _about(data: ReportData) -> str:
    classes = pl.DataFrame(data.classes)
    source = (
        f", snapshot [doi:{plain(data.doi)}]({_link(data.doi)})" if data.doi else f", snapshot {plain(data.snapshot)}"
    )
    lines = [
        f"Tells {counted(len(classes), 'label', 'labels')} apart on photographs. Trained with gbif-platform on "
        f"{counted(float(classes['train_pictures'].sum()), 'picture', 'pictures')} of the dataset "
        f"{plain(data.dataset)}{source}.",
    ]
    if data.card:
        rows = [(plain(name.replace("_", " ")), plain(str(value))) for name, value in data.card.items()]
        lines += ["", *_table(["property", "value"], rows, numbers=False)]
    return "\n".join(lines)


def _worth(data: ReportData) -> list[str]:
    classes = pl.DataFrame(data.classes)
    groups = f" in {counted(data.groups, 'independent group', 'independent groups')}" if data.groups else ""
    rows = []
    for metric in data.summary:
        words = wording(metric.name)
        numbers = (metric.value, metric.baseline, metric.centroid)
        value, baseline, centroid = (written(number, share=words.share) for number in numbers)
        rows.append(
            (plain(words.title), value, interval(metric.low, metric.high, share=words.share), baseline, centroid)
        )
    columns = ["metric", "value", "95 % interval", "training counts alone", "nearest centroid"]
    lines = [
        f"On {counted(data.pictures, 'picture', 'pictures')}{groups} of {plain(data.subset)}, of "
        f"{exact(int((classes['support'] > 0).sum()))} of its {counted(len(classes), 'label', 'labels')}. Neither "
        "it nor a model that it was started from was trained or chosen on them:",
        "",
        *_table(columns, rows),
    ]
    meanings = [
        f"- {words.title}: {words.meaning}" for metric in data.summary if (words := wording(metric.name)).meaning
    ]
    lines += ["", *meanings]
    if data.temperature is not None:
        lines += ["", f"Divide the logits by {written(data.temperature, share=False)} for calibrated probabilities."]
    if data.comparison is not None:
        lines += ["", f"Beside the champion before it: {plain(data.comparison.reason)}"]
    return lines


def _unevaluated(data: ReportData) -> list[str]:
    shown = ", ".join(plain(label) for label in data.unevaluated[:LABELS_SHOWN])
    more = len(data.unevaluated) - LABELS_SHOWN
    rest = f", and {exact(more)} more, which the report names" if more > 0 else ""
    number = counted(len(data.unevaluated), "label has", "labels have")
    return [f"{number} no picture in {plain(data.subset)}; nothing is known of how well they are told: {shown}{rest}."]


def _licences(data: ReportData, whole: str, *, given: bool) -> list[str]:
    if given:
        said = f"The weights are given under **{plain(whole)}**."
    elif whole == UNKNOWN:
        said = "Of some pictures no licence is known, so none is stated for the weights; who publishes them chooses it."
    else:
        said = (
            f"The strictest licence of the pictures is **{plain(whole)}**. Whether it reaches the weights is not "
            "settled in law; who publishes them chooses their licence."
        )
    rows = [(_linked(spdx), exact(count)) for spdx, count in sorted(data.licences.items(), key=lambda item: -item[1])]
    table = ["", "The pictures that it was trained on:", "", *_table(["licence", "pictures"], rows)] if rows else []
    return [said, *table]


def _citations(data: ReportData) -> list[str]:
    return [f"- {plain(text)}" for text in data.citations] or ["This snapshot has no DOI; cite its datasets."]


def _licence_of(data: ReportData) -> str:
    """The strictest of the training pictures' licences."""
    if not data.licences:
        return UNKNOWN
    rows = [
        {"license": spdx, "pictures": count} | {name: getattr(from_spdx(spdx), name) for name in RESTRICTIONS}
        for spdx, count in data.licences.items()
    ]
    return licence_of_the_whole(pl.DataFrame(rows)) or UNKNOWN


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    side = "---:" if numbers else "---"
    lines = [columns, ["---", *[side] * (len(columns) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _linked(spdx: str) -> str:
    page = page_of(spdx)
    return f"[{spdx}]({page})" if page and not from_spdx(spdx).unknown else plain(spdx)


def _link(doi: str) -> str:
    return f"https://doi.org/{quote(doi)}"


def _one_line(text: str) -> str:
    # A line of dashes in a name would end the header for readers that do not read YAML.
    return " ".join(text.split())
