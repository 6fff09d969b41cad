"""Labels as names of folders that every file system takes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
"""Names of devices on Windows, also with an ending (Microsoft, Naming Files, Paths, and Namespaces)."""
LONGEST = 200
"""Bytes; file systems take 255, and a label that is not alone gets an addition."""


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder's name for each label: the label where that is possible, and never one name for two labels.

    Unicode is normalised (NFC). Characters that Windows forbids become `_`. Where two names differ in upper and lower
    case at most, all but the one that is the label itself get a digest of the label behind `~`.
    """
    names = {label: _possible(label) for label in labels}
    count = Counter(name.casefold() for name in names.values())
    spelt_so = {name.casefold(): label for label, name in sorted(names.items(), reverse=True) if label == name}
    return {
        label: name
        if count[name.casefold()] == 1 or spelt_so.get(name.casefold()) == label
        else f"{name}~{sha256(label.encode()).hexdigest()[:8]}"
        for label, name in names.items()
    }


def _possible(label: str) -> str:
    name = FORBIDDEN.sub("_", unicodedata.normalize("NFC", label))
    name = name.encode()[:LONGEST].decode(errors="ignore").strip().rstrip(".")
    if not name or name.startswith(".") or DEVICES.fullmatch(name):
        return f"_{name}"
    return name
