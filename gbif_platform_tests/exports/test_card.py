"""The card of an export: a header that Hugging Face reads, and a body that says what is true and nothing that acts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.exports.card import CLASSES_SHOWN, dataset_card, plain
from gbif_platform.exports.contents import Export
from gbif_platform.exports.huggingface import hub_licences, size_category, split_names
from gbif_platform_tests.exports.small_export import CITATION, CLASSES, FORMATS, pictures, small_export, written


@pytest.fixture(params=FORMATS)
def export(request: pytest.FixtureRequest) -> Export:
    return small_export(request.param, pictures()[0])


def test_the_header_is_what_the_hub_reads(export: Export) -> None:
    said = DatasetCard(dataset_card(export)).data.to_dict()
    assert said["license"] == ["cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "unknown"]
    assert said["task_categories"] == ["image-classification"]
    assert (said["pretty_name"], said["size_categories"]) == ("frogs", ["n<1K"])


def test_splits_are_the_subsets_wherever_datasets_can_read_them(export: Export) -> None:
    said = DatasetCard(dataset_card(export)).data.to_dict()
    if export.format == "coco-camera-traps":
        assert "configs" not in said
    else:
        assert [files["split"] for files in said["configs"][0]["data_files"]] == ["test", "train"]


def test_the_body_has_all_that_a_reader_needs(export: Export) -> None:
    card = dataset_card(export)
    assert "| all | 4 | 8 | 12 |" in card
    assert "| Rana temporaria | 2 | 2 | 4 |" in card
    assert "| [CC-BY-NC-4.0](https://spdx.org/licenses/CC-BY-NC-4.0) | 3 |" in card
    assert CITATION.replace("_", r"\_") in card
    assert "seed: 17" in card
    assert "keep_ratio-256-png" in card
    assert "Known limits" in card


@pytest.mark.parametrize("kind", FORMATS)
def test_its_code_reads_the_export(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "tf-data":
        pytest.importorskip("tensorflow")
    written(kind, tmp_path / "frogs")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path / "frogs")
    code = (tmp_path / "frogs/README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code, found)
    if kind == "coco-camera-traps":
        assert len(found["pictures"].imgs) == 12
    elif kind in ("parquet", "huggingface"):
        assert (len(found["pictures"]["train"]), len(found["table"].collect())) == (8, 8)
    else:
        assert len(list(found["pictures"])) == 8


def test_many_classes_are_cut_and_the_rest_is_counted() -> None:
    export = small_export("imagefolder", pictures(CLASSES_SHOWN + 5)[0])
    rows = export.rows.with_columns(label=pl.col("media_id"))
    card = dataset_card(replace(export, rows=rows, classes=rows["label"].to_list()))
    assert "5 more classes" in card
    assert sum(line.startswith("| m00") for line in card.splitlines()) == CLASSES_SHOWN


def test_pictures_without_label_or_subset_are_told_of() -> None:
    rows = pictures()[0].with_columns(subset=pl.lit(None, pl.String), label=pl.col("label").replace("Bufo bufo", None))
    card = dataset_card(small_export("webdataset", rows))
    assert "| (no label) | 4 | 4 |" in card
    assert "`all` is `all_`" in card  # a split of Hugging Face cannot be called so


def test_a_subset_may_be_called_as_a_column_of_the_table() -> None:
    rows = pictures()[0].with_columns(subset=pl.lit("pictures"))
    assert "| pictures |" in dataset_card(small_export("imagefolder", rows))


def test_nothing_to_cite_is_said() -> None:
    export = replace(small_export("parquet", pictures()[0]), citations=[], dataset_citations=[])
    assert "cite its datasets" in dataset_card(export)


@given(st.text())
def test_texts_from_outside_do_nothing(text: str) -> None:
    said = plain(text)
    assert "\n" not in said
    assert "<" not in said
    assert not any(said[at] == "|" and said[at - 1 : at] != "\\" for at in range(len(said)))


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_descriptions_cannot_end_the_header(description: str) -> None:
    export = replace(small_export("huggingface", pictures(1)[0]), description=description + "\n---\n# Owned")
    head, body = dataset_card(export)[4:].split("\n---\n", 1)
    assert yaml.safe_load(head)["pretty_name"] == "frogs"
    assert "\n# Owned" not in body


@given(st.lists(st.text(min_size=1), unique=True))
def test_splits_have_names_of_their_own(subsets: list[str]) -> None:
    names = split_names(subsets)
    assert len(set(names.values())) == len(subsets)
    assert all(name.replace("_", "a").isalnum() and name != "all" for name in names.values())
    assert split_names(["train", "validation"]) == {"train": "train", "validation": "validation"}


def test_licences_are_spelt_as_at_the_hub() -> None:
    assert hub_licences(["CC-BY-SA-2.0", "CC0-1.0", "ODbL-1.0", "OGL-UK-3.0"]) == ["cc0-1.0", "odbl", "other"]
    assert hub_licences(["unknown"]) == hub_licences([]) == ["unknown"]


@pytest.mark.parametrize(
    ("pictures", "said"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (2_000_000, "1M<n<10M"), (10**9, "n>1B")],
)
def test_sizes_are_the_hubs(pictures: int, said: str) -> None:
    assert size_category(pictures) == said


def test_class_names_of_any_kind_survive_the_header() -> None:
    classes = ["1", "no", 'Ångström\'s "frog": null', *CLASSES]
    export = replace(small_export("huggingface", pictures()[0]), classes=classes)
    labels = DatasetCard(dataset_card(export)).data.to_dict()["dataset_info"]["features"][1]["dtype"]["class_label"]
    assert labels["names"] == {str(index): name for index, name in enumerate(classes)}
