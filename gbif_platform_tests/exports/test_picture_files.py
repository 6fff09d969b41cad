"""Folders of pictures, read by the libraries that they are for, and labels as names of folders."""

import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from gbif_platform.exports.folder_names import DEVICES, FORBIDDEN, folder_names
from gbif_platform.exports.formats import layout_of
from gbif_platform.exports.manifest import ExportError
from gbif_platform_tests.exports.stock import LABELS, Stock, contents, write

HARD = ("Puma/Jaguar", "..", "Puma_Jaguar", "con", "Carex sp.", "Ångström", "CON.txt", "a" * 300, "rosa", "Rosa")


@pytest.mark.parametrize("labels", [LABELS, HARD])
def test_torchvision_reads_the_pictures_with_the_classes_that_the_list_says(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    stock = Stock()
    rows = stock.rows(44, labels=labels)
    write(stock, rows, "imagefolder", tmp_path / "export")
    classes = pl.read_csv(tmp_path / "export" / "classes.csv")
    assert set(classes["label"]) == set(labels)
    label_of = dict(rows.select("media_id", "label").iter_rows())
    for subset in ("train", "validation"):
        dataset = ImageFolder(tmp_path / "export" / subset, allow_empty=True)
        assert dataset.classes == classes["folder"].to_list()
        assert len(dataset) == rows.filter(pl.col("subset") == subset).height
        for (path, index), (picture, same) in zip(dataset.samples, dataset, strict=True):
            assert classes["label"][index] == label_of[Path(path).stem]
            assert (same, picture.size) == (index, (24, 16))


def test_keras_reads_the_pictures_with_the_classes_that_the_list_says(tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    stock = Stock()
    rows = stock.rows(24, labels=HARD[:4])
    write(stock, rows, "tf-data", tmp_path / "export")
    classes = pl.read_csv(tmp_path / "export" / "classes.csv")["folder"].to_list()
    for subset in ("train", "validation"):
        dataset = tensorflow.keras.utils.image_dataset_from_directory(tmp_path / "export" / subset, image_size=(16, 24))
        assert dataset.class_names == classes
        assert sum(len(labels) for _, labels in dataset) == rows.filter(pl.col("subset") == subset).height


@pytest.mark.parametrize("kind", ["imagefolder", "tf-data"])
def test_every_subset_has_every_class_so_that_indices_agree(tmp_path: Path, kind: str) -> None:
    stock = Stock()
    rows = stock.rows(24).filter((pl.col("subset") == "train") | (pl.col("label") == LABELS[2]))
    write(stock, rows, kind, tmp_path / "export")
    for subset in ("train", "validation"):
        assert sorted(path.name for path in (tmp_path / "export" / subset).iterdir()) == list(LABELS)


def test_what_a_format_cannot_hold_is_said_before_anything_is_written(tmp_path: Path) -> None:
    stock = Stock()
    rows = stock.rows(4)
    with pytest.raises(ExportError, match="webp"):
        layout_of("tf-data").place(contents(rows, "tf-data", ".webp"), rows.clear())
    with pytest.raises(ExportError, match="4 pictures have no label"):
        write(stock, stock.rows(4, labels=[None]), "imagefolder", tmp_path / "export")
    with pytest.raises(ExportError, match="no format 'zip'"):
        layout_of("zip")


@given(st.lists(st.text(max_size=300), unique=True))
def test_folders_are_possible_everywhere_and_never_shared(labels: list[str]) -> None:
    names = folder_names(labels)
    assert set(names) == set(labels)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names.values()}) == len(labels)
    for name in names.values():
        assert not FORBIDDEN.search(name)
        assert not DEVICES.fullmatch(name)
        assert 0 < len(name.encode()) <= 255
        assert name == name.strip()
        assert name[0] != "."
        assert name[-1] != "."


def test_a_label_that_can_be_a_folder_is_one() -> None:
    plain = ["Bufo bufo", "Carex × boenninghausiana", "1234", "Pica pica (Linnaeus, 1758)", "東京", "café"]
    assert folder_names(plain) == {label: label for label in plain}
    assert folder_names(["Puma_Jaguar", "Puma/Jaguar"])["Puma_Jaguar"] == "Puma_Jaguar"
