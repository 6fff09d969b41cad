"""The members of a zip, a tar, a folder or a lone text file, read as streams: nothing is unpacked to disk."""

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Protocol, TypeVar, cast

from isal import isal_zlib

from gbif_platform.gbif.archive_errors import (
    ArchiveMissing,
    ArchiveUnsafe,
    MemberMissing,
    MemberUnreadable,
    NotAnArchive,
)

T = TypeVar("T")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
GIB = 1024**3
# A compression ratio says nothing about small members: a header line and a thousand empty rows reach any ratio.
RATIO_MATTERS_FROM = 64 * 1024**2
# What the standard library raises for damaged, cut, encrypted or exotically packed members.
DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    cast(type[Exception], isal_zlib.error),
    zipfile.BadZipFile,
    tarfile.TarError,
)
PACKED_BYTES = 1024**2
ENCRYPTED = 0x1  # bit of a zip member's flags
LOCAL_HEADER_BYTES = 30


class Readable(Protocol):
    """What streams of every kind of container have in common."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""

    def close(self) -> object:
        """Release what it holds."""


class Member(NamedTuple):
    """One file of an archive: `open` gives its bytes, `size` is their number, unpacked."""

    size: int
    open: Callable[[], Readable]


class InflatedMember:
    """A deflated zip member, inflated with ISA-L: several times as fast as zipfile's own stream, with its checks.

    Raises BadZipFile where the bytes do not have the size and the CRC-32 that the zip's directory declares, EOFError
    where they end early, isal_zlib.error where they are no deflated bytes.
    """

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._info = info
        self._inflater = isal_zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed_left, self._left, self._crc = info.compress_size, info.file_size, 0
        self._packed, self._full = b"", False
        self._file = path.open("rb")
        self._file.seek(info.header_offset)
        # The local header repeats name and extra field, the latter in another length than the directory's.
        name_size, extra_size = struct.unpack("<26xHH", self._file.read(LOCAL_HEADER_BYTES))
        self._file.seek(name_size + extra_size, 1)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, not above the declared size in all; fewer than `size` only at the end."""
        pieces, wanted = [], min(size, self._left)
        while wanted and not self._inflater.eof:
            # A full piece means that the inflater may hold more, also where it has taken all packed bytes.
            if not self._packed and not self._full:
                self._packed = self._next_packed()
            piece = self._inflater.decompress(self._packed, wanted)
            self._packed, self._full = self._inflater.unconsumed_tail, len(piece) == wanted
            wanted -= len(piece)
            self._left -= len(piece)
            self._crc = isal_zlib.crc32(piece, self._crc)
            pieces.append(piece)
        if size and wanted:
            raise EOFError(f"{self._left} of {self._info.file_size} bytes are missing")
        if not self._left and self._crc != self._info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._info.filename!r}")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next_packed(self) -> bytes:
        packed = self._file.read(min(PACKED_BYTES, self._packed_left))
        if not packed:
            raise EOFError(f"the packed bytes end {self._left} bytes too early")
        self._packed_left -= len(packed)
        return packed


class MemberStream:
    """The bytes of one member, from start to end. Raises MemberUnreadable where they are damaged or encrypted."""

    def __init__(self, member: Member, name: str) -> None:
        self._name = name
        self._raw = self._guarded(member.open)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        return self._guarded(lambda: self._raw.read(size))

    def __enter__(self) -> "MemberStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except DAMAGE as error:
            raise MemberUnreadable(
                f"{self._name} cannot be read: {error}", "get the archive again, or pack it anew with zip"
            ) from error


