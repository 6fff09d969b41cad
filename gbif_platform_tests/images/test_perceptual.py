"""The perceptual hash: imagehash's bits, small distances for small changes, and none where it would say nothing."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from gbif_platform.images.perceptual import grey_square, perceptual_hashes


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Random blobs with the smooth spectrum of a photograph."""
    random = np.random.default_rng(seed)
    blobs = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return blobs.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hashes(*pictures: bytes) -> np.ndarray:
    found = perceptual_hashes([grey_square(data) for data in pictures])
    assert found.reason == [None] * len(pictures)
    return found.phash


def test_a_known_picture_has_the_hash_that_the_definition_gives() -> None:
    # A wave along each axis: by hand, only the coefficients (0, 0), (0, 2) and (3, 0) of the 64 are not zero.
    place = np.pi * (np.arange(32) + 0.5) / 32
    grey = 128 + 60 * np.cos(2 * place)[None, :] + 50 * np.cos(3 * place)[:, None]
    square = np.round(grey).astype(np.uint8)
    found = perceptual_hashes([square]).phash[0]
    for row, column in ((0, 0), (0, 2), (3, 0)):
        assert int(found) >> (63 - 8 * row - column) & 1, (row, column)


def test_size_format_quality_and_brightness_change_few_bits() -> None:
    for seed in range(20):
        image = photo(seed)
        variants = [
            encoded(image, "PNG"),
            encoded(image, quality=40),
            encoded(image.resize((80, 60)), "WEBP", quality=70),
            encoded(image.resize((1600, 1200), Image.Resampling.BICUBIC), quality=85),  # large enough for a draft
            encoded(ImageEnhance.Brightness(image).enhance(0.8), quality=90),
            encoded(image.convert("L"), quality=90),
        ]
        found = hashes(encoded(image, quality=92), *variants)
        assert np.bitwise_count(found[1:] ^ found[0]).max() <= 4


def test_different_pictures_differ_in_many_bits() -> None:
    found = hashes(*(encoded(photo(seed)) for seed in range(40)))
    apart = np.bitwise_count(found[:, None] ^ found)[np.triu_indices(40, 1)]
    assert apart.min() > 8
    assert 28 < apart.mean() < 36


def test_what_cannot_be_decoded_or_has_no_contrast_has_no_hash_and_says_why() -> None:
    noise = np.random.default_rng(1).normal(90, 4, (120, 160, 3)).astype(np.uint8)
    pictures = [
        encoded(photo(1)),
        b"",
        b"no picture",
        encoded(photo(2))[:300],
        encoded(Image.new("RGB", (64, 64), "white")),
        encoded(Image.fromarray(noise)),
        encoded(photo(3), "BMP"),  # never a stored format
    ]
    found = perceptual_hashes([grey_square(data) for data in pictures])
    assert found.reason == [None, *["undecodable"] * 3, "flat", "flat", "undecodable"]
    assert (found.phash != 0).tolist() == [True, *[False] * 6]
    assert len(perceptual_hashes([]).phash) == 0


def test_a_batch_gives_what_each_picture_gives_alone() -> None:
    pictures = [encoded(photo(seed)) for seed in range(5)]
    assert hashes(*pictures).tolist() == [hashes(data)[0] for data in pictures]
    many = [grey_square(pictures[number % 5]) for number in range(1030)]  # more than are transformed at once
    assert perceptual_hashes(many).phash.tolist() == [hashes(pictures[number % 5])[0] for number in range(1030)]


def test_photographs_have_the_hashes_of_imagehash(shared: Path) -> None:
    folder = shared / "photos" / "dev" / "monkeys10"
    if not (folder / "labels.csv").exists():
        pytest.skip(f"{folder} is not there")
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = hashes(*((folder / row["file"]).read_bytes() for row in rows))
    assert [f"{one:016x}" for one in found] == [row["phash"] for row in rows]
