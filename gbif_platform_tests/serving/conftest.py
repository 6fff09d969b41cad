"""A model of three species, and pictures of every sort that people have."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gbif_platform.training.bundle import Bundle
from gbif_platform_tests.training.bundles import random_bundle

SPECIES = ["Bufo bufo", "Rana arvalis", "Rana temporaria"]
TAXONOMY = {
    "Bufo bufo": {"species": "Bufo bufo", "genus": "Bufo", "family": "Bufonidae", "species_key": "5217160"},
    "Rana arvalis": {"species": "Rana arvalis", "genus": "Rana", "family": "Ranidae", "species_key": "2426805"},
    "Rana temporaria": {"species": "Rana temporaria", "genus": "Rana", "family": "Ranidae", "species_key": "2426814"},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks as small as these are slower on two threads, much slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle", labels=SPECIES, taxonomy=TAXONOMY)


def scene(width: int = 90, height: int = 70) -> Image.Image:
    """Not the same upside down, mirrored or turned."""
    rows, columns = np.indices((height, width))
    pixels = np.stack(
        [rows * 255 // height, columns * 255 // width, (rows + columns) * 100 // (width + height)], axis=2
    )
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture of a form into a folder of the test's."""

    def written(name: str, image: Image.Image, form: str = "PNG", **options: object) -> Path:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(image, form, **options))
        return path

    return written
