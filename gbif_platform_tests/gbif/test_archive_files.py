import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gbif_platform.errors import PlatformError
from gbif_platform.gbif import archive_files
from gbif_platform.gbif.archive_errors import (
    ArchiveError,
    ArchiveMissing,
    ArchiveUnsafe,
    MemberMissing,
    MemberUnreadable,
    NotAnArchive,
)
from gbif_platform.gbif.archive_files import ArchiveFiles

CONTENT = {"meta.xml": b"<archive/>", "occurrence.txt": b"a\tb\n1\t2\n", "dataset/x.xml": b"<eml/>"}


def as_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in CONTENT.items():
            archive.writestr(f"outer/{name}", data)
        archive.writestr("__MACOSX/outer/._meta.xml", b"x")
        archive.writestr("outer/._meta.xml", b"x")
    return path


def as_tar(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in CONTENT.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def as_folder(path: Path) -> Path:
    for name, data in CONTENT.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    (path / ".DS_Store").write_bytes(b"x")
    return path


def read_all(path: Path) -> dict[str, bytes]:
    files = ArchiveFiles(path)
    return {name: files.read(name, 10_000) for name in files.names}


@pytest.mark.parametrize(("make", "name"), [(as_zip, "a.zip"), (as_tar, "a.tar.gz"), (as_folder, "folder")])
def test_members_are_the_same_in_every_container(tmp_path: Path, make: Callable[[Path], Path], name: str) -> None:
    files = ArchiveFiles(make(tmp_path / name))
    assert sorted(files.names) == sorted(CONTENT)
    for member, data in CONTENT.items():
        assert files.size(member) == len(data)
        with files.open(member) as stream:
            assert stream.read(3) + stream.read(1000) == data
    files.close()


def test_a_missing_member_is_named_with_those_that_exist(tmp_path: Path) -> None:
    files = ArchiveFiles(as_zip(tmp_path / "a.zip"))
    with pytest.raises(MemberMissing, match=r"multimedia\.txt.*occurrence\.txt"):
        files.open("multimedia.txt")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.txt", "a/../../x.txt", "..\\x.txt", "C:\\x.txt"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ArchiveUnsafe, match="outside"):
        ArchiveFiles(tmp_path / "a.zip")
    with pytest.raises(ArchiveUnsafe):
        ArchiveFiles(as_folder(tmp_path / "folder")).open(name)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = as_folder(tmp_path / "folder")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert "link.txt" not in ArchiveFiles(folder).names


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_files, "RATIO_MATTERS_FROM", 100_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("occurrence.txt", b"0" * 1_000_000)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("occurrence.txt")
        info.size = 1_000_000
        archive.addfile(info, io.BytesIO(b"0" * 1_000_000))
    for name in ("a.zip", "a.tgz"):
        with pytest.raises(ArchiveUnsafe, match="times its packed size"):
            ArchiveFiles(tmp_path / name)
        with pytest.raises(ArchiveUnsafe, match="1000000 bytes"):
            ArchiveFiles(tmp_path / name, max_ratio=1e9, max_member_bytes=999_999)
        ArchiveFiles(tmp_path / name, max_ratio=1e9).close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><p>Sign in", "web page"),
        (b"%PDF-1.4", "no zip"),
    ],
)
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(NotAnArchive, match=says):
        ArchiveFiles(tmp_path / "a.zip")


@pytest.mark.parametrize(("make", "name"), [(as_zip, "a.zip"), (as_tar, "a.tar.gz")])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.8])
def test_a_cut_container_is_an_archive_error(
    tmp_path: Path, make: Callable[[Path], Path], name: str, kept: float
) -> None:
    whole = make(tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ArchiveError) as caught:
        read_all(tmp_path / name)
    assert isinstance(caught.value, PlatformError)
    assert caught.value.next_step


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing, match=r"nothing\.zip"):
        ArchiveFiles(tmp_path / "nothing.zip")


def read_member(path: Path, size: int = 1000) -> bytes:
    files = ArchiveFiles(path)
    with files.open("occurrence.txt") as stream:
        pieces = list(iter(lambda: stream.read(size), b""))
    files.close()
    assert all(len(piece) == size for piece in pieces[:-1])
    return b"".join(pieces)


TEXT = b"".join(b"%d\tSorbus aucuparia\t%d\n" % (n, n * n) for n in range(5000))


@pytest.mark.parametrize("size", [1, 7, 1000, 10**7])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_packing_gives_the_same_bytes(tmp_path: Path, method: int, size: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("occurrence.txt", TEXT[: size * 1000])
        archive.writestr("empty.txt", b"")
    assert read_member(tmp_path / "a.zip", size) == TEXT[: size * 1000]
    with ArchiveFiles(tmp_path / "a.zip").open("empty.txt") as stream:
        assert stream.read(size) == b""


def test_a_member_behind_four_gibibytes_and_with_zip64_fields_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.zip").open("wb") as sparse:
        sparse.truncate(5 * 1024**3)
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("occurrence.txt", "w", force_zip64=True) as member,
    ):
        member.write(TEXT)
    assert read_member(tmp_path / "a.zip") == TEXT


def test_a_member_that_was_deflated_in_parts_is_read_whole(tmp_path: Path) -> None:
    # GBIF joins the parts that its cluster deflated, each ended by a full flush, to one member.
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [
        deflater.compress(TEXT[n : n + 10_000]) + deflater.flush(zlib.Z_FULL_FLUSH) for n in range(0, len(TEXT), 10_000)
    ]
    packed = b"".join(parts) + deflater.flush()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("occurrence.txt", packed)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for start in (8, data.index(b"PK\x01\x02") + 10):  # method, then CRC-32 and sizes six bytes further
        struct.pack_into("<H4xLLL", data, start, zipfile.ZIP_DEFLATED, zlib.crc32(TEXT), len(packed), len(TEXT))
    (tmp_path / "a.zip").write_bytes(data)
    assert read_member(tmp_path / "a.zip") == TEXT


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [(14, zlib.crc32(TEXT) ^ 1, "CRC"), (22, len(TEXT) + 1, "missing"), (22, len(TEXT) - 1, "CRC")],
)
def test_bytes_that_are_not_those_of_the_directory_are_refused(
    tmp_path: Path, field: int, value: int, says: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("occurrence.txt", TEXT)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for start in (0, data.index(b"PK\x01\x02") + 2):  # the directory has one more field before these
        struct.pack_into("<L", data, start + field, value)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(MemberUnreadable, match=rf"occurrence\.txt.*{says}"):
        read_member(tmp_path / "a.zip")


def test_damaged_bytes_and_encryption_are_typed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("occurrence.txt", os.urandom(5000))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[3000] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(MemberUnreadable, match=r"occurrence\.txt"):
        read_all(tmp_path / "a.zip")
    data[6] |= 1  # the flag of an encrypted member, in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(MemberUnreadable, match=r"occurrence\.txt.*encrypted"):
        ArchiveFiles(tmp_path / "b.zip").open("occurrence.txt")
