"""The contact sheet: small, readable, never too large for a report."""

from io import BytesIO

import pytest
from PIL import Image

from gbif_platform.errors import PlatformError
from gbif_platform.images.grid import sample_grid
from gbif_platform_tests.images.faulty_host import picture


def test_tiles_stand_in_rows() -> None:
    sheet = Image.open(BytesIO(sample_grid([(picture(n), f"Species {n}") for n in range(8)], columns=3, tile=64)))
    assert sheet.format == "JPEG"
    assert sheet.width == 3 * 68 + 4
    assert sheet.height == 3 * (64 + 14 + 4) + 4


def test_captions_are_shortened_to_their_tile() -> None:
    short = sample_grid([(picture(), "Ursus")], tile=64)
    long = sample_grid([(picture(), "Ursus arctos middendorffi Merriam, 1896 " * 5)], tile=64)
    assert Image.open(BytesIO(short)).size == Image.open(BytesIO(long)).size
    assert short != long


def test_noise_stays_below_the_limit() -> None:
    noise = []
    for _ in range(36):
        buffer = BytesIO()
        Image.effect_noise((256, 256), 120).convert("RGB").save(buffer, "PNG")
        noise.append((buffer.getvalue(), "noise"))
    assert len(sample_grid(noise)) < 300_000


def test_no_picture_is_an_error() -> None:
    with pytest.raises(PlatformError):
        sample_grid([])