class ArchiveFiles:
    """Members by name, relative to the archive's root folder; a single folder around everything is taken off.

    Args:
        path: a zip, tar, tar.gz, folder, or one .csv, .tsv or .txt file.
        max_member_bytes: a member that declares more is refused.
        max_ratio: a member of at least 64 MiB that declares more than this many times its packed size is refused.

    Raises ArchiveMissing, NotAnArchive, ArchiveUnsafe.
    """

    def __init__(self, path: Path, *, max_member_bytes: int = 1024 * GIB, max_ratio: float = 500) -> None:
        self.path = path
        self._limits = (max_member_bytes, max_ratio)
        self._container: zipfile.ZipFile | tarfile.TarFile | None = None
        try:
            self._members = _without_outer_folder(self._read_members())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the container; streams that are still open end."""
        if self._container:
            self._container.close()

    @property
    def names(self) -> list[str]:
        """Names of all members, without those that macOS adds."""
        return list(self._members)

    def has(self, name: str) -> bool:
        """Whether there is such a member. Raises ArchiveUnsafe where the name points out of the archive."""
        return self._check_name(name) in self._members

    def size(self, name: str) -> int:
        """Unpacked size in bytes. Raises MemberMissing."""
        return self._member(name).size

    def open(self, name: str) -> MemberStream:
        """The member's bytes as a stream. Raises MemberMissing, MemberUnreadable, ArchiveUnsafe."""
        return MemberStream(self._member(name), f"{name} in {self.path}")

    def read(self, name: str, limit: int) -> bytes:
        """The whole of a small member, at most `limit` bytes. Raises as `open`, and ArchiveUnsafe above the limit."""
        if self.size(name) > limit:
            raise ArchiveUnsafe(
                f"{name} in {self.path} has {self.size(name)} bytes, {limit} are allowed", "look what is in it"
            )
        with self.open(name) as stream:
            return stream.read(limit)

    def _member(self, name: str) -> Member:
        if not self.has(name):
            raise MemberMissing(
                f"{name} is not in {self.path}, which holds {_some(self._members)}",
                "get the archive again, or correct its meta.xml",
            )
        return self._members[self._check_name(name)]

    def _read_members(self) -> dict[str, Member]:
        path = self.path
        if not path.exists():
            raise ArchiveMissing(f"there is no archive at {path}", "check the path")
        if path.is_dir():
            return self._folder_members()
        try:
            if zipfile.is_zipfile(path):
                return self._zip_members(zipfile.ZipFile(path))
            if tarfile.is_tarfile(path):
                return self._tar_members(tarfile.open(path))
        except DAMAGE as error:
            raise NotAnArchive(f"{path} is damaged: {error}", "download it again") from error
        if path.suffix.lower() in TEXT_SUFFIXES and path.stat().st_size:
            return {path.name: _file_member(path)}
        raise NotAnArchive(f"{path} is {_what_it_is(path)}", "give a Darwin Core Archive (.zip, .tar.gz or a folder)")

    def _folder_members(self) -> dict[str, Member]:
        # dataset/*.xml inside one outer folder is the deepest layout in use; a wrong path must not walk a whole disk.
        found = (p for depth in ("*", "*/*", "*/*/*") for p in self.path.glob(depth))
        return {
            p.relative_to(self.path).as_posix(): _file_member(p)
            for p in sorted(found)
            if p.is_file() and not p.is_symlink() and _wanted(p.relative_to(self.path).as_posix())
        }

    def _zip_members(self, container: zipfile.ZipFile) -> dict[str, Member]:
        self._container = container
        members = {}
        for info in container.infolist():
            name = self._check_name(info.filename)
            if not info.is_dir() and _wanted(name):
                self._check_size(name, info.file_size, info.compress_size)
                # Reading stops at the declared size, so that the limit holds for the true one as well.
                members[name] = Member(info.file_size, partial(self._open_zipped, container, info))
        return members

    def _open_zipped(self, container: zipfile.ZipFile, info: zipfile.ZipInfo) -> Readable:
        stream = container.open(info)  # refuses local headers that contradict the directory, and what is encrypted
        if info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits & ENCRYPTED:
            return stream
        stream.close()
        return InflatedMember(self.path, info)

    def _tar_members(self, container: tarfile.TarFile) -> dict[str, Member]:
        self._container = container
        packed, unpacked, members = self.path.stat().st_size, 0, {}
        for info in container:
            name = self._check_name(info.name)
            unpacked += info.size
            self._check_size(name, unpacked, packed)
            if info.isfile() and _wanted(name):
                members[name] = Member(info.size, partial(_extracted, container, info))
        return members

    def _check_name(self, name: str) -> str:
        """The name in its plain form, without `./`. Raises ArchiveUnsafe where it points out of the archive."""
        name = name.replace("\\", "/")
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or name[1:2] == ":":
            raise ArchiveUnsafe(f"{self.path} names the file {name!r}, outside of its own folder", "do not use it")
        return pure.as_posix()

    def _check_size(self, name: str, unpacked: int, packed: int) -> None:
        max_bytes, max_ratio = self._limits
        if unpacked > max_bytes:
            raise ArchiveUnsafe(
                f"{name} in {self.path} unpacks to {unpacked} bytes, {max_bytes} are allowed",
                "raise max_member_bytes if you trust the archive",
            )
        if unpacked >= RATIO_MATTERS_FROM and unpacked > max_ratio * max(packed, 1):
            raise ArchiveUnsafe(
                f"{name} in {self.path} unpacks to {unpacked / max(packed, 1):.0f} times its packed size",
                "raise max_ratio if you trust the archive",
            )


def _extracted(container: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    # None is for members that are no files, which are left out before.
    return cast(IO[bytes], container.extractfile(info))


def _file_member(path: Path) -> Member:
    return Member(path.stat().st_size, lambda: path.open("rb"))


def _wanted(name: str) -> bool:
    parts = name.split("/")
    return parts[0] != "__MACOSX" and not parts[-1].startswith("._") and parts[-1] != ".DS_Store"


def _without_outer_folder(members: dict[str, Member]) -> dict[str, Member]:
    outer = {name.partition("/")[0] for name in members}
    if len(outer) == 1 and all("/" in name for name in members):
        return {name.partition("/")[2]: member for name, member in members.items()}
    return members


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "no file"


def _what_it_is(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(512).lstrip().lower()
    if not start:
        return "an empty file"
    if start.startswith(b"pk"):
        return "a zip whose end is missing: it was cut"
    if start.startswith((b"<!doctype", b"<html")):
        return "a web page, no archive"
    return "no zip and no tar"
