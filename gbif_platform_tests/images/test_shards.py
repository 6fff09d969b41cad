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

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbif_platform.images.shards import ShardError, ShardWriter, read_member, sweep_orphans, verify_shard
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


def write(objects: ObjectStore, pictures: dict[str, bytes]) -> tuple[str, list[dict[str, Any]]]:
    rows = []
    with ShardWriter(objects, Transform()) as writer:
        for url_id, data in pictures.items():
            offset, size = writer.add(url_id, data)
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
    shard, rows = write(objects, pictures)
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
    assert first == f"images/keep_ratio-256-jpeg-92/{sha256(content).hexdigest()[:16]}.tar"
    assert list(objects.list("images")) == [first]


def test_nothing_is_visible_before_the_shard_is_whole(objects: ObjectStore) -> None:
    with ShardWriter(objects, Transform()) as writer:
        writer.add("a", b"1")
        part = Path(writer._file.name)
        assert part.exists()
        assert list(objects.list("images")) == []
    assert not part.exists()
    assert list(objects.list("images")) == []


@pytest.mark.parametrize("url_id", ["", "a.b", "a/b", "../a", "ö", "x" * 91])
def test_ids_that_cannot_name_a_member(objects: ObjectStore, url_id: str) -> None:
    with ShardWriter(objects, Transform()) as writer, pytest.raises(ShardError, match="cannot name"):
        writer.add(url_id, b"1")


def test_an_id_comes_once(objects: ObjectStore) -> None:
    with ShardWriter(objects, Transform()) as writer:
        writer.add("a", b"1")
        with pytest.raises(ShardError, match="a comes twice"):
            writer.add("a", b"2")


def test_verification_names_every_disagreement(objects: ObjectStore) -> None:
    shard, rows = write(objects, {url_id: url_id.encode() * 100 for url_id in "abcd"})
    content = bytearray(objects.get(shard))
    content[rows[0]["shard_offset"]] ^= 1
    objects.put(shard, bytes(content))
    rows[1]["shard_offset"] += 512
    rows[2]["url_id"] = "z"
    problems = {(problem.url_id, problem.problem) for problem in verify_shard(objects, shard, rows)}
    assert problems == {
        ("", "name_is_not_hash"),
        ("a", "wrong_bytes"),
        ("b", "wrong_position"),
        ("c", "not_in_index"),
        ("z", "not_in_shard"),
    }


def test_verification_of_lost_and_torn_shards(objects: ObjectStore) -> None:
    shard, rows = write(objects, {"a": b"1" * 2000, "b": b"2" * 2000})
    objects.put(shard, objects.get(shard)[:1500])
    assert {problem.problem for problem in verify_shard(objects, shard, rows)} >= {"name_is_not_hash", "unreadable"}
    objects.delete(shard)
    assert [problem.problem for problem in verify_shard(objects, shard, rows)] == ["missing"]


def test_no_room_on_the_disk_is_said_plainly(tmp_path: Path) -> None:
    code = """
import resource, sys
from gbif_platform.images.shards import ShardError, ShardWriter
from gbif_platform.images.transform import Transform
from gbif_platform.storage.objects import ObjectStore
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with ShardWriter(ObjectStore(sys.argv[1]), Transform()) as writer:
        for number in range(50):
            writer.add(str(number), bytes(5000))
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
