"""Shards: found by position, equal for equal input, whole or not there."""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gbif_platform.images.shards import (
    ShardError,
    ShardWriter,
    member_header,
    read_member,
    sweep_orphans,
    verify_shard,
)
from gbif_platform.storage.objects import ObjectStore

pytest_plugins = "gbif_platform_tests.services"


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "s3":
        return ObjectStore(request.getfixturevalue("s3"))
    store: ObjectStore = request.getfixturevalue("objects")
    return store


NAME = "keep_ratio-256-jpeg-92"


def picture(seed: int) -> bytes:
    """A JPEG of noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write(objects: ObjectStore, pictures: dict[str, bytes], name: str = NAME) -> tuple[str, list[dict[str, Any]]]:
    rows = []
    with ShardWriter(objects, name) as writer:
        for url_id, data in pictures.items():
            offset, size = writer.add(url_id, data, ".jpg")
            digest = sha256(data).hexdigest()
            rows.append({"url_id": url_id, "shard_offset": offset, "shard_size": size, "sha256": digest})
        assert len(writer) == len(pictures)
        shard = writer.close()
    return shard, rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,90}", fullmatch=True), st.binary(min_size=1, max_size=2000), min_size=1
    )
)
def test_members_are_found_by_position_and_by_tar(objects: ObjectStore, pictures: dict[str, bytes]) -> None:
    shard, rows = write(objects, pictures, "original")
    for row in rows:
        assert read_member(objects, shard, row["shard_offset"], row["shard_size"]) == pictures[row["url_id"]]
    with tarfile.open(fileobj=BytesIO(objects.get(shard))) as tar:
        content = {member.name: tar.extractfile(member) for member in tar}
        assert {name: file.read() for name, file in content.items() if file} == {
            f"{url_id}.jpg": data for url_id, data in pictures.items()
        }
    assert verify_shard(objects, shard, rows) == []


def test_equal_input_gives_an_equal_shard(objects: ObjectStore) -> None:
    first, _ = write(objects, {"a": b"1", "b": b"2"})
    content = objects.get(first)
    second, _ = write(objects, {"a": b"1", "b": b"2"})
    assert (first, objects.get(second)) == (second, content)
    assert first == f"images/{NAME}/{sha256(content).hexdigest()[:16]}.tar"
    assert list(objects.list("images")) == [first]


def test_nothing_is_visible_before_the_shard_is_whole(objects: ObjectStore) -> None:
    with ShardWriter(objects, NAME) as writer:
        writer.add("a", b"1", ".jpg")
        part = Path(writer._file.name)
        assert part.exists()
        assert list(objects.list("images")) == []
    assert not part.exists()
    assert list(objects.list("images")) == []


@pytest.mark.parametrize("url_id", ["", "a.b", "a/b", "../a", "ö", "x" * 91])
def test_ids_that_cannot_name_a_member(objects: ObjectStore, url_id: str) -> None:
    with ShardWriter(objects, NAME) as writer, pytest.raises(ShardError, match="cannot name"):
        writer.add(url_id, b"1", ".jpg")


def test_an_id_comes_once(objects: ObjectStore) -> None:
    with ShardWriter(objects, NAME) as writer:
        writer.add("a", b"1", ".jpg")
        with pytest.raises(ShardError, match="a comes twice"):
            writer.add("a", b"2", ".jpg")


def found(objects: ObjectStore, shard: str, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(problem.url_id, problem.problem) for problem in verify_shard(objects, shard, rows)}


def test_verification_names_every_disagreement(store: ObjectStore) -> None:
    shard, rows = write(store, {url_id: picture(ord(url_id)) for url_id in "abcd"})
    assert verify_shard(store, shard, rows) == []
    content = bytearray(store.get(shard))
    content[rows[0]["shard_offset"]] ^= 1
    store.put(shard, bytes(content))
    rows[1]["shard_offset"] += 512
    rows[2]["url_id"] = "z"
    assert found(store, shard, rows) == {
        ("", "name_is_not_hash"),
        ("a", "wrong_bytes"),
        ("b", "wrong_position"),
        ("c", "not_in_index"),
        ("z", "not_in_shard"),
    }
    lost = {problem.url_id for problem in verify_shard(store, shard, rows) if problem.loses_picture}
    assert lost == {"a", "b", "z"}


def test_what_was_stored_as_it_is_may_still_be_no_picture(objects: ObjectStore) -> None:
    whole = picture(1)
    shard, rows = write(objects, {"whole": whole, "cut": whole[: len(whole) // 2], "text": b"<html>no picture</html>"})
    assert found(objects, shard, rows) == {("cut", "not_decodable"), ("text", "not_decodable")}


def test_only_what_is_lost_of_a_damaged_shard_is_lost(objects: ObjectStore) -> None:
    shard, rows = write(objects, {url_id: picture(ord(url_id)) for url_id in "abcd"})
    whole = objects.get(shard)

    objects.put(shard, whole[: rows[2]["shard_offset"] + 100])
    assert found(objects, shard, rows) == {
        ("", "name_is_not_hash"), ("", "unreadable"), ("c", "wrong_bytes"), ("d", "wrong_bytes"),
    }  # fmt: skip

    header = rows[1]["shard_offset"] - 512
    objects.put(shard, whole[:header] + bytes([255]) * 512 + whole[header + 512 :])
    assert found(objects, shard, rows) == {("", "name_is_not_hash"), ("", "unreadable")}, "every picture can be read"

    objects.delete(shard)
    assert found(objects, shard, rows) == {(url_id, "missing") for url_id in ("", "a", "b", "c", "d")}


VERIFY = """
import resource, sys
from gbif_platform.images.shards import verify_shard
from gbif_platform.storage.objects import ObjectStore
verify_shard(ObjectStore(sys.argv[1]), sys.argv[2], [])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
verify_shard(ObjectStore(sys.argv[1]), sys.argv[3], [])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_shard_is_verified_in_bounded_memory(store: ObjectStore) -> None:
    small, _ = write(store, {"a": b"1"}, "original")
    large, _ = write(store, {str(number): bytes(2**20) for number in range(150)}, "original")
    command = [sys.executable, "-c", VERIFY, store.url, small, large]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 80, "MB"


def test_no_room_on_the_disk_is_said_plainly(tmp_path: Path) -> None:
    code = """
import resource, sys
from gbif_platform.images.shards import ShardError, ShardWriter
from gbif_platform.storage.objects import ObjectStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with ShardWriter(ObjectStore(sys.argv[1]), "any") as writer:
        for number in range(50):
            writer.add(str(number), bytes(5000), ".jpg")
        writer.close()
except ShardError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write the shard in work" in done.stdout
    assert "TMPDIR" in done.stdout


def test_parts_of_runs_killed_long_ago_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("gbif-platform-old.tar.part", "gbif-platform-new.tar.part", "old.tar"):
        (tmp_path / name).touch()
    for name in ("gbif-platform-old.tar.part", "old.tar"):
        os.utime(tmp_path / name, (time.time() - 10**6,) * 2)
    sweep_orphans()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gbif-platform-new.tar.part", "old.tar"]


@given(name=st.text("0123456789abcdef_-.", min_size=1, max_size=100), size=st.integers(0, 8**11 - 1))
def test_a_members_header_is_tarfiles_own(name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    assert member_header(name, size) == member.tobuf(tarfile.USTAR_FORMAT)
