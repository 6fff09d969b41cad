"""COCO Camera Traps JSON: images, categories, and one label for each image, without boxes.

Source: https://github.com/agentmorris/MegaDetector, `megadetector/data_management/README.md` (the format) and
`databases/integrity_check_json_db.py` (ids are text, category 0 is `empty`, width and height come together, a location
is text). Beyond it each image has COCO's `license` (an id in `licenses`), its address, its subset and GBIF's record.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from gbif_platform.exports.card import about
from gbif_platform.exports.contents import Export
from gbif_platform.gbif.citations import FALLBACK
from gbif_platform.gbif.licences import UNKNOWN, page_of

EMPTY = "empty"
NOTHING_THERE = {EMPTY, "blank", "none", "nothing", "no animal"}
"""How data sets call a picture without an animal; in small letters."""
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?")
AS_THEY_ARE = ("url", "gbif_id", "occurrence_id", "event_date", "subset")
"""Columns that are given on under their own names, where they are not null."""
TOLD = ("media_id", "file", "license", "width", "height", *FALLBACK, "decimal_latitude", "decimal_longitude")
"""The other columns that an image tells of."""

Json = dict[str, Any]
_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def write_coco_camera_traps(export: Export, path: Path) -> None:
    """Write the one JSON file of an export whose pictures are files of their own; an image, an annotation a line.

    `location` is the coordinates where there are any: GBIF's records name no camera, but those of one camera share
    them. `datetime` is there where the record has a time, in its own time zone. `seq_id` is never: the catalogue does
    not know which pictures are of one burst.

    Args:
        export: with `file` in its rows.
    """
    numbers = _category_ids(export.classes)
    licences = {spdx: number for number, spdx in enumerate(export.licences["license"], start=1)}
    with path.open("w", encoding="utf-8") as file:
        file.write('{\n"info": ' + _json(_info(export)))
        _write_list(file, "licenses", _licences(licences))
        _write_list(file, "categories", _categories(numbers))
        rows = export.rows.select(*TOLD, *AS_THEY_ARE).iter_rows(named=True)
        _write_list(file, "images", (_image(row, licences) for row in rows))
        _write_list(file, "annotations", _annotations(export, numbers))
        file.write("\n}\n")


def _info(export: Export) -> Json:
    return {
        "version": export.version,
        "description": about(export),
        "year": export.published.year,
        "date_created": export.published.isoformat(),
        "citation": export.citations,
    }


def _licences(numbers: dict[str, int]) -> Iterator[Json]:
    for spdx, number in numbers.items():
        page = page_of(spdx)
        yield {"id": number, "name": spdx} | ({"url": page} if page else {})


def _category_ids(classes: Iterable[str]) -> dict[str, int]:
    """0 for all that mean `empty`, and 1, 2, … for the others in their order."""
    animals = [name for name in classes if name.casefold() not in NOTHING_THERE]
    return dict.fromkeys(classes, 0) | {name: number for number, name in enumerate(animals, start=1)}


def _categories(numbers: dict[str, int]) -> list[Json]:
    animals = [{"id": number, "name": name} for name, number in numbers.items() if number]
    return [{"id": 0, "name": EMPTY}, *animals]


def _image(row: Json, licences: dict[str, int]) -> Json:
    image = {"id": row["media_id"], "file_name": row["file"], "license": licences[row["license"] or UNKNOWN]}
    if row["width"] and row["height"]:
        image |= {"width": row["width"], "height": row["height"]}
    if holder := next((row[name] for name in FALLBACK if (row[name] or "").strip()), None):
        image["rights_holder"] = holder
    if row["decimal_latitude"] is not None and row["decimal_longitude"] is not None:
        image["location"] = f"{row['decimal_latitude']:.6f},{row['decimal_longitude']:.6f}"
    if moment := MOMENT.fullmatch(row["event_date"] or ""):
        image["datetime"] = f"{moment[1]} {moment[2]}{moment[3] or ':00'}"
    return image | {name: row[name] for name in AS_THEY_ARE if row[name] is not None}


def _annotations(export: Export, numbers: dict[str, int]) -> Iterator[Json]:
    for media_id, label in export.rows.select("media_id", "label").iter_rows():
        if label in numbers:
            yield {"id": media_id, "image_id": media_id, "category_id": numbers[label]}


def _write_list(file: TextIO, name: str, items: Iterable[Json]) -> None:
    file.write(f',\n"{name}": [')
    for place, item in enumerate(items):
        file.write(("," if place else "") + "\n" + _json(item))
    file.write("\n]")
