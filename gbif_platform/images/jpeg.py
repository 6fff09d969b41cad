"""The short way for ordinary JPEGs: their header read here, their pixels decoded by libjpeg-turbo at the scale needed.

Everything that is not ordinary is left to Pillow, which says what a picture is; both have the same decoder underneath.
"""

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# libjpeg-turbo decodes at any eighth, but only these without loss of speed.
DIVISORS = (8, 4, 2)

BASELINE, PROGRESSIVE = 0xC0, 0xC2
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# What ends the data of a scan: no stuffed byte, no restart, nothing that stands alone.
MARK = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
# Hostile files have millions; beyond, whatever looks like a scan counts.
MOST_SEGMENTS = 1000
APP1, APP2 = 0xE1, 0xE2
# Huffman and quantisation tables, restart interval, application segments, comment.
PASSED_OVER = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
# ICC.1, annex B.4: a profile in one segment is number 1 of 1; larger ones are Pillow's to put together.
PROFILE = b"ICC_PROFILE\0"
WHOLE = b"\1\1"
MULTI_PICTURE = b"MPF\0"
METADATA = {APP1: (EXIF, XMP), APP2: (PROFILE, MULTI_PICTURE)}

ORIENTATION_TAG = 0x0112
SHORT = 3


class _NotOrdinary(Exception):
    """Pillow has to look at it."""


@dataclass(frozen=True)
class Header:
    """What the header of an ordinary JPEG says: sizes in pixels as stored, EXIF orientation, embedded ICC profile.

    Attributes:
        one_scan: a baseline file whose first scan has all channels: libjpeg refuses a second one.
    """

    width: int
    height: int
    channels: int
    one_scan: bool
    orientation: int
    profile: bytes | None


def read_header(data: bytes) -> Header | None:
    """The header of a baseline or progressive JPEG, grey or colour, with metadata as it should be; None = any other.

    Walks the segments of ITU-T T.81, annex B, up to the first scan; it never raises, whatever the bytes.
    """
    try:
        return _read_header(data)
    except (_NotOrdinary, struct.error, IndexError):
        return None


def _read_header(data: bytes) -> Header:
    if not data.startswith(b"\xff\xd8\xff"):
        raise _NotOrdinary
    frame: tuple[int, int, int] | None = None
    baseline = False
    found: dict[bytes, bytes] = {}
    at = 2
    while data[at + 1] != START_OF_SCAN:
        mark, marker, length = struct.unpack_from(">BBH", data, at)
        body, at = at + 4, at + 2 + length
        if mark != 0xFF or length < 2 or at > len(data):
            raise _NotOrdinary
        if marker in (BASELINE, PROGRESSIVE) and frame is None:
            frame, baseline = _frame(data, body), marker == BASELINE
        elif marker not in PASSED_OVER:
            raise _NotOrdinary
        for kind in METADATA.get(marker, ()):
            if data.startswith(kind, body):
                if kind in found:
                    raise _NotOrdinary
                found[kind] = data[body + len(kind) : at]
    profile = found.get(PROFILE)
    if data[at] != 0xFF or frame is None or MULTI_PICTURE in found or not (profile or WHOLE).startswith(WHOLE):
        raise _NotOrdinary
    orientation = _orientation(found.get(EXIF), found.get(XMP))
    one_scan = baseline and data[at + 4] == frame[2]
    return Header(*frame, one_scan, orientation, profile[len(WHOLE) :] if profile else None)


def _frame(data: bytes, at: int) -> tuple[int, int, int]:
    bits, height, width, channels = struct.unpack_from(">BHHB", data, at)
    if bits != 8 or channels not in (1, 3) or not height or not width:
        raise _NotOrdinary
    return width, height, channels


def _orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """From the first directory of the EXIF block (a TIFF file); XMP counts where that says nothing."""
    if exif is not None:
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
        if order is None:
            raise _NotOrdinary
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                if (kind, count) != (SHORT, 1):
                    raise _NotOrdinary
                return int(value)
    if xmp and b"tiff:Orientation" in xmp:
        raise _NotOrdinary
    return 1


def divisor(header: Header, least: tuple[int, int]) -> int:
    """The largest of 8, 4, 2, 1 by which the sides can be divided without falling below `least` (width, height)."""
    return next((n for n in DIVISORS if header.width >= n * least[0] and header.height >= n * least[1]), 1)


def decode(data: bytes, header: Header, divided_by: int) -> "NDArray[np.uint8] | None":
    """uint8 [h, w] or [h, w, 3], sides divided and rounded up; None where the decoder finds anything amiss."""
    # Brings numpy, which a reader of dataset files does not need.
    import simplejpeg  # type: ignore[import-untyped]

    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if header.channels == 1 else "RGB",
            min_height=-(-header.height // divided_by),
            min_width=-(-header.width // divided_by),
            strict=True,
        )
    except ValueError:
        return None
    return pixels[..., 0] if header.channels == 1 else pixels


def has_more_scans(data: bytes, most: int) -> bool:
    """Whether the picture that the bytes begin with has more than `most` scans.

    What else they hold, a preview, further pictures or a film, may look like scans: few of all files are walked for it.
    """
    return _alike(data, 0) > most and _walk(data, most) > most


def _alike(data: bytes, start: int) -> int:
    """How often a start of scan stands in the bytes, rightly or not."""
    import numpy as np

    values = np.frombuffer(data, np.uint8, offset=start) if start < len(data) else np.empty(0, np.uint8)
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == START_OF_SCAN)))


def _walk(data: bytes, most: int) -> int:
    scans, at = 0, 2
    for _ in range(MOST_SEGMENTS):
        found = MARK.search(data, at)
        if found is None or found[0][1] == END_OF_IMAGE:
            return scans
        scans += found[0][1] == START_OF_SCAN
        if scans > most:
            return scans
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))
    return scans + _alike(data, at)
