"""A folder of pictures as a source: labels by folder, what a table adds, what is put aside, and the way through."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from gbif_platform.dataset import Dataset, ImageFolder
from gbif_platform.images.local_urls import place_of, url_of
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.image_folder import ImageFolderError, write_list
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps import balanced_samples, downloaded_images, media_urls, occurrences, taxa
from gbif_platform.steps.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for number, place in enumerate(("Rana temporaria/1.jpg", "Rana temporaria/ü 2#?.png", "Bufo bufo/deep/3.jpg")):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + number, 30), (number * 40, 90, 20)).save(path)
    (root / "Bufo bufo" / "notes.txt").write_text("no picture")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "1.jpg").write_bytes(b"hidden")
    return root


def listed(folder: Path, work: Path, **source: str) -> pl.DataFrame:
    write_list(ImageFolder(path=str(folder), **source), work / "list.parquet")
    return pl.read_parquet(work / "list.parquet")


def test_a_picture_is_labelled_by_the_folder_that_it_lies_in(folder: Path, tmp_path: Path) -> None:
    rows = listed(folder, tmp_path).sort("file").select("file", "label").rows()
    assert rows == [
        ("Bufo bufo/deep/3.jpg", "deep"),
        ("Rana temporaria/1.jpg", "Rana temporaria"),
        ("Rana temporaria/ü 2#?.png", "Rana temporaria"),
    ]


def test_a_table_says_more_and_what_it_names_in_vain_is_put_aside(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(
        "filename,label,license,url\n"
        "Bufo bufo/deep/3.jpg,Bufo bufo,CC0,https://example.org/page\n"
        "gone.jpg,Bufo bufo,CC0,\n"
    )
    rows = listed(folder, tmp_path, table=str(table))
    assert dict(rows.filter(pl.col("file").is_not_null()).select("file", "label").rows()) == {
        "Bufo bufo/deep/3.jpg": "Bufo bufo",
        "Rana temporaria/1.jpg": "Rana temporaria",
        "Rana temporaria/ü 2#?.png": "Rana temporaria",
    }
    assert rows.filter(pl.col("license") == "CC0")["url_of_table"].to_list() == ["https://example.org/page"]
    assert rows.filter(pl.col("refused").is_not_null()).select("row_ref", "refused").rows() == [
        ("labels.csv:3", "no_such_file")
    ]


def test_the_same_pictures_are_the_same_list_and_others_are_not(folder: Path, tmp_path: Path) -> None:
    source, file = ImageFolder(path=str(folder)), tmp_path / "list.parquet"
    first = write_list(source, file)
    (folder / "Bufo bufo" / "notes.txt").write_text("other notes")
    assert write_list(source, file) == first
    Image.new("RGB", (50, 50)).save(folder / "Rana temporaria" / "1.jpg")
    assert write_list(source, file) != first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder, source: source | {"path": f"{folder}/none"}, "there is no folder"),
        (lambda folder, source: source | {"path": _emptied(folder)}, "holds no picture"),
        (lambda folder, source: source | {"table": _table(folder)}, "has no column of files; it has: row_ref, what"),
    ],
)
def test_what_cannot_be_used_is_named(
    folder: Path, tmp_path: Path, change: Callable[[Path, dict[str, str]], dict[str, str]], says: str
) -> None:
    with pytest.raises(ImageFolderError, match=says):
        write_list(ImageFolder(**change(folder, {"path": str(folder)})), tmp_path / "list.parquet")


def _emptied(folder: Path) -> str:
    for file in folder.rglob("*.*g"):
        file.unlink()
    return str(folder)


def _table(folder: Path) -> str:
    (folder / "table.csv").write_text("what,license\nx,CC0\n")
    return str(folder / "table.csv")


@pytest.mark.parametrize("place", ["a.jpg", "a/b c.jpg", "ü/#?%.jpg", "x/..y.jpg"])
def test_a_place_is_found_again(place: str) -> None:
    assert place_of(url_of(place, "0" * 64)) == (Path(place), "0" * 64)


@pytest.mark.parametrize("quoted", ["../a.jpg", "a/%2e%2e/%2e%2e/b.jpg", "/etc/passwd", "%2Fetc/passwd", ""])
def test_no_url_leads_out_of_the_folder(quoted: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        place_of(f"http://image-folder.invalid/{'0' * 64}/{quoted}")


def test_pictures_are_stored_and_what_has_changed_since_is_not(folder: Path, tmp_path: Path) -> None:
    platform = Platform(Settings(home=tmp_path / "home"))
    dataset = Dataset.model_validate(
        {
            "name": "pictures",
            "source": {"image_folder": {"path": str(folder)}},
            "filters": {"licences": "any"},
            "sampling": {"policy": "all"},
        }
    )
    snapshot, new = add_snapshot(platform, dataset)
    assert new
    assert add_snapshot(platform, dataset) == (snapshot, False)
    Image.new("RGB", (50, 50)).save(folder / "Rana temporaria" / "1.jpg")
    run = Run(platform, dataset, snapshot)
    for step in (occurrences, media_urls, taxa, balanced_samples, downloaded_images):
        getattr(step, step.__name__.rpartition(".")[2])(run)
    found = platform.lake.frame("SELECT fetched_url, status, reason, source_width FROM images ORDER BY source_width")
    assert found.rows() == [
        (str(folder / "Rana temporaria" / "ü 2#?.png"), "ok", "", 41),
        (str(folder / "Bufo bufo" / "deep" / "3.jpg"), "ok", "", 42),
        (None, "failed", "file_changed", None),
    ]
    changed, new = add_snapshot(platform, dataset)
    assert new
    assert changed != snapshot
