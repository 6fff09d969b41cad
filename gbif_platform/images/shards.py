"""Shards: tar files in WebDataset layout whose members are found by (shard, offset, size).

A shard holds the pictures and nothing else, one member `<url_id>.jpg` each: labels and licences live in tables, so that
they can change while pixels do not. Time, owner and mode of members are fixed, so equal pictures in equal order give
equal bytes, and the name of a shard is the hash of its content.
"""

import re
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from PIL import Image

from gbif_platform.errors import PlatformError
from gbif_platform.storage.objects import ObjectStore

# WebDataset ends a sample's key at the first dot; a USTAR name has at most 100 bytes.
MEMBER_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")
ORIGINAL = "original"
"""Name of the shards that hold bodies as hosts served them, which need not be what every library decodes."""
# A reader may load a whole shard, so it also ends at this size.
MAX_SHARD_BYTES = 256 * 2**20

BUFFER_BYTES = 2**20
HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
PART_PREFIX, PART_SUFFIX = "gbif-platform-", ".tar.part"
# No shard in work goes unwritten for so long: an older part was left behind by a killed run.
ORPHAN_AGE_SECONDS = 24 * 3600.0


class ShardError(PlatformError):
    """A shard could not be written."""


class ShardWriter:
    """Writes one shard to a local temporary file and, on `close`, puts it whole into the object store.

    As a context manager it discards the shard when left without `close`. Until `close` the store shows nothing.

    Args:
        name: the folder of the shard below `images/`: the key of a transform, or `original`.
    """

    def __init__(self, objects: ObjectStore, name: str) -> None:
        self._objects = objects
        self._name = name
        self._keys: set[str] = set()
        part = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed by close() or discard()
            prefix=PART_PREFIX, suffix=PART_SUFFIX, buffering=BUFFER_BYTES
        )
        self._part = part
        self._path = Path(part.name)
        self._file: IO[bytes] = part.file
        self._digest = sha256()
        self._size = 0
        self._ended = False

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
        return self._size >= MAX_SHARD_BYTES

    def add(self, url_id: str, data: bytes, suffix: str) -> tuple[int, int]:
        """Append a picture as `<url_id><suffix>`; returns (offset, size) of its bytes within the shard.

        Raises:
            ShardError: an id that cannot name a member or is there already, or no room on the disk.
        """
        if not MEMBER_KEY.fullmatch(url_id):
            raise ShardError(f"url_id {url_id!r} cannot name a shard member", "use letters, digits, _ and - only")
        if url_id in self._keys:
            raise ShardError(f"url_id {url_id} comes twice", "plan every url_id once")
        self._write(member_header(url_id + suffix, len(data)))
        offset = self._size
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        self._keys.add(url_id)
        return offset, len(data)

    def close(self) -> str:
        """Put the shard into the store; returns its key, `images/<name>/<16 hex digits of its sha256>.tar`.

        Raises:
            ShardError, ObjectStoreError: no room, or the store does not answer; nothing is visible then, and `close`
                may be called again.
        """
        if not self._ended:
            end = 2 * tarfile.BLOCKSIZE
            self._write(bytes(end + -(self._size + end) % tarfile.RECORDSIZE))
            self._ended = True
        try:
            self._file.flush()
        except OSError as error:
            raise self._no_room(error) from error
        key = f"images/{self._name}/{self._digest.hexdigest()[:16]}.tar"
        self._objects.put(key, self._path)
        self.discard()
        return key

    def discard(self) -> None:
        """Throw the temporary file away; harmless after `close`."""
        with suppress(OSError):  # what is still buffered may not fit on the disk, and is not wanted
            self._part.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._no_room(error) from error
        self._digest.update(data)
        self._size += len(data)

    def _no_room(self, error: OSError) -> ShardError:
        return ShardError(
            f"cannot write the shard in work at {self._path}: {error.strerror or error}",
            "free disk space, or point TMPDIR to a folder with room",
        )


