"""What some bytes are, by their first bytes, where no decoder recognised them as a picture.

Content-Type and file endings are not asked: hosts send pages and PDFs as `image/jpeg`.
"""

import re
import struct

from PIL import features

# Pictures that a decoder of ours should have recognised; third column: the optional part of Pillow that decodes them.
DECODABLE: list[tuple[re.Pattern[bytes], str, str | None]] = [
    (re.compile(rb"\xff\xd8\xff"), "JPEG", None),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", None),
    (re.compile(rb"GIF8[79]a"), "GIF", None),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP", "webp"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "AVIF", "avif"),
    (re.compile(rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), "JPEG 2000", "jpg_2000"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "TIFF", None),
    (re.compile(rb"BM.{4}\x00\x00\x00\x00", re.DOTALL), "BMP", None),
]

# Pictures that nothing here decodes: they may be read one day, so they are never called corrupt.
FOREIGN: list[tuple[re.Pattern[bytes], str]] = [
    (re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"), "JPEG XL"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"II\xbc"), "JPEG XR"),
    (re.compile(rb"II\*\x00....CR|FUJIFILM|IIR[OS]|MMOR|IIU\x00|FOVb", re.DOTALL), "camera raw"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM"),
    (re.compile(rb"\x00\x00\x01\x00"), "icon"),
    (re.compile(rb"v/1\x01"), "OpenEXR"),
    (re.compile(rb"P[1-7][\s#]"), "Netpbm"),
]

NO_PICTURES: list[tuple[re.Pattern[bytes], str]] = [
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"<svg|<\?xml.{0,500}?<svg", re.DOTALL | re.IGNORECASE), "SVG drawing"),
    (re.compile(rb"<\?xml", re.IGNORECASE), "XML"),
    (re.compile(rb"[{\[]\s*[\"{\[\]}]"), "JSON"),
    (re.compile(rb"PK\x03\x04"), "zip"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\xd0\xcf\x11\xe0"), "Office document"),
    (re.compile(rb"....ftyp", re.DOTALL), "video"),
    (re.compile(rb"RIFF|OggS|ID3|fLaC|\xff[\xf2\xf3\xfb]|\x1aE\xdf\xa3"), "sound or video"),
]

HTML = re.compile(
    rb"(?:<!--.{0,500}?-->\s*)*<(?:!doctype\s+html|html|head|body|script|title|meta|div|p|h1)\b",
    re.DOTALL | re.IGNORECASE,
)
TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)

# Frame headers that libjpeg decodes: baseline, extended, progressive, and the two arithmetic ones.
JPEG_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
JPEG_NO_FRAMES = {0xC4, 0xC8, 0xCC}


def reason_for(data: bytes) -> tuple[str, str]:
    """(reason, detail) for bytes that no decoder recognised; the reason is one of `images.reasons`."""
    start = data[:2048].removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return "empty_body", f"{len(data)} bytes"
    if HTML.match(start):
        title = TITLE.search(data[:8192])
        return "html_page", _text(title.group(1)) if title else _text(start[:80])
    for pattern, name in FOREIGN:
        if pattern.match(data):
            return "unsupported_format", name
    for pattern, name, part in DECODABLE:
        if pattern.match(data):
            if part and not features.check(part):
                return "unsupported_format", name
            return unsupported_jpeg(data) or ("corrupt_image", f"{name} with an unreadable header")
    for pattern, name in NO_PICTURES:
        if pattern.match(start):
            return "not_an_image", name
    return "not_an_image", f"begins with {_text(start[:40])!r}"


def unsupported_jpeg(data: bytes) -> tuple[str, str] | None:
    """(`unsupported_format`, detail) for a JPEG that libjpeg does not decode (12 bits, lossless, …), else None.

    Walks the marker segments of ITU-T T.81, annex B, up to the frame header.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in JPEG_NO_FRAMES:
            bits = data[at + 4]
            if marker not in JPEG_FRAMES or bits != 8:
                return "unsupported_format", f"JPEG of kind 0x{marker:X} with {bits} bits"
            return None
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def ends_early(data: bytes) -> bool:
    """Whether the file stops before its own format says it does (PNG without an end, RIFF longer than the bytes)."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"RIFF") and len(data) >= 8:
        return struct.unpack_from("<I", data, 4)[0] + 8 > len(data)
    return False


def _text(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", "replace").split())
