"""Pictures and what the preprocessing made of them when it was first right: golden.npz.

Written by `python -m gbif_platform_tests.training.golden`. Models that are in use were trained on exactly this: do it
again only where a change of the preprocessing is meant.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gbif_platform.training.preprocess import CHANCES, Preprocess
from gbif_platform.training.sampling import chances

FILE = Path(__file__).parent / "golden.npz"
PREPROCESS = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
PREPROCESS_VALUES = [0, 128, 255] * 3
NORMALISED = [-2.117904, 0.074065, 2.248908, -2.035714, 0.205182, 2.428571, -1.804444, 0.426492, 2.64]


@dataclass(frozen=True)
class Golden:
    """One picture: its bytes, and uint8 (3, 32, 32) as evaluated and as augmented."""

    encoded: bytes
    evaluated: torch.Tensor
    augmented: torch.Tensor


def golden_chance() -> np.ndarray:
    """Of the augmentation: float64 (CHANCES,)."""
    return chances(17, 3, np.array([5]), CHANCES)[0]


def _stored() -> dict[str, Golden]:
    with np.load(FILE) as arrays:
        return {
            name: Golden(
                arrays[f"{name}.encoded"].tobytes(),
                torch.from_numpy(arrays[f"{name}.evaluated"]),
                torch.from_numpy(arrays[f"{name}.augmented"]),
            )
            for name in sorted({key.partition(".")[0] for key in arrays})
        }


def _pictures() -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "small": _drawn(30, 45, "JPEG", quality=92),
        "halved": _drawn(80, 110, "JPEG", quality=92),
        "eighth": _drawn(320, 410, "JPEG", quality=85, progressive=True),
        "turned": _drawn(90, 60, "JPEG", exif=turned),
        "png": _drawn(50, 40, "PNG"),
    }


def _drawn(height: int, width: int, kind: str, **options: object) -> bytes:
    random = np.random.default_rng([height, width])
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    image = Image.fromarray(np.clip(smooth + random.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _write() -> None:
    arrays: dict[str, Any] = {}
    for name, encoded in _pictures().items():
        arrays[f"{name}.encoded"] = np.frombuffer(encoded, np.uint8)
        arrays[f"{name}.evaluated"] = PREPROCESS.read(encoded).numpy()
        arrays[f"{name}.augmented"] = PREPROCESS.read(encoded, golden_chance()).numpy()
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    _write()
else:
    GOLDEN = _stored()
