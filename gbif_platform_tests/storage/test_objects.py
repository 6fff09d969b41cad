"""The object store: a folder and a real S3 server keep the same promises."""

import multiprocessing
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import pytest

from gbif_platform.storage import objects as module
from gbif_platform.storage.objects import PART_BYTES, ObjectStore, ObjectStoreError
from gbif_platform_tests.faults.outage import Relay
from gbif_platform_tests.storage import worker

pytest_plugins = "gbif_platform_tests.services"
ODD_KEYS = ["archives/10.15468_dl.x.zip", "a b/é+&?#.bin", "100%25.txt", "'quoted'/\"double\""]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return ObjectStore(f"{(tmp_path / 'the objects').as_uri()}")
    return ObjectStore(f"{request.getfixturevalue('s3')}/the prefix")


@pytest.fixture
def folder_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


def test_the_last_object_put_is_got(store: ObjectStore) -> None:
    for content in (bytes(range(256)), b"", b"shorter"):
        store.put("a/b.bin", content)
        assert store.get("a/b.bin") == content


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_are_kept_to_the_letter(store: ObjectStore, key: str) -> None:
    store.put(key, key.encode())
    assert store.get(key) == key.encode()
    assert list(store.list()) == [key]
    if path := store.path_of(key):
        assert path.read_bytes() == key.encode()
    else:
        assert store.url_of(key) == f"{store.url}/{key}"


def test_an_object_is_copied_whole_and_again_over_itself(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 60_000
    store.put("archives/a.zip", content)
    for _ in range(2):
        store.copy_to("archives/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == content
    with pytest.raises(FileNotFoundError):
        store.copy_to("archives/none.zip", tmp_path / "none.zip")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.zip"]


def test_ranges_are_exact_and_an_object_that_is_too_short_is_an_error(store: ObjectStore) -> None:
    store.put("shard.tar", b"0123456789")
    assert store.get_range("shard.tar", 3, 4) == b"3456"
    assert store.get_range("shard.tar", 9, 1) == b"9"
    with pytest.raises(ObjectStoreError, match=r"shard.tar in .* ends 3 bytes before 13"):
        store.get_range("shard.tar", 8, 5)
    with pytest.raises(ObjectStoreError, match=r"cannot read shard.tar in"):
        store.get_range("shard.tar", 10, 5)


def test_many_ranges_are_exact_and_in_the_order_asked_for(store: ObjectStore) -> None:
    content = os.urandom(2**20)
    store.put("shard.tar", content)
    ranges = [(900_000, 100), (0, 10), (5, 20), (30, 1), (2**20 - 7, 7)]
    assert store.get_ranges("shard.tar", ranges) == [content[offset : offset + size] for offset, size in ranges]
    assert store.get_ranges("shard.tar", []) == []
    with pytest.raises(ObjectStoreError, match=r"shard.tar"):
        store.get_ranges("shard.tar", [(0, 10), (2**20 - 7, 8)])
    with pytest.raises(FileNotFoundError):
        store.get_ranges("gone", [(0, 10)])


def test_neighbouring_ranges_come_in_one_request(s3: str, relay: Relay) -> None:
    store = ObjectStore(s3)
    store.put("shard.tar", bytes(4 * 2**20))
    before = relay.requests
    store.get_ranges("shard.tar", [(n * 20_000, 10_000) for n in range(100)])
    assert relay.requests - before == 1


def test_a_listing_tells_size_and_age(store: ObjectStore) -> None:
    store.put("a/b", b"123")
    (entry,) = store.entries("a")
    assert entry[:2] == ("a/b", 3)
    assert abs(datetime.now(UTC) - entry.modified) < timedelta(minutes=1)


def test_list_takes_a_prefix_for_a_folder(store: ObjectStore) -> None:
    for key in ("images/a/1.tar", "images/b/2.tar", "images2/3.tar", "top"):
        store.put(key, b"")
    assert sorted(store.list()) == ["images/a/1.tar", "images/b/2.tar", "images2/3.tar", "top"]
    assert sorted(store.list("images")) == sorted(store.list("images/")) == ["images/a/1.tar", "images/b/2.tar"]
    assert list(store.list("nothing/here")) == []


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    assert not store.exists("gone")
    with pytest.raises(FileNotFoundError):
        store.get("gone")
    with pytest.raises(FileNotFoundError):
        store.get_range("gone", 0, 1)


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    assert store.exists("a/b")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_a_file_is_uploaded_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "shard"
    file.write_bytes(os.urandom(2 * PART_BYTES + 12345))
    store.put("images/shard.tar", file)
    assert store.get("images/shard.tar") == file.read_bytes()
    if store.folder is None:
        bucket = store.url.split("/")[2]
        etag = boto3.client("s3").head_object(Bucket=bucket, Key="the prefix/images/shard.tar")["ETag"]
        assert etag.endswith('-3"'), "S3 counts the parts"


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "a//b", "nul\0"])
def test_keys_that_leave_the_store_are_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    with pytest.raises(ObjectStoreError, match="cannot write"):
        store.put(key, b"1")
    with pytest.raises(ObjectStoreError, match="cannot read"):
        store.get(key)
    assert not (tmp_path / "outside").exists()