def member_header(name: str, size: int) -> bytes:
    """The USTAR header that `TarInfo.tobuf` makes of a plain file with defaults; in a tenth of its time."""
    block = bytearray(HEADER)
    block[:100] = name.encode().ljust(100, b"\0")
    block[124:136] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


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
    """Something that is wrong with a shard or its index rows.

    `problem` is of the whole shard, and `url_id` empty: `missing`, `unreadable`, `name_is_not_hash`; or of a picture
    that has to be fetched again: `missing` (with its shard), `not_in_shard`, `wrong_position`, `wrong_bytes`,
    `not_decodable`; or of a member that the index does not know: `not_in_index`.
    """

    shard: str
    url_id: str
    problem: str
    detail: str = ""

    @property
    def loses_picture(self) -> bool:
        """Whether the picture `url_id` cannot be had from the shard."""
        return bool(self.url_id) and self.problem != "not_in_index"

    @property
    def place(self) -> tuple[str, str, str]:
        """Shard, url_id, and what is wrong there."""
        return self.shard, self.url_id, f"{self.problem} {self.detail}".strip()


def verify_shard(objects: ObjectStore, shard: str, rows: Iterable[Mapping[str, Any]]) -> list[ShardProblem]:
    """Compare a shard with its index rows (`url_id`, `shard_offset`, `shard_size`, `sha256`); empty = all agree.

    One picture at a time is in memory; a shard from S3 goes through a temporary file.

    Raises:
        ObjectStoreError: the store does not answer.
    """
    index = {str(row["url_id"]): row for row in rows}
    try:
        with _opened(objects, shard) as file:
            return list(_problems(shard, file, index))
    except FileNotFoundError:
        return [ShardProblem(shard, url_id, "missing") for url_id in ("", *index)]


@contextmanager
def _opened(objects: ObjectStore, shard: str) -> Iterator[IO[bytes]]:
    if path := objects.path_of(shard):
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix=PART_PREFIX) as folder:
        copy = Path(folder) / "shard.tar"
        objects.copy_to(shard, copy)
        with copy.open("rb") as file:
            yield file


def _problems(shard: str, file: IO[bytes], index: Mapping[str, Mapping[str, Any]]) -> Iterator[ShardProblem]:
    if Path(shard).stem != file_digest(file, "sha256").hexdigest()[:16]:  # type: ignore[arg-type]
        yield ShardProblem(shard, "", "name_is_not_hash")
    members, torn = _members(file)
    if torn:
        yield ShardProblem(shard, "", "unreadable", torn)
    for url_id in members.keys() - index.keys():
        yield ShardProblem(shard, url_id, "not_in_index")
    for url_id, row in index.items():
        place = row["shard_offset"], row["shard_size"]
        # Past a torn header the tar tells nothing, but a picture may lie whole where the index says.
        found = members.get(url_id, place if torn else None)
        problem = _compare(found, row, file, decode=Path(shard).parent.name != ORIGINAL)
        if problem:
            yield ShardProblem(shard, url_id, *problem)


def _members(file: IO[bytes]) -> tuple[dict[str, tuple[int, int]], str]:
    """(offset, size) of each member by its key, and why there may be more of them; empty = the tar is whole."""
    members: dict[str, tuple[int, int]] = {}
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                members[member.name.partition(".")[0]] = (member.offset_data, member.size)
            file.seek(tar.offset)  # the library takes a damaged header for the end
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                return members, f"no header at byte {tar.offset}"
    except tarfile.TarError as error:
        return members, str(error)
    return members, ""


def _compare(
    found: tuple[int, int] | None, row: Mapping[str, Any], file: IO[bytes], *, decode: bool
) -> tuple[str, str] | None:
    offset, size = row["shard_offset"], row["shard_size"]
    if found is None:
        return "not_in_shard", ""
    if found != (offset, size):
        return "wrong_position", f"index says {offset}+{size}, the tar says {found[0]}+{found[1]}"
    file.seek(offset)
    data = file.read(size)
    if sha256(data).hexdigest() != row["sha256"]:
        return "wrong_bytes", ""
    return _not_decodable(data) if decode else None


def _not_decodable(data: bytes) -> tuple[str, str] | None:
    """What is wrong with a picture whose bytes are as they were stored: it was no whole picture then."""
    try:
        with Image.open(BytesIO(data)) as image:
            image.draft("RGB", (8, 8))  # a JPEG is read whole all the same, in two thirds of the time
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return "not_decodable", str(error)
    return None
