"""URLs that stand for files of an image folder: `http://image-folder.invalid/<sha256>/<path>`.

The host can never exist (RFC 2606). With the digest in it, a file whose bytes change is another picture.
"""

import os
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote_to_bytes

PREFIX = "http://image-folder.invalid/"


def url_of(place: str, sha256: str) -> str:
    """The URL of the file at `place` below its folder, whose bytes have this digest."""
    return f"{PREFIX}{sha256}/{quote(os.fsencode(place))}"


def place_of(url: str) -> tuple[Path, str]:
    """The place below the folder, and the digest; the inverse of `url_of`.

    Raises:
        ValueError: no such URL, or one that leads out of the folder.
    """
    sha256, slash, quoted = url.removeprefix(PREFIX).partition("/")
    place = PurePosixPath(os.fsdecode(unquote_to_bytes(quoted)))
    if not url.startswith(PREFIX) or not slash or not place.parts or place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{url} names no file of an image folder")
    return Path(place), sha256
