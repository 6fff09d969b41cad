"""COCO Camera Traps JSON: read back by pycocotools, and sound by MegaDetector's rules for such files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO  # type: ignore[import-untyped]

from gbif_platform.exports.coco_camera_traps import write_coco_camera_traps
from gbif_platform.exports.contents import Export
from gbif_platform_tests.exports.small_export import CLASSES, LICENCES, pictures, small_export, written


@pytest.fixture
def export() -> Export:
    return small_export("coco-camera-traps", pictures()[0])


def read(export: Export, folder: Path) -> dict[str, Any]:
    write_coco_camera_traps(export, folder / "frogs.json")
    found: dict[str, Any] = json.loads((folder / "frogs.json").read_text(encoding="utf-8"))
    return found


def test_pycocotools_finds_pictures_by_class(tmp_path: Path) -> None:
    written("coco-camera-traps", tmp_path / "frogs")
    coco = COCO(str(tmp_path / "frogs/frogs.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["empty", *CLASSES]
    toads = coco.loadImgs(list(coco.getImgIds(catIds=coco.getCatIds(catNms=["Bufo bufo"]))))
    assert sorted(toad["id"] for toad in toads) == ["m0000", "m0003", "m0006", "m0009"]
    assert all((tmp_path / "frogs" / image["file_name"]).is_file() for image in coco.loadImgs(coco.getImgIds()))


def test_it_keeps_the_rules_of_the_integrity_check(export: Export, tmp_path: Path) -> None:
    """What MegaDetector's integrity_check_json_db.py asserts, but that every image has a location."""
    found = read(export, tmp_path)
    images, categories = found["images"], found["categories"]
    assert {"info", "images", "categories", "annotations"} <= set(found)
    assert {"version", "description"} <= set(found["info"])
    assert all(isinstance(one["id"], int) and isinstance(one["name"], str) for one in categories)
    assert categories[0] == {"id": 0, "name": "empty"}
    for part, key in ((categories, "id"), (categories, "name"), (images, "id"), (found["annotations"], "id")):
        assert len({one[key] for one in part}) == len(part)
    assert all(isinstance(image["id"], str) and "\\" not in image["file_name"] for image in images)
    assert all(("width" in image) == ("height" in image) for image in images)
    assert all(isinstance(image["location"], str) for image in images if "location" in image)
    assert not any({"sequence", "sequence_id"} & set(image) for image in images)
    for annotation in found["annotations"]:
        assert isinstance(annotation["id"], str)
        assert annotation["image_id"] in {image["id"] for image in images}
        assert annotation["category_id"] in {category["id"] for category in categories}


def test_images_tell_their_size_licence_source_time_and_place(export: Export, tmp_path: Path) -> None:
    found = read(export, tmp_path)
    images = {image["id"]: image for image in found["images"]}
    licences = {licence["id"]: licence for licence in found["licenses"]}
    for row in export.rows.iter_rows(named=True):
        image = images[row["media_id"]]
        assert (image["width"], image["height"], image["url"]) == (row["width"], 16, row["url"])
        assert licences[image["license"]]["name"] == row["license"]
        assert image["rights_holder"] == (row["creator"] or "The Museum")
    assert {licence["name"]: licence.get("url") for licence in licences.values()} == {
        spdx: None if spdx == "unknown" else f"https://spdx.org/licenses/{spdx}" for spdx in LICENCES
    }
    assert images["m0003"]["datetime"] == "2024-05-04 07:30:00"
    assert "datetime" not in images["m0002"]  # the record has a day alone
    assert images["m0002"]["event_date"] == "2024-05-03"
    assert images["m0002"]["location"] == "57.500000,9.250000"
    assert "location" not in images["m0001"]


def test_pictures_of_nothing_are_category_0(export: Export, tmp_path: Path) -> None:
    rows = export.rows.with_columns(pl.col("label").replace({"Rana temporaria": "Blank", "Bufo bufo": None}))
    found = read(replace(export, rows=rows, classes=["Blank", "Triturus cristatus"]), tmp_path)
    assert found["categories"] == [{"id": 0, "name": "empty"}, {"id": 1, "name": "Triturus cristatus"}]
    assert [one["category_id"] for one in found["annotations"]] == [0, 1] * 4
    assert len(found["images"]) == 12  # those without a label have no annotation


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures_make_whole_json(count: int, tmp_path: Path) -> None:
    found = read(small_export("coco-camera-traps", pictures()[0][:count]), tmp_path)
    assert (len(found["images"]), len(found["annotations"])) == (count, count)


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text(), st.none() | st.text())
def test_texts_from_outside_come_back_as_they_are(tmp_path_factory: Any, label: str, creator: str, when: str) -> None:
    export = small_export("coco-camera-traps", pictures(1)[0])
    rows = export.rows.with_columns(label=pl.lit(label), creator=pl.lit(creator), event_date=pl.lit(when, pl.String))
    found = read(replace(export, rows=rows, classes=[label]), tmp_path_factory.mktemp("coco"))
    assert found["images"][0]["rights_holder"] == (creator if creator.strip() else "The Museum")
    assert found["images"][0].get("event_date") == when
    assert found["annotations"][0]["category_id"] in (0, 1)
