"""Exports as Hugging Face `datasets` loads them from their folder, without a network."""

import socket
from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest
import yaml

from gbif_platform_tests.exports.small_export import CLASSES, colour, written


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it asks the network")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "frogs"
    written("huggingface", folder)
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_labels_splits_and_catalogue(folder: Path, tmp_path: Path, streaming: bool) -> None:
    export = written("huggingface", tmp_path / "frogs")
    loaded = datasets.load_dataset(str(folder), streaming=streaming)
    assert set(loaded) == {"train", "test"}
    columns = ["media_id", "creator", "license", "nested", "decimal_longitude", "sha256"]
    for split, found in loaded.items():
        assert found.features["label"].names == CLASSES
        for row, there in zip(found, export.rows.filter(subset=split).to_dicts(), strict=True):
            assert row["image"].size == (there["width"], 16)
            assert row["image"].convert("RGB").getpixel((3, 3)) == colour(int(there["media_id"][1:]))
            assert found.features["label"].int2str(row["label"]) == row["label_name"] == there["label"]
            assert [row[name] for name in columns] == [there[name] for name in columns]


def test_the_files_alone_say_what_they_hold(folder: Path) -> None:
    """Without the card: the features are in the schema of each file."""
    file = next(folder.glob("data/test/*.parquet"))
    loaded = datasets.load_dataset("parquet", data_files=str(file), split="train")
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.features["label"].names == CLASSES
    assert loaded[0]["image"].size == (24, 16)


def test_card_and_files_agree_on_the_features(folder: Path) -> None:
    said = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["dataset_info"]["features"]
    schema = pq.read_schema(next(folder.glob("data/test/*.parquet")))
    assert datasets.Features._from_yaml_list(said) == datasets.Features.from_arrow_schema(schema)
    assert datasets.Features._from_yaml_list(said).arrow_schema.types == schema.types


@pytest.mark.parametrize("kind", ["imagefolder", "tf-data"])
def test_folders_load_too(kind: str, tmp_path: Path) -> None:
    written(kind, tmp_path / "frogs")
    loaded = datasets.load_dataset(str(tmp_path / "frogs"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 8, "test": 4}
    assert loaded["train"].features["label"].names == CLASSES
    for row in loaded["test"]:
        index = row["image"].size[0] - 20
        assert loaded["test"].features["label"].int2str(row["label"]) == CLASSES[index % 3]


def test_webdataset_shards_load_too(tmp_path: Path) -> None:
    export = written("webdataset", tmp_path / "frogs")
    loaded = datasets.load_dataset(str(tmp_path / "frogs"))
    labels = dict(export.rows.select("media_id", "label").rows())
    found = {row["__key__"]: (row["png"].size, CLASSES[row["cls"]]) for split in loaded.values() for row in split}
    assert {name: len(split) for name, split in loaded.items()} == {"train": 8, "test": 4}
    assert found == {name: ((20 + int(name[1:]), 16), label) for name, label in labels.items()}
