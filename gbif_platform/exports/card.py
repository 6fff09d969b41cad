"""The card of an export, README.md: what it holds, how it was made, under which licences, and how to read it.

Plain Markdown that needs nothing beside it; the header is Hugging Face's, which other readers show or pass over.
"""

import re
from collections.abc import Sequence

import polars as pl
import yaml

from gbif_platform.exports.contents import ALL, Export
from gbif_platform.exports.huggingface import data_files, header, split_names
from gbif_platform.gbif.licences import UNKNOWN, page_of

CLASSES_SHOWN = 25
CLASS, TOTAL = "class name", "all pictures"
"""Columns of the table of classes; no subset can be called so."""
LIMITS = (
    "The pictures show what people chose to photograph and to publish: common, large, showy and near species, "
    "populated and wealthy regions, daylight and good seasons are over-represented. The counts are no abundances.",
    "Labels are identifications by the records' publishers, of the occurrence and not of each picture. Some are wrong; "
    "some pictures show a habitat, a trace, a label or another organism beside the one that is named.",
    "Coordinates may be rounded or moved by their publishers to protect a species or a person.",
    "Names of photographers are in it, because most licences ask for them. Some pictures may show people.",
)
"""What is true of every dataset of photographs from GBIF; also Croissant's data biases and limitations."""
LOADING = {
    "imagefolder": """from torchvision.datasets import ImageFolder

pictures = ImageFolder("{subset}", allow_empty=True)  # classes in the order of classes.csv""",
    "tf-data": """import tensorflow

pictures = tensorflow.keras.utils.image_dataset_from_directory("{subset}")  # classes in the order of classes.csv""",
    "webdataset": """from glob import glob

from webdataset import WebDataset

shards = sorted(glob("{glob}"))
pictures = WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("{suffix}", "cls", "json")""",
    "parquet": """import os

import polars
from datasets import load_dataset

pictures = load_dataset(os.getcwd())  # with streaming=True only what you take is read
table = polars.scan_parquet("{glob}")  # image.bytes is the picture's file""",
    "coco-camera-traps": """from pycocotools.coco import COCO

pictures = COCO("{name}.json")  # file_name is relative to this folder""",
}
LOADING["huggingface"] = LOADING["parquet"]


def dataset_card(export: Export) -> str:
    """README.md of an export.

    Args:
        export: with `file` in its rows.
    """
    front = yaml.safe_dump(header(export), sort_keys=False, allow_unicode=True, width=120)
    parts = [
        f"# {plain(export.name)}\n\n" + "\n\n".join(map(plain, about(export).split("\n\n"))),
        _contents(export),
        _making(export),
        _licences(export),
        _citations(export),
        *([_section("Known limits", [f"- {limit}" for limit in LIMITS])] if export.is_from_gbif else []),
        _section("How to read it", ["In this folder:", "", "```python", _loading(export), "```"]),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def class_counts(export: Export) -> pl.DataFrame:
    """`CLASS`, a column for each subset, `TOTAL`; most pictures first. Unlabelled pictures have a null class."""
    named = export.rows.select("label", pl.col("subset").fill_null(ALL))
    counts = named.group_by(pl.col("label").alias(CLASS)).agg(
        *((pl.col("subset") == subset).sum().alias(subset) for subset in sorted(named["subset"].unique())),
        pl.len().alias(TOTAL),
    )
    return counts.sort(TOTAL, CLASS, descending=[True, False])


def about(export: Export) -> str:
    """What an export is, in a few lines of text."""
    lines = [
        *([" ".join(export.description.split())] if export.description else []),
        f"{len(export.rows):,} photographs of {len(export.classes):,} classes, labelled by {export.label}. "
        f"Dataset {export.name}, snapshot {export.snapshot}, version {export.version} of this export.",
    ]
    return "\n\n".join(lines)


def _contents(export: Export) -> str:
    counts = class_counts(export)
    whole = counts.select(pl.lit("all").alias(CLASS), pl.exclude(CLASS).sum())
    shown = pl.concat([whole, counts[:CLASSES_SHOWN].with_columns(pl.col(CLASS).fill_null("(no label)"))])
    lines = _table(shown.columns, [(plain(name), *numbers) for name, *numbers in shown.iter_rows()])
    if len(counts) > CLASSES_SHOWN:
        lines += ["", f"{len(counts) - CLASSES_SHOWN:,} more classes are in the catalogue."]
    renamed = [f"`{old}` is `{new}`" for old, new in split_names(data_files(export)).items() if old != new]
    if renamed:
        lines += ["", f"Names of splits at Hugging Face: {', '.join(renamed)}."]
    return _section("What is in it", lines)


def _making(export: Export) -> str:
    dumped = yaml.safe_dump(dict(export.recipe), sort_keys=False, allow_unicode=True, width=100).strip()
    stored = sorted(export.rows["transform"].drop_nulls().unique())
    lines = [
        "gbif-platform chose the pictures from the records and media of the snapshot, fetched them from their "
        "publishers and divided them into subsets. The words below are those of its dataset file; all choices are "
        "seeded.",
        *("", f"The pictures are stored as `{'`, `'.join(stored)}`: 8-bit sRGB, upright, without metadata."),
        *("", "```yaml", dumped, "```"),
    ]
    return _section("How it was made", lines)


def _licences(export: Export) -> str:
    rows = [(_linked(spdx), count) for spdx, count in export.licences.select("license", "pictures").iter_rows()]
    lines = [
        "Each picture has its own licence, creator and source in the catalogue. "
        f"The whole: **{export.licence or UNKNOWN}**.",
        *("", *_table(["licence", "pictures"], rows), ""),
        "Most licences ask you to name the creator, the source and the licence wherever you show a picture: columns "
        "`creator`, `rights_holder`, `publisher`, `url` and `license`. `unknown` means that no licence could be read "
        "from what the publisher wrote; it is not a permission.",
    ]
    return _section("Licences and attribution", lines)


def _citations(export: Export) -> str:
    lines = [f"- {plain(line)}" for line in export.citations] or ["This snapshot has no DOI; cite its datasets."]
    if export.dataset_citations:
        lines += ["", f"Datasets that records come from: {len(export.dataset_citations):,}; CITATION.txt names them."]
    return _section("How to cite", lines)


def _loading(export: Export) -> str:
    subset = "train" if "train" in export.subsets else (export.subsets or [ALL])[0]
    glob = data_files(export).get(subset, "")
    return LOADING[export.format].format(subset=subset, glob=glob, suffix=export.suffix[1:], name=export.name)


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines])


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Texts are Markdown; numbers stand to the right, with commas."""
    lines = [columns, ["---" if place == 0 else "---:" for place in range(len(columns))]]
    lines += [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _linked(spdx: str) -> str:
    page = page_of(spdx)
    return f"[{spdx}]({page})" if page else spdx


def plain(text: str) -> str:
    """Text from outside on one line of Markdown, with nothing in it that Markdown or HTML would act upon."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")
