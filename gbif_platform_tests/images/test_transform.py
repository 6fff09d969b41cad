"""From a stranger's bytes to a small plain picture, or a typed refusal; never anything else."""

import csv
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gbif_platform.dataset import DatasetFileError, parse_dataset
from gbif_platform.errors import PlatformError
from gbif_platform.images.reasons import rule_of
from gbif_platform.images.transform import ImageRefused, Picture, Transform, transform_image, warm_up

DIFFICULT = Path(__file__).resolve().parents[3] / "shared" / "data" / "difficult" / "dev"
LOSSLESS = Transform(resize="no", format="png")

# Compiling, once on a machine, is not what the tests time.
warm_up()

# Pillow warns of broken metadata; the package silences that, pytest turns it on again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def outcome(data: bytes, transform: Transform) -> Picture | ImageRefused:
    """The only two things that may come of any bytes."""
    try:
        return transform_image(data, transform)
    except ImageRefused as refusal:
        return refusal


def expected_rows() -> list[Any]:
    if not (DIFFICULT / "EXPECTED.csv").exists():
        return [pytest.param({}, id="shared data absent")]
    with (DIFFICULT / "EXPECTED.csv").open(encoding="utf-8", newline="") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file)]


# What a refusal must be called, by the words of EXPECTED.csv; what is not here must be decoded.
REFUSALS = {
    "reject by default as truncated": {"truncated_image"},
    "reject with a typed error": {"corrupt_image", "truncated_image", "too_many_pixels", "unsupported_format"},
    "refuse before decoding: too many pixels": {"too_many_pixels"},
    "reject: not an image": {"not_an_image", "html_page", "empty_body"},
    "decode if the codec is installed": {"unsupported_format"},
}


@pytest.mark.parametrize("row", expected_rows())
def test_difficult_pictures_are_decoded_or_refused_as_expected(shared: Path, row: dict[str, str]) -> None:
    data = (shared / "difficult" / "dev" / row["file"]).read_bytes()
    expected = row["expected_of_a_robust_decoder"]
    started = time.monotonic()
    result = outcome(data, Transform())
    assert time.monotonic() - started < 20, "no picture makes the decoder work for ever"
    if isinstance(result, Picture):
        assert not expected.startswith(("reject", "refuse")), "should have been refused"
        check_against(result, row)
    else:
        reasons = next((reasons for words, reasons in REFUSALS.items() if expected.startswith(words)), set())
        assert result.reason in reasons, result
        assert rule_of(result.reason).status == "refused"


def check_against(picture: Picture, row: dict[str, str]) -> None:
    size = tuple(int(side) for side in row["pillow13_size"].split("x"))
    if row["exif_orientation"] in ("5", "6", "7", "8"):
        size = size[::-1]
    assert (picture.source_width, picture.source_height) == size
    assert picture.frames == int(row["frames"])
    assert picture.source_format == row["pillow13_format"].lower()
    stored = decoded(picture)
    assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (picture.width, picture.height))
    assert min(stored.size) <= 256
    assert not stored.info.get("exif")


def decoded(picture: Picture) -> Image.Image:
    return Image.open(BytesIO(picture.data))


def encoded(image: Image.Image, form: str = "PNG", **parameters: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **parameters)
    return buffer.getvalue()


def quarters() -> Image.Image:
    """40 x 20: red, green above blue, white."""
    image = Image.new("RGB", (40, 20), "white")
    for box, colour in (((0, 0, 20, 10), "red"), ((20, 0, 40, 10), "lime"), ((0, 10, 20, 20), "blue")):
        image.paste(colour, box)
    return image


def pixel(picture: Picture, x: int, y: int) -> tuple[int, ...]:
    value = decoded(picture).convert("RGB").getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_stored_upright(form: str, orientation: int) -> None:
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = quarters()
    if orientation in stored:
        image = image.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = transform_image(encoded(image, form, exif=exif, **({} if form == "TIFF" else {"quality": 95})), LOSSLESS)
    assert (picture.width, picture.height) == (picture.source_width, picture.source_height) == (40, 20)
    red, green, blue = pixel(picture, 5, 5), pixel(picture, 35, 5), pixel(picture, 5, 15)
    assert red[0] > 200 > 100 > red[1]
    assert green[1] > 200 > 100 > green[0]
    assert blue[2] > 200 > 100 > blue[0]


