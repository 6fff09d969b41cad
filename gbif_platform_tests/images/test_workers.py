"""Worker processes: the same fates as in one process, and none is lost when a worker is."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from hashlib import sha256
from io import BytesIO

import psutil
import pytest
from PIL import Image

from gbif_platform.images import workers
from gbif_platform.images.fetch import fetch
from gbif_platform.images.transform import ImageRefused, transform_image
from gbif_platform.images.workers import WorkersFailed
from gbif_platform_tests.images import faulty_host
from gbif_platform_tests.images.faulty_host import FaultyHost, Reply, picture
from gbif_platform_tests.images.fetching import OPTIONS, TRANSFORM, fetch_all, run
from gbif_platform_tests.images.test_fetch import FAULTS, ROBOTS

# Starting takes a moment, in which no request is answered.
TWO = OPTIONS.model_copy(update={"processes": 2, "stall_timeout": 1.5, "deadline": 3, "robots": ROBOTS})


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


def own_workers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "gbif_platform.images.worker" in child.cmdline()]


def test_every_fault_has_the_same_fate_as_in_one_process() -> None:
    faults = [*FAULTS, ("robots/noai", "refused", "robots", 1)]
    with ExitStack() as stack:
        hosts = [stack.enter_context(FaultyHost()) for _ in faults]
        bad = [host.url(path) for host, (path, *_) in zip(hosts, faults, strict=True)]
        good = [[host.url(f"good/{number}") for number in (1, 2)] for host in hosts]
        results = fetch_all([url for bad_url, goods in zip(bad, good, strict=True) for url in (bad_url, *goods)], TWO)
    fates = [(results[url].status, results[url].reason) for url in bad]
    assert fates == [(status, reason) for _, status, reason, _ in faults]
    for goods in good:
        assert [results[url].source_sha256 for url in goods] == [sha256(picture(n)).hexdigest() for n in (1, 2)]
    assert own_workers() == []


def test_whatever_the_caller_is_it_needs_no_main_guard_and_its_output_stays_its_own(host: FaultyHost) -> None:
    script = f"""
import asyncio
from gbif_platform.images.fetch import FetchOptions, fetch
async def main():
    options = FetchOptions(processes=2, allow_private=True)
    async for result in fetch([("1", {host.url("good/1")!r}), ("2", {host.url("good/2")!r})], options):
        print(result.url_id, result.status)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert (sorted(done.stdout.split("\n")), done.stderr) == (["", "1 ok", "2 ok"], "")


def when_asked(host: FaultyHost, monkeypatch: pytest.MonkeyPatch, what: Callable[[Reply], None]) -> str:
    """A URL whose every request has this effect, and a picture as its answer."""

    async def behaviour(reply: Reply) -> None:
        what(reply)
        await asyncio.sleep(0.2)
        await faulty_host.good(reply)

    monkeypatch.setitem(faulty_host.BEHAVIOURS, "poison", behaviour)
    return host.url("poison/1")


def kill_who_asks(reply: Reply) -> None:
    """What the system does to a process that eats all memory."""
    port = reply.writer.get_extra_info("peername")[1]
    for worker in own_workers():
        if any(connection.laddr.port == port for connection in worker.net_connections()):
            worker.kill()