def test_a_missing_file_is_not_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"old")
    with pytest.raises(ObjectStoreError, match=r"cannot write a to .*No such file"):
        store.put("a", tmp_path / "nothing")
    assert store.get("a") == b"old"


def test_a_spawned_process_gets_the_store(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a/b", b"for all")
    again = pickle.loads(pickle.dumps(store))
    assert (repr(again), again.get("a/b")) == (repr(store), b"for all")
    process = multiprocessing.get_context("spawn").Process(target=worker.get, args=(store, "a/b", tmp_path / "copy"))
    process.start()
    process.join()
    assert (tmp_path / "copy").read_bytes() == b"for all"


def test_a_forked_process_is_refused_where_it_would_hang(store: ObjectStore) -> None:
    store.put("a", b"1")
    child = os.fork()
    if child == 0:
        try:
            store.get("a")
        except ObjectStoreError as error:
            os._exit(42 if "forked process" in error.cause else 1)
        finally:
            os._exit(1)  # never into the rest of the test run
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 42


def uploads_in_progress(store: ObjectStore) -> bool:
    if store.folder:
        return any(path.stat().st_size for path in store.folder.glob("big#*"))
    bucket = store.url.split("/")[2]
    return bool(boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads"))


def test_kill_9_while_putting_leaves_the_object_of_before(store: ObjectStore, tmp_path: Path) -> None:
    size = 4 * PART_BYTES
    versions = [bytes([letter]) * size for letter in b"ab"]
    files = [tmp_path / "a", tmp_path / "b"]
    for file, content in zip(files, versions, strict=True):
        file.write_bytes(content)
    store.put("big", files[1])
    process = multiprocessing.get_context("spawn").Process(target=worker.put_for_ever, args=(store, "big", files))
    process.start()
    while not uploads_in_progress(store):
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert store.get("big") in versions, "whole, of one of the puts before"
    assert list(store.list()) == ["big"], "what the kill left behind is not shown"
    store.put("big", b"new")
    assert store.get("big") == b"new"
    if store.folder:
        assert uploads_in_progress(store)
        assert store.sweep(timedelta(hours=1)) == 0, "it may be a put in work"
        assert store.sweep(timedelta(0)) == 1
        assert not uploads_in_progress(store)
        assert store.get("big") == b"new"


UPLOAD = """
import resource, sys
from pathlib import Path
from gbif_platform.storage.objects import ObjectStore
store = ObjectStore(sys.argv[1])
store.put("small", b"1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put("large", Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_large_file_is_uploaded_in_bounded_memory(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as sparse:
        sparse.truncate(256 * 2**20)
    done = subprocess.run([sys.executable, "-c", UPLOAD, store.url, file], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "MB more than before"
    assert [entry.size for entry in store.entries() if entry.key == "large"] == [256 * 2**20]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk with room for files of `size` bytes at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("as_file", [False, True])
def test_without_room_the_old_object_stays(folder_store: ObjectStore, tmp_path: Path, as_file: bool) -> None:
    content = bytes(3 * PART_BYTES)
    (tmp_path / "file").write_bytes(content)
    folder_store.put("a", b"old")
    with largest_file(2**20), pytest.raises(ObjectStoreError, match=r"cannot write a in file://.*File too large") as no:
        folder_store.put("a", tmp_path / "file" if as_file else content)
    assert "\n" not in no.value.cause
    assert folder_store.get("a") == b"old"
    assert list(folder_store.list()) == ["a"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ObjectStoreError, match=r"cannot make the folder .*/taken/objects: Not a directory"):
        ObjectStore(str(tmp_path / "taken" / "objects"))


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "https://host/bucket", "s3://", "s3:bucket"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ObjectStoreError, match="is not supported"):
        ObjectStore(url)


def test_a_bucket_that_is_not_there_takes_nothing(s3: str) -> None:
    store = ObjectStore(f"{s3}-other")
    with pytest.raises(ObjectStoreError, match=r"cannot write a to s3://bucket-.*-other: .*404") as failure:
        store.put("a", b"1")
    assert "\n" not in failure.value.cause
    with pytest.raises(ObjectStoreError, match="cannot list"):
        list(store.list())


@pytest.fixture
def relay(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Between the store and its server, so that the server can be lost."""
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with Relay((address.hostname or "", address.port or 0)) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        yield relay


def test_a_server_that_is_lost_for_a_while_is_waited_for(
    s3: str, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=15))
    store, content = ObjectStore(s3), os.urandom(2 * PART_BYTES)
    (tmp_path / "shard").write_bytes(content)
    store.put("before", content)
    for doing, size in (
        (lambda: store.put("shard", tmp_path / "shard"), PART_BYTES),
        (lambda: store.get("before"), PART_BYTES),
        (lambda: store.copy_to("before", tmp_path / "copy"), PART_BYTES),
        (lambda: list(store.list()), 1),
    ):
        relay.down_after(size)
        back = threading.Timer(1.5, relay.up)
        back.start()
        doing()
        back.join()
    assert store.get("shard") == content
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("size", [1, 600, 900, 1200, 2000])
def test_a_listing_that_is_cut_goes_on_where_it_was(
    s3: str, relay: Relay, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=15))
    store, keys = ObjectStore(s3), [f"shards/{number:02d}" for number in range(12)]
    for key in keys:
        store.put(key, b"1")
    relay.down_after(size)
    back = threading.Timer(0.5, relay.up)
    back.start()
    assert list(store.list("shards")) == keys
    back.join()


def test_an_upload_that_has_to_be_given_up_leaves_nothing(
    s3: str, relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=1))
    store = ObjectStore(s3)
    store.put("shard", b"of before")
    (tmp_path / "shard").write_bytes(bytes(4 * PART_BYTES))
    relay.down_after(PART_BYTES)
    start = time.monotonic()
    with pytest.raises(ObjectStoreError, match=r"cannot write shard in s3://"):
        store.put("shard", tmp_path / "shard")
    assert time.monotonic() - start < 15, "it does not hang"
    relay.up()
    assert store.get("shard") == b"of before"
    assert list(store.list()) == ["shard"]


def test_a_server_that_does_not_answer_is_an_error_of_every_request(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    store = ObjectStore(s3)
    with pytest.raises(ObjectStoreError, match=f"cannot look for a in s3://bucket-.*127.0.0.1:{port}"):
        store.exists("a")