def grey16(values: list[int]) -> Image.Image:
    return Image.frombytes("I;16", (len(values), 1), struct.pack(f"<{len(values)}H", *values))


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (grey16([0, 4660, 32768, 65535]), "PNG", [0, 18, 128, 255]),
        (grey16([0, 4660, 32768, 65535]), "TIFF", [0, 18, 128, 255]),
        (Image.frombytes("F", (3, 1), struct.pack("<3f", 0, 0.5, 1)), "TIFF", [0, 128, 255]),
        (Image.frombytes("F", (3, 1), struct.pack("<3f", -10, 0, 10)), "TIFF", [0, 128, 255]),
        (Image.frombytes("I", (3, 1), struct.pack("<3i", 0, 100, 255)), "TIFF", [0, 100, 255]),
        (Image.new("1", (2, 1), 1), "PNG", [255, 255]),
    ],
    ids=["png16", "tiff16", "float 0-1", "float any", "int32", "bilevel"],
)
def test_wide_and_narrow_grey_is_scaled_to_eight_bits(image: Image.Image, form: str, expected: list[int]) -> None:
    picture = transform_image(encoded(image, form), LOSSLESS)
    assert [pixel(picture, x, 0)[0] for x in range(len(expected))] == expected


def test_transparency_is_laid_on_white() -> None:
    see_through = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    palette = Image.new("P", (4, 4), 0)
    grey = Image.new("L", (4, 4), 7)
    for data, expected in (
        (encoded(see_through), (255, 255, 255)),
        (encoded(half), (255, 127, 127)),
        (encoded(palette, transparency=0), (255, 255, 255)),
        (encoded(palette, "GIF", transparency=0), (255, 255, 255)),
        (encoded(grey, transparency=7), (255, 255, 255)),
        (encoded(half, "WEBP", lossless=True), (255, 127, 127)),
    ):
        assert pixel(transform_image(data, LOSSLESS), 1, 1) == expected


def test_cmyk_becomes_rgb() -> None:
    picture = transform_image(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100), LOSSLESS)
    red, green, blue = pixel(picture, 4, 4)
    assert red < 40
    assert green > 200
    assert blue > 200


def test_an_embedded_profile_is_applied_and_a_broken_one_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    # sRGB with red and blue primaries exchanged: the tags keep their size, so only the names move.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = (
        srgb.replace(b"rXYZ", b"tmp!")
        .replace(b"bXYZ", b"rXYZ")
        .replace(b"tmp!", b"bXYZ")
        .replace(b"s\0R\0G\0B", b"o\0t\0h\0r")
    )
    image = Image.new("RGB", (4, 4), (250, 10, 10))
    assert pixel(transform_image(encoded(image, icc_profile=srgb), LOSSLESS), 1, 1) == (250, 10, 10)
    assert pixel(transform_image(encoded(image, icc_profile=lab), LOSSLESS), 1, 1) == (250, 10, 10)
    assert pixel(transform_image(encoded(image, icc_profile=b"nonsense" * 40), LOSSLESS), 1, 1) == (250, 10, 10)
    red, _, blue = pixel(transform_image(encoded(image, icc_profile=swapped), LOSSLESS), 1, 1)
    assert blue > 200 > red


@pytest.mark.parametrize(
    ("transform", "source", "expected"),
    [
        (Transform(64), (200, 100), (128, 64)),
        (Transform(64), (100, 200), (64, 128)),
        (Transform(64), (60, 100), (60, 100)),
        (Transform(64, only_if_bigger=False), (32, 100), (64, 200)),
        (Transform(64, "keep_ratio_largest"), (200, 100), (64, 32)),
        (Transform(64, "keep_ratio_largest"), (64, 10), (64, 10)),
        (Transform(64, "border"), (200, 100), (64, 64)),
        (Transform(64, "border"), (50, 20), (50, 20)),
        (Transform(64, "border", only_if_bigger=False), (50, 20), (64, 64)),
        (Transform(64, "center_crop"), (200, 100), (64, 64)),
        (Transform(64, "center_crop"), (200, 60), (200, 60)),
        (Transform(None, "no"), (200, 100), (200, 100)),
    ],
)  # fmt: skip
def test_sizes_are_those_of_img2dataset(
    transform: Transform, source: tuple[int, int], expected: tuple[int, int]
) -> None:
    picture = transform_image(encoded(Image.new("RGB", source, "teal"), "JPEG"), transform)
    assert (picture.width, picture.height) == expected == decoded(picture).size
    assert (picture.source_width, picture.source_height) == source


def test_border_is_white_and_around_the_middle() -> None:
    picture = transform_image(encoded(Image.new("RGB", (200, 100), "black")), Transform(64, "border", format="png"))
    assert [pixel(picture, 32, y)[0] for y in (0, 15, 16, 47, 48, 63)] == [255, 255, 0, 0, 255, 255]


def test_center_crop_keeps_the_middle() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    picture = transform_image(encoded(image), Transform(100, "center_crop", only_if_bigger=False, format="png"))
    assert decoded(picture).getextrema() == ((255, 255),) * 3


