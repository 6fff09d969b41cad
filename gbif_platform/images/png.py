"""The short way for ordinary PNGs: inflated by ISA-L, unfiltered by what numba compiles, in a third of Pillow's time.

Ordinary are grey and colour with 8 bits, not interlaced, without transparency, profile, text or EXIF. Everything else
is left to Pillow, which says what a picture is.
"""

import struct
from dataclasses import dataclass
from typing import cast

import numba
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from gbif_platform.images.compiled import compiled

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR = 0, 2
CHANNELS = {GREY: 1, COLOUR: 3}
NONE, SUB, UP, AVERAGE, PAETH = range(5)
DAMAGED = cast(type[Exception], isal_zlib.error)
# Neither changes the pixels nor says how to look at them, as Pillow reads it.
PASSED_OVER = {b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME"}
# Inflated and unfiltered pixels are held together: larger ones are Pillow's, which goes row by row.
MOST_PIXELS = 8_000_000


class _NotOrdinary(Exception):
    """Pillow has to look at it."""


@dataclass(frozen=True)
class Content:
    """An ordinary PNG: sizes in pixels, and its deflated data."""

    width: int
    height: int
    channels: int
    deflated: bytes


def read(data: bytes) -> Content | None:
    """What an ordinary PNG holds, its checksums checked; None = any other. It never raises, whatever the bytes.

    Walks the chunks (PNG, third edition, 5.3) up to the last one.
    """
    try:
        return _read(data)
    except (_NotOrdinary, struct.error):
        return None


def _read(data: bytes) -> Content:
    if data[:8] != SIGNATURE:
        raise _NotOrdinary
    header, parts, at = b"", [], len(SIGNATURE)
    view = memoryview(data)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        body, end = at + 8, at + 8 + length
        if struct.unpack_from(">I", data, end) != (isal_zlib.crc32(view[at + 4 : end]),):
            raise _NotOrdinary
        if not header:
            if kind != b"IHDR":
                raise _NotOrdinary
            header = data[body:end]
        elif kind == b"IDAT":
            parts.append(view[body:end])
        elif kind == b"IEND":
            return Content(*_sizes(header), b"".join(parts))
        elif kind not in PASSED_OVER:
            raise _NotOrdinary
        at = end + 4


def _sizes(header: bytes) -> tuple[int, int, int]:
    width, height, bits, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", header)
    if bits != 8 or colour not in CHANNELS or compression or filtering or interlaced:
        raise _NotOrdinary
    if not 0 < width * height <= MOST_PIXELS:
        raise _NotOrdinary
    return width, height, CHANNELS[colour]


def decode(content: Content) -> NDArray[np.uint8] | None:
    """uint8 [h, w] or [h, w, 3]; None where anything is amiss. The interpreter's lock is not held."""
    line = content.width * content.channels
    size = content.height * (1 + line)
    inflater = isal_zlib.decompressobj()
    try:
        # One byte more than there may be, so that a bomb stays small and is seen.
        inflated = inflater.decompress(content.deflated, size + 1)
    except DAMAGED:
        return None
    if len(inflated) != size or not inflater.eof:
        return None
    result = np.empty((content.height, line), np.uint8)
    coded = np.frombuffer(inflated, np.uint8).reshape(content.height, 1 + line)
    if not _unfilter(coded, content.channels, result):
        return None
    return result if content.channels == 1 else result.reshape(content.height, content.width, 3)


@numba.njit(inline="always")
def _paeth(left, above, corner):  # type: ignore[no-untyped-def]
    """PNG, 9.4; without branches, which the pixels of a photograph would mislead."""
    to_left, to_above, to_corner = abs(above - corner), abs(left - corner), abs(left + above - corner - corner)
    return left if (to_left <= to_above) & (to_left <= to_corner) else above if to_above <= to_corner else corner


@numba.njit(inline="always")
def _predicted(kind, left, above, corner):  # type: ignore[no-untyped-def]
    if kind == NONE:
        return np.int32(0)
    if kind == SUB:
        return left
    if kind == UP:
        return above
    return (left + above) >> 1 if kind == AVERAGE else _paeth(left, above, corner)


@numba.njit(inline="always")
def _unfilter_colours(source, above, target):  # type: ignore[no-untyped-def]
    """Paeth's filter on three channels at once, as most rows of photographs have it; what lies left is kept at hand."""
    one, two, three, byte = np.uintp(1), np.uintp(2), np.uintp(3), np.int32(255)
    red = green = blue = corner_red = corner_green = corner_blue = np.int32(0)
    for i in range(np.uintp(0), np.uintp(target.size), three):
        above_red, above_green, above_blue = np.int32(above[i]), np.int32(above[i + one]), np.int32(above[i + two])
        red = (np.int32(source[i]) + _paeth(red, above_red, corner_red)) & byte
        green = (np.int32(source[i + one]) + _paeth(green, above_green, corner_green)) & byte
        blue = (np.int32(source[i + two]) + _paeth(blue, above_blue, corner_blue)) & byte
        corner_red, corner_green, corner_blue = above_red, above_green, above_blue
        target[i], target[i + one], target[i + two] = red, green, blue


@compiled("boolean(Array(uint8, 2, 'C', readonly=True), uintp, uint8[:, ::1])")
def _unfilter(coded, step, result):  # type: ignore[no-untyped-def]
    """Undo the filter that each row names in its first byte (PNG, 9.2); False where there is no such filter."""
    above = np.zeros(result.shape[1], np.uint8)
    for row in range(result.shape[0]):
        kind, source, target = coded[row, 0], coded[row, 1:], result[row]
        if kind > PAETH:
            return False
        if kind == PAETH and step == 3:
            _unfilter_colours(source, above, target)
        else:
            for i in range(np.uintp(target.size)):
                left = np.int32(target[i - step] if i >= step else 0)
                corner = np.int32(above[i - step] if i >= step else 0)
                target[i] = source[i] + _predicted(kind, left, np.int32(above[i]), corner)
        above = target
    return True
