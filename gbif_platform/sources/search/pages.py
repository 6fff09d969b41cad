"""The pages of a search on disk: what GBIF has answered once is not asked again."""

import gzip
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gbif_platform.gbif.client import PAGE_SIZE, GbifClient, Json
from gbif_platform.settings import fingerprint
from gbif_platform.sources.search.parts import Part
from gbif_platform.sources.search.record import gbif_id


@dataclass(frozen=True)
class Survey:
    """The pages of a part: what they say of its size, and how many distinct records they hold, by dataset too."""

    announced: frozenset[int]
    found: int
    datasets: Counter[str]

    @property
    def whole(self) -> bool:
        """Whether all that GBIF announced is there, on each page the same number."""
        return self.announced <= {self.found}


class PageCache:
    """A folder with one compressed JSON file a page.

    Args:
        folder: where they lie.
        limit: GBIF's largest offset + limit.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    async def fetch(self, gbif: GbifClient, part: Part) -> AsyncIterator[int]:
        """Ask for the pages of a part that are missing, one after the other; yields each page's number of records.

        A part that grew meanwhile is followed to its new end, as far as GBIF's limit allows.
        """
        offset, count = 0, part.count
        while offset < min(count, self._limit):
            page = read_json(self._file(part, offset))
            if page is None:
                limit = min(PAGE_SIZE, self._limit - offset)
                page = await part.page(gbif, limit, offset)
                write_json(self._file(part, offset), {"count": page["count"], "results": page["results"]})
            count = page["count"]
            yield len(page["results"])
            offset += PAGE_SIZE

    def forget(self, part: Part) -> None:
        """Delete the pages of a part."""
        for file in self._files(part):
            file.unlink()

    def records(self, part: Part) -> Iterator[Json]:
        """The records of a part, page by page."""
        for file in self._files(part):
            yield from (read_json(file) or {})["results"]

    def survey(self, part: Part) -> "Survey":
        """What the pages of a part hold."""
        pages = [read_json(file) or {} for file in self._files(part)]
        keys = {gbif_id(record): str(record.get("datasetKey", "")) for page in pages for record in page["results"]}
        keys.pop("", None)
        return Survey(frozenset(page["count"] for page in pages), len(keys), Counter(keys.values()))

    def _files(self, part: Part) -> list[Path]:
        return sorted(self._folder.glob(f"{_key(part)}-*.json.gz"))

    def _file(self, part: Part, offset: int) -> Path:
        return self._folder / f"{_key(part)}-{offset:07}.json.gz"


def _key(part: Part) -> str:
    return fingerprint(sorted(part.query.items()), part.checklist_key, sorted(part.empty))


def read_json(file: Path) -> Any:
    """What is in a compressed JSON file, None where it is missing or not whole."""
    try:
        return json.loads(gzip.decompress(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError):  # a disk that was full, a machine that went down
        file.unlink(missing_ok=True)
        return None


def write_json(file: Path, content: object) -> None:
    """Write a compressed JSON file, atomic; its folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_bytes(gzip.compress(json.dumps(content).encode(), compresslevel=3, mtime=0))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