def test_scaled_decoding_looks_like_full_decoding() -> None:
    image = Image.effect_mandelbrot((1600, 1200), (-2, -1.5, 1, 1.5), 100).convert("RGB")
    exact = image.resize((341, 256), Image.Resampling.BOX)
    picture = transform_image(encoded(image, "JPEG", quality=95), Transform(256, format="png"))
    difference = [abs(a - b) for a, b in zip(exact.tobytes(), decoded(picture).tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 2


@pytest.mark.parametrize(("form", "suffix"), [("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp")])
def test_formats(form: Any, suffix: str) -> None:
    transform = Transform(format=form)
    assert decoded(transform_image(encoded(quarters()), transform)).format == form.upper()
    assert transform.suffix == suffix


def test_keys_name_what_changes_the_result_and_nothing_else() -> None:
    assert Transform().key == "keep_ratio-256-jpeg-92"
    assert Transform(64, "border", False, "webp", 80).key == "border-64-always-webp-80"
    assert Transform(None, "no", format="png", quality=3).key == Transform(64, "no", format="png").key == "no-png"
    assert Transform(renditions=False).key == "keep_ratio-256-jpeg-92-originals"
    assert Transform(None, "no", renditions=False).key == Transform(None, "no").key
    assert Transform(keep_original=True).key == Transform().key


def test_a_dataset_file_sets_renditions_and_originals() -> None:
    text = "type: gbif_platform.components.ImageDataset\nattributes:\n  source: {archive: a.zip}\n  label: species\n"
    spec = parse_dataset(text + "  images: {renditions: false, keep_original: true}\n", Path("/frogs.yaml"))
    assert spec.images == Transform(renditions=False, keep_original=True)
    for key in ("renditions", "keep_original"):
        with pytest.raises(DatasetFileError, match=f"frogs.yaml:5: images.{key}"):
            parse_dataset(text + f"  images: {{{key}: perhaps}}\n", Path("/frogs.yaml"))


def test_reading_a_dataset_file_waits_for_no_decoder() -> None:
    code = "import sys, gbif_platform.images.transform; print({'numpy', 'numba', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert told.stdout.strip() == "set()"


def test_where_the_compiled_part_is_missing_no_picture_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gbif_platform.images.area", None)
    with pytest.raises(ImportError):
        transform_image(encoded(quarters(), "JPEG"), Transform())


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("stored", ["jpeg", "png", "webp"])
def test_equal_bytes_give_equal_bytes_without_metadata(form: str, stored: Any) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    data = encoded(quarters(), form, exif=exif)
    first, second = (transform_image(data, Transform(16, format=stored)) for _ in range(2))
    assert first == second
    assert not {"exif", "icc_profile", "comment", "xmp"} & set(decoded(first).info)


@pytest.mark.parametrize(
    "wrong", [{"resize": "squash"}, {"format": "bmp"}, {"size": 0}, {"size": None}, {"quality": 101}, {"size": 10**6}]
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(PlatformError, match=f"images.{next(iter(wrong))}"):
        Transform(**wrong)


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    pixels = zlib.compress(bytes(100_000))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_scans(progressive: bytes, number: int) -> bytes:
    """The last scan so many times over."""
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return progressive[:-2] + scan * number + progressive[-2:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_header(12_000, 12_000), "too_many_pixels"),
        (png_header(60_000, 60_000), "too_many_pixels"),
        (png_header(20_000, 2), "extreme_aspect"),
        (with_scans(encoded(Image.new("RGB", (8, 8)), "JPEG", progressive=True), 200), "too_many_scans"),
        (b"", "empty_body"),
        (b" \n", "empty_body"),
        (b"\xef\xbb\xbf \n<!-- x --><HTML>", "html_page"),
        (b'{"error": "gone"}', "not_an_image"),
        (b"%PDF-1.7", "not_an_image"),
        (b"\x00\x00\x00\x18ftypmp42", "not_an_image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(100), "unsupported_format"),
        (b"\xff\x0a" + bytes(100), "unsupported_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
    ],
)
def test_refusals(data: bytes, reason: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        transform_image(data, Transform())
    assert refused.value.reason == reason


def test_a_bomb_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (10_001, 13_000, 30_000):
        with pytest.raises(ImageRefused, match="too_many_pixels"):
            transform_image(png_header(side, side), Transform())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_what_would_grow_too_large_is_refused() -> None:
    with pytest.raises(ImageRefused, match="too_many_pixels"):
        transform_image(encoded(Image.new("L", (400, 10))), Transform(8000, only_if_bigger=False))


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    result = outcome(data, Transform())
    assert isinstance(result, Picture) or rule_of(result.reason).status == "refused"


SEEDS = [
    encoded(quarters(), form, **parameters)
    for form, parameters in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {}), ("AVIF", {}),
    )
]  # fmt: skip


@settings(max_examples=300, deadline=2000)
@given(st.sampled_from(SEEDS), st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_damaged_pictures_are_decoded_or_refused(data: bytes, seed: int, changes: int, cut: bool) -> None:
    dice = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(changes):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    if cut:
        del damaged[dice.randrange(len(damaged)) :]
    result = outcome(bytes(damaged), Transform(16))
    if isinstance(result, Picture):
        assert decoded(result).mode == "RGB"
    else:
        assert rule_of(result.reason).status == "refused"
