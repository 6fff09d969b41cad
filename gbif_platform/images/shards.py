"""Shards: tar files in WebDataset layout whose members are found by (shard, offset, size).

A shard holds the pictures and nothing else, one member `<url_id>.jpg` each: labels and licences live in tables, so that
they can change while pixels do not. Time, owner and mode of members are fixed, so equal pictures in equal order give
equal bytes, and the name of a shard is the hash of its content.
"""

import re
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gbif_platform.errors import PlatformError
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore

# WebDataset ends a sample's key at the first dot; a USTAR name has at most 100 bytes.
MEMBER_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
# A reader may load a whole shard, so it also ends at this size.
MAX_SHARD_BYTES = 256 * 2**20

PART_PREFIX, PART_SUFFIX = "gbif-platform-", ".tar.part"
# No shard in work goes unwritten for so long: an older part was left behind by a killed run.
ORPHAN_AGE_SECONDS = 24 * 3600.0


class ShardError(PlatformError):
    """A shard could not be written."""


class ShardWriter:
    """Writes one shard to a local temporary file and, on `close`, puts it whole into the object store.

    As a context manager it discards the shard when left without `close`. Until `close` the store shows nothing.
    """

    def __init__(self, objects: ObjectStore, transform: Transform) -> None:
        self._objects = objects
        self._transform = transform
        self._keys: set[str] = set()
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by close() or discard()
            prefix=PART_PREFIX, suffix=PART_SUFFIX
        )
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def full(self) -> bool:
        """Whether the shard has reached the size at which it should be closed."""
        return self._file.tell() >= MAX_SHARD_BYTES

    def add(self, url_id: str, data: bytes) -> tuple[int, int]:
        """Append a picture; returns (offset, size) of its bytes within the shard.

        Raises:
            ShardError: an id that cannot name a member or is there already, or no room on the disk.
        """
        if not MEMBER_KEY.fullmatch(url_id):
            raise ShardError(f"url_id {url_id!r} cannot name a shard member", "use letters, digits, _ and - only")
        if url_id in self._keys:
            raise ShardError(f"url_id {url_id} comes twice", "plan every url_id once")
        member = tarfile.TarInfo(url_id + self._transform.suffix)
        member.size = len(data)
        try:
            self._tar.addfile(member, BytesIO(data))
        except OSError as error:
            raise self._no_room(error) from error
        self._keys.add(url_id)
        # USTAR: a header of one block, the data, padding to a whole block.
        blocks = -(-len(data) // tarfile.BLOCKSIZE)
        return self._file.tell() - blocks * tarfile.BLOCKSIZE, len(data)

    def close(self) -> str:
        """Put the shard into the store; returns its key, `images/<transform>/<16 hex digits of its sha256>.tar`.

        Raises:
            ShardError, ObjectStoreError: no room, or the store does not answer; nothing is visible then.
        """
        try:
            self._tar.close()
            self._file.flush()
            with Path(self._file.name).open("rb") as written:
                content = file_digest(written, "sha256").hexdigest()
        except OSError as error:
            raise self._no_room(error) from error
        key = f"images/{self._transform.key}/{content[:16]}.tar"
        self._objects.put(key, Path(self._file.name))
        self.discard()
        return key

    def discard(self) -> None:
        """Throw the temporary file away; harmless after `close`."""
        with suppress(OSError):  # what is still buffered may not fit on the disk, and is not wanted
            self._file.close()

    def _no_room(self, error: OSError) -> ShardError:
        return ShardError(
            f"cannot write the shard in work at {self._file.name}: {error.strerror or error}",
            "free disk space, or point TMPDIR to a folder with room",
        )


def sweep_orphans() -> None:
    """Remove the temporary files of runs that were killed long ago."""
    for part in Path(tempfile.gettempdir()).glob(f"{PART_PREFIX}*{PART_SUFFIX}"):
        with suppress(OSError):  # somebody else's, or gone already
            if time.time() - part.stat().st_mtime > ORPHAN_AGE_SECONDS:
                part.unlink()


def read_member(objects: ObjectStore, shard: str, offset: int, size: int) -> bytes:
    """The bytes of one picture. Raises FileNotFoundError where there is no such shard."""
    return objects.get_range(shard, offset, size)


@dataclass(frozen=True)
class ShardProblem:
    """Something that is wrong with a shard or its index rows; `url_id` is empty where it concerns the whole shard.

    `problem` is one of `missing`, `unreadable`, `name_is_not_hash`, `not_in_shard`, `not_in_index`, `wrong_position`,
    `wrong_bytes`.
    """

    shard: str
    url_id: str
    problem: str
    detail: str = ""


def verify_shard(objects: ObjectStore, shard: str, rows: Iterable[Mapping[str, Any]]) -> list[ShardProblem]:
    """Compare a shard with its index rows (`url_id`, `shard_offset`, `shard_size`, `sha256`); empty = all agree."""
    index = {str(row["url_id"]): row for row in rows}
    try:
        content = objects.get(shard)
    except FileNotFoundError:
        return [ShardProblem(shard, "", "missing")]
    problems = []
    if Path(shard).stem != sha256(content).hexdigest()[:16]:
        problems.append(ShardProblem(shard, "", "name_is_not_hash"))
    try:
        with tarfile.open(fileobj=BytesIO(content), mode="r:") as tar:
            members = {member.name.partition(".")[0]: (member.offset_data, member.size) for member in tar}
    except tarfile.TarError as error:
        return [*problems, ShardProblem(shard, "", "unreadable", str(error))]
    problems += [ShardProblem(shard, url_id, "not_in_index") for url_id in members.keys() - index.keys()]
    for url_id, row in index.items():
        problem = _compare(members.get(url_id), row, content)
        if problem:
            problems.append(ShardProblem(shard, url_id, *problem))
    return problems


def _compare(found: tuple[int, int] | None, row: Mapping[str, Any], content: bytes) -> tuple[str, str] | None:
    offset, size = row["shard_offset"], row["shard_size"]
    if found is None:
        return "not_in_shard", ""
    if found != (offset, size):
        return "wrong_position", f"index says {offset}+{size}, the tar says {found[0]}+{found[1]}"
    if sha256(content[offset : offset + size]).hexdigest() != row["sha256"]:
        return "wrong_bytes", ""
    return None
