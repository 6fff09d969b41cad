import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from gbif_platform.images.transform import ImageRefused, Transform, transform_image
from gbif_platform.serving.pictures import FilePictures, PicturesError, find_files, transform_of
from gbif_platform.sources.list_files import ListUnreadable
from gbif_platform.training.bundle import Bundle
from gbif_platform.training.decode import decode_rgb
from gbif_platform_tests.serving.conftest import encoded, scene
from gbif_platform_tests.training.bundles import rewritten

Write = Callable[..., Path]


def pixels(path: Path, bundle: Bundle) -> np.ndarray:
    return decode_rgb(FilePictures([("", path)], transform_of(bundle)).load(0)).numpy().astype(int)


def test_folders_are_searched_in_order_and_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.webp", "a.png", "notes.txt", ".hidden.jpg", ".cache/x.jpg", "c/deep/er/z.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path, tmp_path / "notes.txt"])
    names = [path.relative_to(tmp_path).as_posix() for _, path in found.files]
    assert names == ["a.png", "b/1.webp", "b/2.JPG", "c/deep/er/z.tif", "notes.txt"], "a file that is named is tried"
    assert found.aside == 1


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_table_names_pictures_beside_it_and_its_empty_rows_are_problems(tmp_path: Path, ending: str) -> None:
    table = tmp_path / f"list.{ending}"
    frame = pl.DataFrame({"species": ["a", "b", "c"], "file_name": ["x/1.jpg", "", "/far/2.jpg"]})
    match ending:
        case "csv":
            frame.write_csv(table)
        case "tsv":
            frame.write_csv(table, separator="\t", quote_style="never")
        case "parquet":
            frame.write_parquet(table)
    found = find_files([table])
    assert found.files == [("x/1.jpg", tmp_path / "x/1.jpg"), ("/far/2.jpg", Path("/far/2.jpg"))]
    assert [problem.reason for problem in found.problems] == ["no_such_file"]
    assert table.name in found.problems[0].name


def test_paths_that_lead_nowhere_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="nowhere"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(PicturesError, match="there is no file") as raised:
        find_files([Path("https://example.org/frog.jpg")])
    assert "source: urls" in raised.value.next_step
    with pytest.raises(PicturesError, match="no picture"):
        find_files([tmp_path])
    (tmp_path / "list.csv").write_text("species,colour\na,b\n")
    with pytest.raises(PicturesError, match="species, colour"):
        find_files([tmp_path / "list.csv"])
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ListUnreadable):
        find_files([tmp_path / "list.parquet"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_exif_says(bundle: Bundle, write: Write, orientation: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that a reader undoes
    stored = scene() if orientation == 1 else scene().transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(f"{orientation}.jpg", stored, "JPEG", quality=95, exif=exif)
    plain = pixels(write("plain.jpg", scene(), "JPEG", quality=95), bundle)
    turned = pixels(path, bundle)
    assert turned.shape == plain.shape
    assert np.abs(turned - plain).mean() < 4


@pytest.mark.parametrize("form", ["grey", "grey 16 bit", "alpha", "palette", "cmyk", "gif", "webp", "tiff", "bilevel"])
def test_pictures_of_every_kind_become_three_channels(bundle: Bundle, write: Write, form: str) -> None:
    match form:
        case "grey":
            path = write("a.jpg", scene().convert("L"), "JPEG")
        case "grey 16 bit":
            path = write("a.png", Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257))
        case "alpha":
            path = write("a.png", scene().convert("RGBA"))
        case "palette":
            path = write("a.png", scene().quantize(64))
        case "cmyk":
            path = write("a.jpg", scene().convert("CMYK"), "JPEG")
        case "gif":
            path = write("a.gif", scene(), "GIF", save_all=True, append_images=[scene().rotate(180)])
        case "webp":
            path = write("a.webp", scene(), "WEBP")
        case "tiff":
            path = write("a.tif", scene(), "TIFF")
        case "bilevel":
            path = write("a.png", scene().convert("1"))
    found = pixels(path, bundle)
    assert found.shape == (3, 70, 90)
    reference = np.asarray(scene().convert("L").convert("RGB") if "grey" in form else scene()).transpose(2, 0, 1)
    if form != "bilevel":
        assert np.abs(found - reference).mean() < 12


def test_what_is_no_picture_is_refused_with_its_reason(tmp_path: Path, write: Write) -> None:
    whole = encoded(scene(400, 300), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (tmp_path / "huge.png").write_bytes(bomb())
    os.mkfifo(tmp_path / "pipe.jpg")
    with (tmp_path / "heavy.jpg").open("wb") as file:
        file.truncate(65 * 2**20)
    expected = {
        "cut.jpg": "truncated_image",
        "empty.jpg": "empty_body",
        "page.jpg": "html_page",
        "huge.png": "too_many_pixels",
        "pipe.jpg": "file_unreadable",
        "heavy.jpg": "too_many_bytes",
        "gone.jpg": "no_such_file",
        "cut.jpg/gone.jpg": "no_such_file",
        "https://example.org/frog.jpg": "url_not_fetched",
        f"HTTP://example.org/{'x' * 300}": "url_not_fetched",
    }
    for name, reason in expected.items():
        with pytest.raises(ImageRefused) as refused:
            FilePictures([(name, tmp_path / name)], Transform()).load(0)
        assert refused.value.reason == reason, name


def bomb() -> bytes:
    """A PNG that claims 50,000 x 50,000 pixels."""
    whole = encoded(scene(), "PNG")
    header = b"IHDR" + struct.pack(">II", 50_000, 50_000) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def test_the_model_sees_an_outside_picture_as_it_saw_those_it_learnt_from(
    bundle: Bundle, write: Write, tmp_path: Path
) -> None:
    stored = {"size": 48, "resize": "center_crop", "format": "webp", "quality": 80}
    knowing = rewritten(bundle, tmp_path / "knowing", pictures=stored)
    path = write("large.png", scene(640, 480))
    in_shard = transform_image(path.read_bytes(), Transform(**stored)).data  # type: ignore[arg-type]
    assert FilePictures([("", path)], transform_of(knowing)).load(0) == in_shard
    evaluated = knowing.preprocess.read(in_shard)
    assert evaluated.shape == torch.Size([3, 32, 32])


def test_a_bundle_that_does_not_know_how_pictures_were_stored_gets_enough_pixels(
    bundle: Bundle, tmp_path: Path
) -> None:
    assert transform_of(bundle).size == 256
    large = rewritten(
        bundle, tmp_path / "large", preprocess={**bundle.preprocess.to_json(), "size": 384, "crop_share": 0.875}
    )
    assert transform_of(large).size == 439
