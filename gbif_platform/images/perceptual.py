"""A 64-bit perceptual hash: pictures that look the same differ in few bits, whatever their size and compression.

It is `imagehash.phash` (https://github.com/JohannesBuchner/imagehash, `imagehash/__init__.py`; the method: Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): grey, 32 x 32, two-dimensional DCT-II, of
it the 8 x 8 lowest frequencies, a bit for each that is above their median, row by row from the highest bit. Its hex is
imagehash's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

VERSION = "phash-1"
"""Changes whenever a picture may get another hash."""

SIDE, LOW = 32, 8
# A JPEG may be decoded at 1/2, 1/4 or 1/8 while both sides stay this large. Of 109 photographs of 1024 pixels, 101 then
# have the same hash and 107 one within 2 bits, 1.7 times as fast; at 64 pixels it would be 81.
DRAFT_SIDE = 256
# Standard deviation of the 32 x 32 grey values below which the low frequencies are noise; a photograph has 10 to 80.
FLAT = 2.0
FORMATS = ["JPEG", "PNG", "WEBP"]


@dataclass(frozen=True)
class Hashes:
    """Hashes of N pictures.

    Attributes:
        phash: uint64 (N,), 0 where there is none.
        reason: why there is none: `undecodable`, `flat` (almost no contrast); None where there is one.
    """

    phash: NDArray[np.uint64]
    reason: list[str | None]


def grey_square(data: bytes) -> NDArray[np.uint8] | None:
    """An encoded stored picture as uint8 (32, 32), grey; None where it cannot be decoded. Frees the GIL."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
            return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    except Exception:  # decoders raise anything: OSError, SyntaxError, struct.error, DecompressionBombError, …
        return None


def perceptual_hashes(squares: Sequence[NDArray[np.uint8] | None]) -> Hashes:
    """The hashes of pictures that `grey_square` made small; 4 kB of memory a picture."""
    phash = np.zeros(len(squares), dtype=np.uint64)
    reason: list[str | None] = ["undecodable" if square is None else None for square in squares]
    decoded = [number for number, square in enumerate(squares) if square is not None]
    if decoded:
        grey = np.stack([square for square in squares if square is not None]).astype(np.float32)
        flat = grey.std(axis=(1, 2)) < FLAT
        phash[decoded] = np.where(flat, np.uint64(0), _low_frequency_bits(grey))
        for number in np.flatnonzero(flat):
            reason[decoded[number]] = "flat"
    return Hashes(phash, reason)


def _low_frequency_bits(grey: NDArray[np.float32]) -> NDArray[np.uint64]:
    """(N, 32, 32) to uint64 (N,)."""
    bits = np.zeros((len(grey), LOW * LOW), dtype=bool)
    for start in range(0, len(grey), 1024):  # the transform in double precision, a few at a time
        frequencies = dctn(grey[start : start + 1024].astype(np.float64), axes=(1, 2))[:, :LOW, :LOW]
        low = frequencies.reshape(-1, LOW * LOW)
        bits[start : start + 1024] = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
