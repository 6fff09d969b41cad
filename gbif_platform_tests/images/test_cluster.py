"""A fetching run on a Ray cluster of several nodes: the same pictures as on one machine, whatever is lost meanwhile."""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from gbif_platform.images.cluster import ClusterError, fetch_images_on_ray
from gbif_platform.images.plan import Wanted
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import FetchProgress, fetch_images
from gbif_platform.images.shards import verify_shard
from gbif_platform.images.transform import Transform
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.storage import tables
from gbif_platform.storage.objects import ObjectStore
from gbif_platform_tests.images.faulty_host import FaultyHost

pytest_plugins = "gbif_platform_tests.services"
pytest.importorskip("ray", reason="needs Ray: pip install 'gbif-platform[ray]'")

OPTIONS = FetchOptions(stall_timeout=10, deadline=20, retries=1, backoff=0.01, allow_private=True)
SMALL = Transform(32)
STORE = 80 * 2**20  # bytes; the least that Ray takes is 75 MiB
RAY_PROCESSES = ("raylet", "gcs_server", "ray::")


def ray_processes() -> list[psutil.Process]:
    """Ours that Ray has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(name in " ".join(child.cmdline()[:3]) for name in RAY_PROCESSES):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    size: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    config = {"worker_niceness": 0}  # at Ray's 15 they starve beside other tests
    cluster = Cluster(initialize_head=True, head_node_args=size | {"_system_config": config})
    logs = cluster.list_all_nodes()[0].get_session_dir_path()
    try:
        for _ in range(2):
            cluster.add_node(**size)
        yield cluster
    finally:
        cluster.shutdown()
        _, alive = psutil.wait_procs(ray_processes(), timeout=10)
        shutil.rmtree(logs, ignore_errors=True)
        assert alive == []


@pytest.fixture
def platform(tmp_path: Path, postgres: str, s3: str) -> Iterator[Platform]:
    """Catalogue in PostgreSQL, pictures in S3: what several machines can share."""
    platform = Platform(Settings(home=tmp_path, catalog=postgres, data=f"{s3}/here"))
    yield platform
    platform.lake.close()


@contextmanager
def hosts(number: int, delay: float = 0.0) -> Iterator[list[FaultyHost]]:
    """Servers at ports of their own."""
    with ExitStack() as stack:
        yield [stack.enter_context(FaultyHost(delay=delay)) for _ in range(number)]


def node_with_a_worker(cluster: Any, seconds: float = 60) -> Any:
    """Not the head. A worker that Ray has yet to start would only be started elsewhere, and nothing be lost."""
    from ray._private.state import actors

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        homes = {actor["Address"]["NodeID"] for actor in actors(actor_state_name="ALIVE").values()}
        for node in cluster.worker_nodes:
            if node.node_id in homes:
                return node
        time.sleep(0.1)
    raise AssertionError(f"no worker but the head's within {seconds} s")


def cut_the_power(cluster: Any, node: Any) -> None:
    """Its workers first: they outlive their node by some seconds, in which they may end their share."""
    for processes in node.all_processes.values():
        for started in processes:
            for child in psutil.Process(started.process.pid).children(recursive=True):
                child.kill()
    cluster.remove_node(node, allow_graceful=False)


def outcome(rows: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {row["url_id"]: tuple(row[name] or None for name in ("status", "reason", "sha256")) for row in rows}


def test_a_node_dies_and_the_result_is_that_of_one_machine(
    cluster: Any, platform: Platform, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[float] = []
    with hosts(4, delay=0.03) as (giant, *others):
        paths = [f"good/{number}" for number in range(150)]
        urls = [giant.url(path) for path in paths]
        urls += [host.url(f"good/{number}") for host in others for number in range(20)]
        urls += [host.url(path) for host in others for path in ("page", "status/404", "hang_up", "flaky?1", "half")]
        urls += ["urn:x", "http://nowhere.invalid/1"]
        plan = [Wanted(f"u{number}", url) for number, url in enumerate(urls)]

        def commit(rows: list[dict[str, Any]]) -> None:
            assert threading.current_thread() is threading.main_thread()
            tables.add_images(platform.lake, rows, run_id="r")
            if not killed:  # no other worker has ended: their rows would have come before
                cut_the_power(cluster, node_with_a_worker(cluster))
                killed.append(time.monotonic())

        shown: list[tuple[int, int]] = []
        with caplog.at_level(logging.WARNING):
            summary = fetch_images_on_ray(
                iter(plan),
                total=len(plan),
                objects=platform.objects,
                commit=commit,
                transform=SMALL,
                options=OPTIONS,
                progress=lambda state: shown.append((state.done, state.total)),
                shard_images=20,
                address=cluster.address,
            )
        assert "Ray lost a worker" in caplog.text
        rows = platform.lake.frame("SELECT * FROM images").to_dicts()

        alone: list[dict[str, Any]] = []
        expected = fetch_images(
            plan,
            total=len(plan),
            objects=ObjectStore(str(tmp_path / "alone")),
            commit=alone.extend,
            transform=SMALL,
            options=OPTIONS,
        )
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    assert len(rows) == len(plan)
    assert outcome(rows) == outcome(alone)
    numbers = ("total", "done", "ok", "failed", "refused", "reasons", "bytes_received", "bytes_stored")
    assert [getattr(summary, name) for name in numbers] == [getattr(expected, name) for name in numbers]
    assert shown[-1] == (len(plan), len(plan))
    stored = {row["shard"] for row in rows} - {None}
    assert stored == set(summary.shards) <= set(platform.objects.list("images"))
    for shard in stored:
        assert verify_shard(platform.objects, shard, [row for row in rows if row["shard"] == shard]) == []


def most_together(host: FaultyHost) -> int:
    """Requests at the host at the same time: those that came within the delay of one answer."""
    times = [seen.time for seen in host.seen]
    return max(sum(start <= time < start + 0.9 * host.delay for time in times) for start in times)


def test_a_host_that_several_workers_ask_sees_no_more_requests_together(cluster: Any, s3: str) -> None:
    with hosts(1, delay=0.1) as (host,):
        plan = [(f"u{number}", host.url(f"good/{number}")) for number in range(40)]
        summary = fetch_images_on_ray(
            plan,
            total=40,
            objects=ObjectStore(s3),
            commit=lambda _: None,
            options=OPTIONS.model_copy(update={"per_host": 3}),
            address=cluster.address,
        )
        assert summary.ok == 40
        assert most_together(host) <= 3


def test_one_worker_alone_asks_the_cache_for_what_has_failed(cluster: Any, s3: str) -> None:
    calls: list[list[dict[str, Any]]] = []
    with hosts(3) as (first, second, cache):
        cache.delay = 0.05
        plan = [Wanted(f"a{number}", first.url(f"status/404?{number}"), gbif_id=str(number)) for number in range(6)]
        plan += [Wanted(f"b{number}", second.url(f"status/500?{number}"), gbif_id=str(number)) for number in range(6)]
        plan += [
            Wanted("no_id", second.url("status/404")),
            Wanted("gone", second.url("status/410"), gbif_id="1"),
            Wanted("good", first.url("good/1"), gbif_id="1"),
        ]
        summary = fetch_images_on_ray(
            plan,
            total=len(plan),
            objects=ObjectStore(s3),
            commit=calls.append,
            options=OPTIONS.model_copy(update={"gbif_cache": cache.url("good/7?")}),
            address=cluster.address,
        )
        asked = Counter(cache.targets())
        assert (len(asked), set(asked.values())) == (12, {1})
        assert most_together(cache) == 1
    assert (summary.done, summary.ok, summary.failed) == (15, 13, 2)
    assert summary.reasons == {"http_404": 1, "http_410": 1}
    last = {row["url_id"]: row for call in calls for row in call}
    assert {url_id: row["url"] for url_id, row in last.items()} == {wanted.url_id: wanted.url for wanted in plan}
    from_cache = {url_id for url_id, row in last.items() if row["rendition"] == "gbif_cache"}
    assert from_cache == last.keys() - {"no_id", "gone", "good"}
    assert {last[url_id]["status"] for url_id in from_cache} == {"ok"}
    assert "/occurrence/1/media/" in last["a1"]["fetched_url"]


def test_an_error_of_commit_stops_all_workers_and_is_the_callers(cluster: Any, s3: str) -> None:
    def commit(_: list[dict[str, Any]]) -> None:
        raise OSError(28, "No space left on device")

    with hosts(3, delay=0.02) as started:
        plan = [(f"{host.port}-{number}", host.url(f"good/{number}")) for number in range(500) for host in started]
        with pytest.raises(OSError, match="No space left"):
            fetch_images_on_ray(
                plan,
                total=len(plan),
                objects=ObjectStore(s3),
                commit=commit,
                options=OPTIONS,
                shard_images=5,
                address=cluster.address,
            )
        asked = [len(host.seen) for host in started]
        time.sleep(0.3)
        assert [len(host.seen) for host in started] == asked


def test_an_error_of_a_worker_is_told_as_on_one_machine(cluster: Any, s3: str) -> None:
    with hosts(1) as (host,), pytest.raises(ClusterError, match=r"a/b") as error:
        fetch_images_on_ray(
            [("a/b", host.url("good/1"))],
            total=1,
            objects=ObjectStore(s3),
            commit=lambda _: None,
            options=OPTIONS,
            address=cluster.address,
        )
    assert error.value.next_step == "use letters, digits, _ and - only"


def test_a_picture_that_kills_every_worker_ends_the_run(cluster: Any, s3: str) -> None:
    committed: list[str] = []

    def kill_workers(_: FetchProgress) -> None:
        for process in ray_processes():
            if any("_Worker" in word for word in process.cmdline()):
                process.send_signal(signal.SIGKILL)

    with hosts(1, delay=30) as (host,), pytest.raises(ClusterError, match="in a row"):
        fetch_images_on_ray(
            [("u1", host.url("good/1"))],
            total=1,
            objects=ObjectStore(s3),
            commit=lambda rows: committed.extend(row["url_id"] for row in rows),
            options=OPTIONS,
            progress=kill_workers,
            address=cluster.address,
        )
    assert committed == []


def test_a_cluster_that_is_not_there_is_told(s3: str) -> None:
    with pytest.raises(ClusterError) as error:
        fetch_images_on_ray([], total=0, objects=ObjectStore(s3), commit=lambda _: None, address="127.0.0.1:1")
    assert "127.0.0.1:1" in error.value.cause


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError) as error:
        fetch_images_on_ray([], total=0, objects=ObjectStore(str(tmp_path)), commit=lambda _: None)
    assert "gbif-platform[ray]" in error.value.next_step
