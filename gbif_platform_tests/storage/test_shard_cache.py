"""Local copies of shards from a real S3 server: bounded, shared by processes, and never half."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.shard_cache import IN_USE_SECONDS, ShardCache
from gbif_platform_tests.faults.outage import Relay
from gbif_platform_tests.storage import worker

pytest_plugins = "gbif_platform_tests.services"
SPAWN = multiprocessing.get_context("spawn")
KB = 1000


@pytest.fixture
def store(s3: str) -> ObjectStore:
    store = ObjectStore(s3)
    for name in "abcd":
        store.put(f"images/t/{name}.tar", name.encode() * 100 * KB)
    return store


def cached(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def unused(folder: Path, *names: str) -> None:
    """Make copies look as if nobody had asked for them for long, the first named for longest."""
    for position, name in enumerate(names):
        long_ago = time.time() - 2 * IN_USE_SECONDS + position
        os.utime(folder / f"images+t+{name}.tar", (long_ago, long_ago))


def test_a_copy_is_whole_and_made_once(store: ObjectStore, tmp_path: Path) -> None:
    cache = ShardCache(store, tmp_path, 1000 * KB)
    path = cache.path_of("images/t/a.tar")
    assert path is not None
    assert path.read_bytes() == b"a" * 100 * KB
    store.delete("images/t/a.tar")
    assert ShardCache(store, tmp_path, 1000 * KB).path_of("images/t/a.tar") == path, "another process finds it"
    with pytest.raises(FileNotFoundError):
        cache.path_of("images/t/none.tar")
    cache.forget("images/t/a.tar")
    assert cached(tmp_path) == set()


def test_the_copy_unused_for_longest_makes_room(store: ObjectStore, tmp_path: Path) -> None:
    for name in "abc":
        ShardCache(store, tmp_path, 300 * KB).path_of(f"images/t/{name}.tar")
    unused(tmp_path, "b", "a", "c")
    ShardCache(store, tmp_path, 300 * KB).path_of("images/t/b.tar")  # used again
    ShardCache(store, tmp_path, 300 * KB).path_of("images/t/d.tar")
    assert cached(tmp_path) == {"images+t+b.tar", "images+t+c.tar", "images+t+d.tar"}


def test_what_does_not_fit_beside_copies_in_use_is_read_from_afar(store: ObjectStore, tmp_path: Path) -> None:
    cache = ShardCache(store, tmp_path, 250 * KB)
    paths = [cache.path_of(f"images/t/{name}.tar") for name in "abcdabcd"]
    assert [path is not None for path in paths] == [True, True, False, False] * 2
    assert cached(tmp_path) == {"images+t+a.tar", "images+t+b.tar"}
    assert cache.get_range("images/t/d.tar", 5, 3) == b"ddd"


def test_a_folder_needs_no_copies(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"))
    store.put("images/t/a.tar", b"1")
    cache = ShardCache(store, tmp_path / "cache", 1000)
    assert cache.path_of("images/t/a.tar") == tmp_path / "objects/images/t/a.tar"


@pytest.fixture
def relay(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Between processes started from now on and the server."""
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with Relay((address.hostname or "", address.port or 0)) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{relay.port}")
        yield relay


def test_processes_that_want_the_same_shard_copy_it_once(store: ObjectStore, tmp_path: Path, relay: Relay) -> None:
    store.put("images/t/big.tar", bytes(20_000 * KB))
    cache, before = ShardCache(store, tmp_path, 100_000 * KB), relay.passed
    processes = [SPAWN.Process(target=worker.read_cached, args=(cache, "images/t/big.tar")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0], "each found 20 MB"
    assert relay.passed - before < 30_000 * KB


def test_kill_9_while_copying_leaves_no_broken_copy(store: ObjectStore, tmp_path: Path, relay: Relay) -> None:
    content = os.urandom(20_000 * KB)
    store.put("images/t/big.tar", content)
    cache = ShardCache(store, tmp_path, 100_000 * KB)
    relay.down_after(15_000 * KB)  # 10 MB are written at once
    process = SPAWN.Process(target=worker.read_cached, args=(cache, "images/t/big.tar"))
    process.start()
    while not any(path.stat().st_size > 1000 * KB for path in tmp_path.glob(".images*")):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    relay.up()
    assert not (tmp_path / "images+t+big.tar").exists()
    path = cache.path_of("images/t/big.tar")
    assert path is not None
    assert path.read_bytes() == content
