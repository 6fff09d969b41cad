"""How an export looks to Hugging Face `datasets`: its features, its splits, and the header of its card.

Sources: `datasets` (`Features.to_dict` and `_to_yaml_list`, `naming._split_re`), and the Hub's documentation of
licences (https://huggingface.co/docs/hub/repositories-licenses) and of a card's `configs`
(https://huggingface.co/docs/hub/datasets-manual-configuration).
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from gbif_platform.exports.catalogue import TYPES
from gbif_platform.exports.contents import ALL, Export
from gbif_platform.gbif.licences import UNKNOWN

COLUMNS = {"label_name" if name == "label" else name: kind for name, kind in TYPES.items()} | {"sha256": "VARCHAR"}
"""What stands beside `image` and `label`, with its SQL type; `label_name` is the catalogue's `label`."""
DTYPES = {"VARCHAR": "string", "DOUBLE": "float64", "INTEGER": "int32"}
SPELT_OTHERWISE = {"CC-PDDC": "cc", "PDDL-1.0": "pddl", "ODC-By-1.0": "odc-by", "ODbL-1.0": "odbl", UNKNOWN: UNKNOWN}
"""The Hub's names of licences that are not just the SPDX id in small letters."""
CREATIVE_COMMONS = re.compile(
    r"cc0-1\.0|cc-by-(2\.0|2\.5|3\.0|4\.0|sa-3\.0|sa-4\.0|nd-4\.0|nc-[234]\.0|nc-nd-[34]\.0|nc-sa-[234]\.0)"
)
"""Those that the Hub knows."""


def features(classes: Sequence[str]) -> dict[str, Any]:
    """The columns of the Parquet files in the JSON form of `datasets.Features`."""
    image = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    return image | {name: _feature(kind) for name, kind in COLUMNS.items()}


def _feature(kind: str) -> dict[str, Any]:
    item = {"dtype": DTYPES[kind.removesuffix("[]")], "_type": "Value"}
    # "Sequence" is what datasets 4 and later call List; they read both, older ones this alone.
    return {"feature": item, "_type": "Sequence"} if kind.endswith("[]") else item


def schema_metadata(classes: Sequence[str]) -> dict[str, str]:
    """What `datasets` reads from the schema of a Parquet file to know pictures and class names."""
    return {"huggingface": json.dumps({"info": {"features": features(classes)}}, ensure_ascii=False)}


def split_names(subsets: Iterable[str]) -> dict[str, str]:
    r"""Hugging Face's name of each subset: letters, digits and `_` only, and not `all`, which means every split."""
    names: dict[str, str] = {}
    for subset in subsets:
        name = re.sub(r"\W", "_", subset)
        while name == "all" or name in names.values():
            name += "_"
        names[subset] = name
    return names


def header(export: Export) -> dict[str, Any]:
    """The YAML header of a dataset card, as a dict.

    Args:
        export: with `file` in its rows.
    """
    found: dict[str, Any] = {
        "license": hub_licences(export.licences["license"]),
        "task_categories": ["image-classification"],
        "pretty_name": export.name,
        "tags": ["biology", "biodiversity", "species", *(["GBIF"] if export.is_from_gbif else [])],
        "size_categories": [size_category(len(export.rows))],
    }
    globs = data_files(export)
    if not globs:
        return found
    splits = split_names(globs)
    files = [{"split": splits[subset], "path": glob} for subset, glob in globs.items()]
    found["configs"] = [{"config_name": "default", "data_files": files}]
    if export.format in ("parquet", "huggingface"):
        found["dataset_info"] = {"features": _features_in_yaml(export.classes)}
    return found


def data_files(export: Export) -> dict[str, str]:
    """For each subset a glob of its files, as `data/train/frogs-train-*.parquet`, in the formats that `datasets` reads.

    Args:
        export: with `file` in its rows.
    """
    if export.format == "coco-camera-traps":
        return {}
    subset, file = pl.col("subset").fill_null(ALL), pl.col("file")
    in_folders = pl.concat_str(subset, pl.lit("/**"))
    numbered = file.str.replace(r"\d+(\.\w+)$", "*$1")
    glob = pl.when(file.str.ends_with(export.suffix)).then(in_folders).otherwise(numbered)
    return dict(export.rows.select(subset, glob.alias("glob")).drop_nulls().unique().sort("subset").rows())


def _features_in_yaml(classes: Sequence[str]) -> list[dict[str, Any]]:
    labels = {"class_label": {"names": {str(index): name for index, name in enumerate(classes)}}}
    columns = [
        {"name": name, "sequence" if kind.endswith("[]") else "dtype": DTYPES[kind.removesuffix("[]")]}
        for name, kind in COLUMNS.items()
    ]
    return [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": labels}, *columns]


def hub_licences(licences: Iterable[str]) -> list[str]:
    """The Hub's identifiers of SPDX ids, sorted; `other` for those that it lacks."""
    spelt = {SPELT_OTHERWISE.get(spdx, spdx.lower()) for spdx in licences}
    known = {name for name in spelt if name in SPELT_OTHERWISE.values() or CREATIVE_COMMONS.fullmatch(name)}
    return sorted(known | ({"other"} if spelt - known else set())) or [UNKNOWN]


def size_category(pictures: int) -> str:
    """One of the Hub's `size_categories`, such as `1K<n<10K`."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
    above = [index for index in range(len(bounds)) if pictures >= 1_000 * 10**index]
    if not above:
        return "n<1K"
    last = above[-1]
    return "n>1B" if last == len(bounds) - 1 else f"{bounds[last]}<n<{bounds[last + 1]}"
