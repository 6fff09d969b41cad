"""The short way for ordinary PNGs: what counts as ordinary, and that its results are those of the long way."""

import random
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from gbif_platform.images import png
from gbif_platform.images.transform import ImageRefused, Transform, transform_image


def photo(width: int = 83, height: int = 61) -> Image.Image:
    """Smooth colours with noise in the lower half: an encoder takes several filters for its rows."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 31)], axis=-1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 6, waves.shape) * (y > height / 2)[..., None]
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **parameters: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **parameters)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    """A further chunk, after the header."""
    return data[:33] + chunk(name, body) + data[33:]


def made_of(rows: list[bytes], width: int, colour: int = 2, **changes: int) -> bytes:
    """A PNG of rows with their filter bytes."""
    header = {"bits": 8, "colour": colour, "compression": 0, "filtering": 0, "interlaced": 0} | changes
    return (
        png.SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), *header.values()))
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )


COLOUR = encoded(photo())
ROWS = [bytes([kind]) + random.Random(kind).randbytes(3 * 20) for kind in (4, 3, 2, 1, 0, 4, 4, 1, 2, 3)]
ORDINARY = {
    "colour": COLOUR,
    "grey": encoded(photo().convert("L")),
    "one pixel": encoded(photo(1, 1)),
    "one column": encoded(photo(1, 60)),
    "density and time": with_chunk(encoded(photo(), dpi=(72, 72)), b"tIME", bytes(7)),
    "every filter": made_of(ROWS, 20),
    "every filter, grey": made_of(ROWS, 60, colour=0),
    "something after the end": COLOUR + b"more",
}
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Software", "a camera")
TURNED = Image.Exif()
TURNED[0x0112] = 6
ODD = {
    "palette": encoded(photo().quantize(16)),
    "alpha": encoded(photo().convert("RGBA")),
    "transparent colour": encoded(photo(), transparency=(1, 2, 3)),
    "16 bits": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64))),
    "interlaced": made_of(ROWS, 20, interlaced=1),
    "text": encoded(photo(), pnginfo=TEXT),
    "turned by EXIF": encoded(photo(), exif=TURNED),
    "animated": encoded(photo(), save_all=True, append_images=[photo().rotate(90)]),
    "unknown chunk": with_chunk(COLOUR, b"abCd", b"1"),
    "wrong checksum": COLOUR[:40] + b"\0" + COLOUR[41:],
    "no end": COLOUR[:-12],
    "no header": png.SIGNATURE + COLOUR[33:],
    "no pixels": made_of([b""], 0),
    "signature alone": png.SIGNATURE,
    "nothing": b"",
}


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)))


@pytest.mark.parametrize("name", ORDINARY)
def test_the_pixels_are_those_that_pillow_finds(name: str) -> None:
    content = png.read(ORDINARY[name])
    assert content is not None
    decoded = png.decode(content)
    assert decoded is not None
    assert (decoded == pixels(ORDINARY[name])).all()


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("transform", [Transform(32), Transform(200, "border", False), Transform(40, "center_crop")])
def test_the_short_way_gives_what_the_long_way_gives(
    name: str, transform: Transform, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "one column":
        transform = Transform(None, "no")  # too long and narrow to be taken
        with pytest.raises(ImageRefused):
            transform_image(ORDINARY[name], transform)
        return
    short = transform_image(ORDINARY[name], transform)
    monkeypatch.setattr(png, "read", lambda _: None)
    assert short == transform_image(ORDINARY[name], transform)


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_left_to_pillow(name: str) -> None:
    assert png.read(ODD[name]) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_filters_on_any_bytes(data: st.DataObject) -> None:
    colour = data.draw(st.sampled_from([0, 2]))
    width, dice = data.draw(st.integers(1, 9)), random.Random(data.draw(st.integers(0, 99)))
    kinds = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=7))
    image = made_of([bytes([kind]) + dice.randbytes(width * (3 if colour else 1)) for kind in kinds], width, colour)
    content = png.read(image)
    assert content is not None
    decoded = png.decode(content)
    assert decoded is not None
    assert (decoded == pixels(image)).all()


@pytest.mark.parametrize(
    "rows",
    [
        [bytes([5]) + bytes(60), *ROWS],  # no such filter
        [*ROWS[:-1], ROWS[-1][:-1]],  # a byte too few
        [*ROWS, bytes(100_000_000)],  # far more than the header says
    ],
    ids=["filter", "short", "bomb"],
)
def test_what_does_not_unfold_to_the_picture_is_no_picture_of_ours(rows: list[bytes]) -> None:
    image = made_of(rows, 20)
    whole = made_of([bytes(61)] * (len(rows) - (len(rows[-1]) > 61)), 20)
    image = image[:8] + whole[8:33] + image[33:]
    content = png.read(image)
    assert content is not None
    assert png.decode(content) is None


def test_damaged_deflate_data_is_refused_with_its_reason() -> None:
    at = COLOUR.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", COLOUR[at - 8 : at - 4])
    damaged = COLOUR[: at - 8] + chunk(b"IDAT", b"x\x9c" + b"\xff" * (length - 2)) + COLOUR[at + length + 4 :]
    content = png.read(damaged)
    assert content is not None
    assert png.decode(content) is None
    with pytest.raises(ImageRefused) as refused:
        transform_image(damaged, Transform())
    assert refused.value.reason in ("corrupt_image", "truncated_image")


def test_sizes_are_checked_before_anything_is_inflated() -> None:
    with pytest.raises(ImageRefused) as refused:
        transform_image(COLOUR, Transform(), max_pixels=5000)
    assert refused.value.reason == "too_many_pixels"
