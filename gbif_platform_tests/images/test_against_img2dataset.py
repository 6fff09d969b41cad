"""The same pictures as img2dataset makes, by its rules (`resizer.py`, 1.47): sizes, places and pixels, without it.

It decodes in full and takes OpenCV's INTER_AREA, which is the exact mean over the area; that is computed here in
float64. Sizes, pads and cuts were compared with its own output for every mode, odd sides among them.
"""

import math
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gbif_platform.images.transform import Resize, Transform, transform_image
from gbif_platform_tests.images.test_area import exact

Pixels = NDArray[np.floating[Any]]
MODES: list[Resize] = ["keep_ratio", "keep_ratio_largest", "border", "center_crop"]


def read(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def written(pixels: NDArray[np.uint8], form: str, **parameters: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, form, **parameters)
    return buffer.getvalue()


def peer_size(height: int, width: int, transform: Transform) -> tuple[int, int] | None:
    """(height, width) after `SmallestMaxSize` or `LongestMaxSize`; None = the picture is left alone."""
    size = transform.size or 0
    side = min(height, width) if transform.resize in ("keep_ratio", "center_crop") else max(height, width)
    if transform.only_if_bigger and side <= size:
        return None
    return max(1, round(height * size / side)), max(1, round(width * size / side))


def peer_frame(resized: Pixels, transform: Transform) -> Pixels:
    """`PadIfNeeded` with white and `CenterCrop`: the odd row or column is below, or right."""
    size = transform.size or 0
    height, width = resized.shape[:2]
    if transform.resize == "center_crop":
        top, left = (height - size) // 2, (width - size) // 2
        return resized[top : top + size, left : left + size]
    if transform.resize == "border":
        square = np.full((size, size, 3), 255.0)
        top, left = int((size - height) / 2), int((size - width) / 2)
        square[top : top + height, left : left + width] = resized
        return square
    return resized


def peer(pixels: NDArray[np.uint8], transform: Transform) -> Pixels:
    size = peer_size(pixels.shape[0], pixels.shape[1], transform)
    if size is None:
        return pixels.astype(np.float64)
    return peer_frame(exact(pixels, *size, (pixels.shape[0], pixels.shape[1])), transform)


def psnr(ours: NDArray[np.uint8], wanted: Pixels) -> float:
    """Peak signal to noise ratio, dB."""
    error = float(np.square(ours - wanted).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 120), st.sampled_from(MODES), st.booleans(), st.booleans()
)
def test_sizes_and_places_are_the_same(
    height: int, width: int, size: int, mode: Resize, only_if_bigger: bool, enlarge: bool
) -> None:
    assume(max(height, width) <= 50 * min(height, width))
    transform = Transform(size, mode, only_if_bigger or not enlarge, "png")
    picture = transform_image(written(np.zeros((height, width, 3), np.uint8), "PNG"), transform)
    scaled = peer_size(height, width, transform)
    wanted = peer_frame(np.zeros((*scaled, 3)), transform) if scaled else np.zeros((height, width, 3))
    # Black on white: pixels agree only where the picture lies in the same place.
    assert (read(picture.data) == wanted).all()


@lru_cache
def scene(height: int, width: int) -> NDArray[np.uint8]:
    """Edges, colours and noise, as in a photograph."""
    dice = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([np.sin(x / 37), np.cos(y / 41), np.sin((x + y) / 53)], axis=-1) * 60 + 128
    for _ in range(20):
        top, left, radius = dice.integers(0, height), dice.integers(0, width), dice.integers(8, height // 6)
        pixels[(y - top) ** 2 + (x - left) ** 2 < radius**2] = dice.integers(0, 256, 3)
    return np.clip(pixels + dice.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)


# Half, quarter and eighth decodings; sides that eight divides, and sides that nothing divides.
SIDES = [(600, 800), (1200, 1600), (601, 803), (853, 1151), (1153, 1729)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sides", [(600, 800), (601, 803)])
def test_pictures_decoded_in_full_have_the_exact_mean(mode: Resize, sides: tuple[int, int]) -> None:
    pixels, transform = scene(*sides), Transform(256, mode, format="png")
    ours = read(transform_image(written(pixels, "PNG", compress_level=1), transform).data)
    assert np.abs(ours - peer(pixels, transform)).max() < 0.51


@pytest.mark.parametrize(("sides", "size"), [*((sides, 256) for sides in SIDES), (SIDES[0], 64), (SIDES[4], 64)])
def test_jpegs_decoded_at_a_scale_are_close_to_the_exact_mean(sides: tuple[int, int], size: int) -> None:
    data = written(scene(*sides), "JPEG", quality=90)
    transform = Transform(size, format="png")
    assert psnr(read(transform_image(data, transform).data), peer(read(data), transform)) > 42


@pytest.mark.parametrize("sides", SIDES[:3])
def test_stored_jpegs_are_as_good_as_those_of_a_full_decoding(sides: tuple[int, int]) -> None:
    data = written(scene(*sides), "JPEG", quality=90)
    transform = Transform(256, quality=95)
    wanted = peer(read(data), transform)
    full = written(np.rint(wanted).astype(np.uint8), "JPEG", quality=95)
    assert psnr(read(transform_image(data, transform).data), wanted) > psnr(read(full), wanted) - 0.1


def test_photographs_are_as_good_as_those_of_a_full_decoding(shared: Path) -> None:
    files = sorted((shared / "photos" / "dev").rglob("*.jpg"))[::100]
    transform, losses = Transform(256, quality=95), []
    for file in files:
        picture = transform_image(data := file.read_bytes(), transform)
        pixels = read(data)
        if (picture.source_height, picture.source_width) != pixels.shape[:2] or b"ICC_PROFILE" in data:
            continue
        wanted = peer(pixels, transform)
        full = written(np.rint(wanted).astype(np.uint8), "JPEG", quality=95)
        losses.append(psnr(read(full), wanted) - psnr(read(picture.data), wanted))
    assert len(losses) > 5
    assert np.mean(losses) < 0.1