def test_the_pictures_of_a_killed_worker_are_asked_again(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def once(reply: Reply) -> None:
        if not killed:
            killed.append(1)
            kill_who_asks(reply)

    urls = [host.url(f"good/{n}") for n in range(100)]
    results = fetch_all([*urls[:20], when_asked(host, monkeypatch, once), *urls[20:]], TWO)
    assert killed
    assert {result.status for result in results.values()} == {"ok"}


def test_a_picture_that_kills_every_worker_is_given_up_and_no_other(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [host.url(f"good/{n}") for n in range(100)]
    poison = when_asked(host, monkeypatch, kill_who_asks)
    results = fetch_all([*urls[:20], poison, *urls[20:]], TWO)
    assert (results[poison].status, results[poison].reason) == ("failed", "worker_lost")
    assert "signal 9" in results[poison].detail
    assert {results[url].status for url in urls} == {"ok"}


def test_a_worker_that_falls_silent_is_replaced(host: FaultyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "DECODING_SECONDS", 1.0)

    def freeze() -> None:
        os.kill(own_workers()[0].pid, signal.SIGSTOP)

    async def interrupted() -> list[str]:
        statuses: list[str] = []
        plan = ((str(n), host.url(f"good/{n % 5}?{n}")) for n in range(300))
        async with aclosing(fetch(plan, TWO, TRANSFORM)) as results:
            async for result in results:
                if len(statuses) == 10:
                    freeze()
                statuses.append(result.status)
        return statuses

    assert run(interrupted()) == ["ok"] * 300


def test_leaving_early_ends_the_workers(host: FaultyHost) -> None:
    async def take_one() -> None:
        plan = ((str(n), host.url(f"good/{n % 5}")) for n in range(100_000))
        async with aclosing(fetch(plan, TWO, TRANSFORM)) as results:
            await anext(results)
            assert len(own_workers()) == 2

    run(take_one())
    assert own_workers() == []


def test_workers_end_with_the_process_that_they_work_for(host: FaultyHost) -> None:
    script = f"""
import asyncio
from gbif_platform.images.fetch import FetchOptions, fetch
async def main():
    async for result in fetch([("1", {host.url("silent")!r})], FetchOptions(processes=2, allow_private=True)):
        pass
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        deadline = time.monotonic() + 30
        while not host.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        orphans = psutil.Process(parent.pid).children()
        assert len(orphans) == 2
        os.kill(parent.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(orphans, timeout=10)
    assert left == []


def test_where_no_process_can_be_started_the_user_is_told(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", "import no_such_module"))
    with pytest.raises(
        WorkersFailed, match="ended with 1: ModuleNotFoundError: No module named 'no_such_module'"
    ) as no:
        fetch_all([host.url("good/1")], TWO)
    assert "Traceback" in no.value.next_step
    assert capfd.readouterr().err == ""


def bad_tiff() -> bytes:
    """libtiff writes a line about it."""
    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "TIFF", compression="tiff_lzw")
    data = buffer.getvalue()
    return data[:8] + b"\xff" * 1000 + data[1008:]


def test_what_libraries_say_of_single_pictures_is_not_told(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImageRefused):
        transform_image(bad_tiff(), TRANSFORM)
    assert "code not yet in table" in capfd.readouterr().err, "else this tests nothing"

    async def behaviour(reply: Reply) -> None:
        reply.send(200, bad_tiff())

    monkeypatch.setitem(faulty_host.BEHAVIOURS, "tiff", behaviour)
    assert fetch_all([host.url("tiff")], TWO)[host.url("tiff")].reason == "corrupt_image"
    assert capfd.readouterr().err == ""


TALKATIVE = """
import os
from gbif_platform.images.worker import main
os.write(2, b"x" * 10_000_000 + b"\\nfree(): invalid pointer\\n")
main()
"""


def test_a_worker_may_say_what_it_likes_and_is_heard_when_it_dies(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", TALKATIVE, "gbif_platform.images.worker"))
    urls = [host.url(f"good/{n}") for n in range(20)]
    assert {result.status for result in fetch_all(urls, TWO).values()} == {"ok"}
    assert caplog.text == ""
    poison = when_asked(host, monkeypatch, kill_who_asks)
    assert fetch_all([poison], TWO)[poison].reason == "worker_lost"
    assert "ended by signal 9; it wrote last:" in caplog.text
    assert "free(): invalid pointer" in caplog.text
    assert len(caplog.text) < 4 * workers.LAST_WORDS


def test_a_fault_of_ours_in_a_worker_is_told_with_its_trace(
    host: FaultyHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "from gbif_platform.images import asker, worker; asker.transform_image = lambda *_, **__: 1 / 0; worker.main()"
    )
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", code))
    assert fetch_all([host.url("good/1")], TWO)[host.url("good/1")].reason == "internal_error"
    assert host.url("good/1") in caplog.text
    assert "Traceback" in caplog.text
