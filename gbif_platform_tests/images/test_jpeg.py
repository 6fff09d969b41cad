"""The short way for ordinary JPEGs: what counts as ordinary, and that its results are those of the long way."""

import functools
import random
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gbif_platform.images import jpeg
from gbif_platform.images.transform import ImageRefused, Picture, Transform, transform_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red and blue primaries exchanged, and the name with them: a profile that visibly does something.
NAMES = [(b"rXYZ", b"tmp!"), (b"bXYZ", b"rXYZ"), (b"tmp!", b"bXYZ"), (b"s\0R\0G\0B", b"o\0t\0h\0r")]
SWAPPED = functools.reduce(lambda profile, names: profile.replace(*names), NAMES, SRGB)


def photo(width: int = 408, height: int = 304) -> Image.Image:
    """Smooth colours with some noise; sides that eight divides, where both ways see the same picture."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 31)], axis=-1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **parameters: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **parameters})
    return buffer.getvalue()


def exif(orientation: int, endian: str = "<") -> Image.Exif:
    block = Image.Exif()
    block.endian = endian
    block[0x010F] = "a camera"
    block[0x0112] = orientation
    return block


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

ORDINARY = {
    "baseline": encoded(photo()),
    "progressive": encoded(photo(), progressive=True),
    "444": encoded(photo(), subsampling=0),
    "422": encoded(photo(), subsampling=1),
    "grey": encoded(photo().convert("L")),
    "restart intervals": encoded(photo(), restart_marker_rows=2),
    "sRGB": encoded(photo(), icc_profile=SRGB),
    "another profile": encoded(photo(), icc_profile=SWAPPED),
    "XMP that says nothing": encoded(photo(), xmp=b"<x:xmpmeta/>"),
    "XMP besides EXIF": encoded(photo(), xmp=XMP, exif=exif(3)),
    **{f"turned {n}": encoded(photo(), exif=exif(n)) for n in range(1, 9)},
    "turned, big endian": encoded(photo(), exif=exif(6, ">")),
    "orientation that does not exist": encoded(photo(), exif=exif(77)),
}
LONG_ORIENTATION = struct.pack("<4sIHHHII", b"II*\0", 8, 1, 0x0112, 4, 1, 6)
ODD = {
    "CMYK": encoded(photo().convert("CMYK")),
    "a profile in two segments": encoded(photo(), icc_profile=SRGB + bytes(80_000)),
    "XMP that turns": encoded(photo(), xmp=XMP),
    "broken EXIF": encoded(photo(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "EXIF of a strange kind": encoded(photo(), exif=b"Exif\0\0" + LONG_ORIENTATION),
    "junk before a marker": ORDINARY["baseline"][:2] + b"\xff" + ORDINARY["baseline"][2:],
    "no JPEG": b"\xff\xd8\xff",
    "nothing": b"",
}


def pixels(picture: Picture) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.asarray(Image.open(BytesIO(picture.data))).astype(np.int16)


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize(
    "transform",
    [Transform(64, format="png"), Transform(500, "border", False, "png"), Transform(None, "no", format="png")],
    ids=lambda transform: transform.key,
)
def test_the_short_way_gives_what_the_long_way_gives(
    name: str, transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jpeg.read_header(ORDINARY[name]) is not None
    short = transform_image(ORDINARY[name], transform)
    monkeypatch.setattr(jpeg, "read_header", lambda _: None)
    long = transform_image(ORDINARY[name], transform)
    assert [getattr(short, field) for field in ("width", "height", "source_width", "source_height", "frames")] == [
        getattr(long, field) for field in ("width", "height", "source_width", "source_height", "frames")
    ]
    assert short.source_format == long.source_format == "jpeg"
    assert (pixels(short) == pixels(long)).all()


def test_only_a_baseline_jpeg_of_one_scan_is_taken_without_counting_its_scans() -> None:
    headers = {name: jpeg.read_header(ORDINARY[name]) for name in ("baseline", "grey", "progressive")}
    assert {name: header and header.one_scan for name, header in headers.items()} == {
        "baseline": True, "grey": True, "progressive": False
    }  # fmt: skip


@pytest.mark.parametrize("scans", [1, 200])
def test_further_scans_of_a_baseline_jpeg_are_not_decoded(scans: int) -> None:
    data = ORDINARY["baseline"]
    scan = data[data.index(b"\xff\xda") : -2]
    # libjpeg does not expect them; what Pillow then makes of the file is limited by their number.
    repeated = data[:-2] + scan * scans + data[-2:]
    header = jpeg.read_header(repeated)
    assert header is not None
    assert header.one_scan
    assert jpeg.decode(repeated, header, 1) is None


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_left_to_pillow(name: str) -> None:
    assert jpeg.read_header(ODD[name]) is None


def test_what_xmp_says_of_the_orientation_holds() -> None:
    picture = transform_image(ODD["XMP that turns"], Transform())
    assert (picture.source_width, picture.source_height) == (304, 408)


@pytest.mark.parametrize("name", ["baseline", "progressive", "grey"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_a_jpeg_that_stops_early_is_refused(name: str, share: float) -> None:
    data = ORDINARY[name]
    with pytest.raises(ImageRefused) as refused:
        transform_image(data[: int(len(data) * share)], Transform(64))
    assert refused.value.reason == "truncated_image"


def test_a_jpeg_that_libjpeg_only_warns_of_is_taken_as_before() -> None:
    data = ORDINARY["restart intervals"]
    harmless = data.replace(b"\xff\xd0", b"\0\0\0\xff\xd0", 1)
    header = jpeg.read_header(harmless)
    assert header is not None
    assert jpeg.decode(harmless, header, 1) is None
    assert transform_image(harmless, Transform(64)).width == 86


@pytest.mark.parametrize(
    ("target", "expected"),
    [((200, 150), 1), ((100, 75), 2), ((100, 76), 1), ((50, 37), 4), ((51, 37), 2), ((25, 18), 8), ((2, 2), 8)],
)
def test_decoding_is_scaled_by_powers_of_two_and_twice_the_target_remains(
    target: tuple[int, int], expected: int
) -> None:
    data = encoded(photo(400, 300))
    header = jpeg.read_header(data)
    assert header is not None
    divided_by = jpeg.divisor(header, (2 * target[0], 2 * target[1]))
    assert divided_by == expected
    decoded = jpeg.decode(data, header, divided_by)
    assert decoded is not None
    assert decoded.shape == (-(-300 // divided_by), -(-400 // divided_by), 3)


def scans(data: bytes) -> int:
    return next(most for most in range(1000) if not jpeg.has_more_scans(data, most))


def test_every_scan_is_counted() -> None:
    assert scans(ORDINARY["baseline"]) == 1
    assert scans(ORDINARY["progressive"]) == ORDINARY["progressive"].count(b"\xff\xda") > 4
    assert scans(ORDINARY["restart intervals"]) == 1
    assert scans(b"\xff") == scans(b"") == 0


SCAN = b"\xff\xda"
COMMENT = b"\xff\xfe" + struct.pack(">H", 602) + SCAN * 300


@pytest.mark.parametrize(
    "data",
    [
        ORDINARY["progressive"] + SCAN * 300,
        ORDINARY["progressive"][:2] + COMMENT + ORDINARY["progressive"][2:],
        ORDINARY["progressive"][:-2] + COMMENT + b"\xff\xff\xd9" + SCAN * 300,
    ],
    ids=["a film after it", "a preview in it", "both, between and after scans"],
)
def test_what_a_file_holds_besides_its_picture_are_no_scans_of_it(data: bytes) -> None:
    assert scans(data) == scans(ORDINARY["progressive"])
    assert transform_image(data, Transform(64)).source_width == 408


def test_scans_behind_more_segments_than_any_file_has_are_counted_all_the_same() -> None:
    start, rest = ORDINARY["progressive"][:2], ORDINARY["progressive"][2:]
    hidden = start + b"\xff\xfe\0\2" * 100_000 + rest
    assert scans(hidden) == scans(ORDINARY["progressive"])
    assert jpeg.has_more_scans(hidden + SCAN * 300, 100)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*ORDINARY.values(), *ODD.values()]), st.binary(max_size=20), st.integers(0, 60))
def test_no_scans_are_too_hostile(data: bytes, noise: bytes, at: int) -> None:
    start = len(data) * at // 60
    damaged = data[:start] + noise + data[start:]
    assert 0 <= scans(damaged) <= damaged.count(SCAN)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from([*ORDINARY.values(), *ODD.values()]), st.integers(0, 2**32), st.integers(0, 700))
def test_no_header_is_too_hostile(data: bytes, seed: int, end: int) -> None:
    dice = random.Random(seed)
    damaged = bytearray(data[:700])
    for _ in range(min(4, len(damaged))):
        damaged[dice.randrange(len(damaged))] = dice.choice([0, 1, 0xFF, 0xDA, 0xE1, dice.randrange(256)])
    header = jpeg.read_header(bytes(damaged[:end]))
    assert header is None or (header.width > 0 and header.height > 0 and header.channels in (1, 3))
