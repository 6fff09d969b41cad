"""A training in a child process: what it tells, how it ends, and that it never outlives its parent."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from gbif_platform.errors import PlatformError
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training import process, run
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import SampleError
from gbif_platform.training.process import TrainingProcessError, _Child, train_in_child
from gbif_platform.training.run import FolderInUseError, Progress, TrainResult
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.shards import PATTERNS
from gbif_platform_tests.training.test_run import assert_same


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as `trained` has it


@dataclass
class Listener:
    """A tracker that keeps what it is told."""

    warnings: list[str] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    def begin(self, params: dict[str, Any]) -> None:
        self.params = params

    def log_epoch(self, row: dict[str, float]) -> None:
        self.epochs.append(int(row["epoch"]))

    def log_step(self, step: int, metrics: dict[str, float]) -> None: ...

    def end(self, status: str) -> None:
        self.ended.append(status)


def in_child(toy: Toy, work: Path, **arguments: Any) -> TrainResult:
    spec = ModelSpec(**TINY, epochs=arguments.pop("epochs", 3), devices=arguments.pop("devices", 1))
    objects = arguments.pop("objects", toy.store)
    return train_in_child(spec, toy.training, toy.validation, PATTERNS, objects, work, **arguments)


def alive() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if lives(child)}


def lives(child: psutil.Process) -> bool:
    try:
        return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def others() -> set[psutil.Process]:
    """Processes of other tests, such as servers that several of them share."""
    OTHERS.clear()
    OTHERS.update(alive())
    return OTHERS


OTHERS: set[psutil.Process] = set()


def children() -> set[psutil.Process]:
    """Those of this test."""
    return alive() - OTHERS


@dataclass
class Deadly:
    """A store that kills its process after so many pictures."""

    store: ObjectStore
    pictures: int

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        self.pictures -= 1
        if self.pictures < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.store.get_range(key, offset, size)

    def path_of(self, key: str) -> Path | None:
        return None


def test_a_killed_child_is_told_of_and_gone_on_from(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    tracker = Listener()
    epoch = len(toy.training) + len(toy.validation)
    with pytest.raises(TrainingProcessError, match="killed by SIGKILL") as told:
        in_child(toy, tmp_path, tracker=tracker, objects=Deadly(toy.store, epoch + len(toy.training)))
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 1
    assert str(tmp_path / "training.log") in told.value.next_step
    assert tracker.ended == ["FAILED"]

    tracker, seen, lines = Listener(), list[Progress](), list[str]()
    result = in_child(toy, tmp_path, tracker=tracker, progress=seen.append, log=lines.append)
    assert_same(result, trained)
    assert (result.preprocess, result.class_counts) == (trained.preprocess, trained.class_counts)
    assert sorted(set(tracker.epochs)) == [0, 1, 2]
    assert tracker.ended == ["FINISHED"]
    assert tracker.params["labels"] == 3
    assert (seen[-1].epoch, seen[-1].step) == (3, seen[-1].steps)
    assert lines[-1].startswith("epoch 3: train_loss")
    assert (tmp_path / "training.log").read_text().splitlines() == lines
    assert not (tmp_path / "job.pickle").exists()


def test_a_second_call_on_a_folder_spoils_nothing_of_the_first(
    toy: Toy, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, seconds = Listener(), list[TrainResult]()
    waiting = threading.Thread(target=lambda: seconds.append(in_child(toy, tmp_path, tracker=second)))

    def meanwhile(progress: Progress) -> None:
        if waiting.ident is not None:
            return
        told = (tmp_path / "training.log").read_bytes()
        monkeypatch.setattr(run, "LOCK_SECONDS", 0.0)
        with pytest.raises(FolderInUseError, match="another process trains in"):
            in_child(toy, tmp_path, tracker=second)
        assert second.params == {}, "a run that is the first one's would end as FAILED"
        assert (tmp_path / "training.log").read_bytes().startswith(told)
        monkeypatch.setattr(run, "LOCK_SECONDS", 600.0)
        waiting.start()

    lines: list[str] = []
    first = in_child(toy, tmp_path, progress=meanwhile, log=lines.append)
    waiting.join()
    assert_same(first, trained)
    assert_same(seconds[0], trained)
    assert second.ended == ["FINISHED"]
    assert not (tmp_path / "job.pickle").exists()


@dataclass(frozen=True)
class Empty:
    """A store without shards."""

    def get_range(self, key: str, offset: int, size: int) -> bytes:
        raise FileNotFoundError(key)

    def path_of(self, key: str) -> Path | None:
        return None


def test_an_error_in_the_child_comes_back_as_itself(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="does not exist") as raised:
        in_child(toy, tmp_path, objects=Empty())
    assert raised.value.next_step == "run downloaded_images again"


def test_an_interrupted_parent_ends_its_children(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices: torchrun and two processes."""
    monkeypatch.setattr(process, "GRACE_SECONDS", 120.0)
    torchrun: list[subprocess.Popen[bytes]] = []

    class Kept(_Child):
        def __enter__(self) -> Self:
            torchrun.append(self._process)
            return self

    def interrupt(progress: Progress) -> None:
        assert len(children()) >= 3
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_Child", Kept)
    tracker = Listener()
    with pytest.raises(KeyboardInterrupt):
        in_child(toy, tmp_path, devices=2, epochs=1000, tracker=tracker, progress=interrupt)
    assert torchrun[0].returncode != -signal.SIGKILL, "they had to be killed"
    assert tracker.ended == ["KILLED"]
    assert not children()


def test_a_child_ends_with_its_parent(toy: Toy, tmp_path: Path) -> None:
    """A parent that is killed closes the pipe to the child: here it is closed alone."""

    def vanish(progress: Progress) -> None:
        raise Vanished

    def only_hang_up(child: _Child, **_: Any) -> None:
        child._hang_up()
        assert child._process.wait(120) == 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Child, "_end", only_hang_up)
        with pytest.raises(Vanished):
            in_child(toy, tmp_path, epochs=1000, progress=vanish)


class Vanished(Exception):
    """Stands in for the death of the parent."""


class Script:
    """A child that costs no seconds: a few lines of Python in place of a training."""

    def __init__(self, tmp_path: Path, lines: str) -> None:
        self.child = _Child([sys.executable, "-c", textwrap.dedent(lines)], dict(os.environ), tmp_path / "log")

    def told(self) -> list[dict[str, Any]]:
        with self.child:
            return list(self.child.events())


def test_prints_are_log_lines_whatever_they_look_like(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        r"""
        import os, sys
        print('[1]'); print('{"event": "heartbeat"}'); print('{"event":')
        sys.stdout.flush()
        os.write(1, b"\xff\xfe no text\n")
        os.write(1, b"no end of line")
    """,
    )
    assert [event.get("line", event["event"]) for event in script.told()] == [
        "[1]", "heartbeat", '{"event":', "\ufffd\ufffd no text", "no end of line",
    ]  # fmt: skip


def test_a_crash_without_a_word_quotes_the_log(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """
        import os, sys
        print('about to fall', file=sys.stderr, flush=True)
        os.abort()
    """,
    )
    assert script.told()
    failure = script.child.failure()
    assert failure.cause == "the training process was killed by SIGABRT"
    assert "about to fall" in failure.next_step


def test_silence_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(process, "POLL_SECONDS", 0.1)
    script = Script(tmp_path, "import time; time.sleep(60)")
    with pytest.raises(TrainingProcessError, match="no sign of life"):
        script.told()
    assert not children()


def test_one_that_will_not_end_is_killed_with_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    script = Script(
        tmp_path,
        """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
        print('ready', flush=True)
        time.sleep(60)
    """,
    )
    with script.child:
        next(script.child.events())
        both = children()
        assert len(both) == 2
        script.child._end(patient=False)
    assert not psutil.wait_procs(both, timeout=120)[1]


class Demanding(PlatformError):
    """Its constructor wants something of its own."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row}", "look at it")


def test_what_nobody_foresaw_comes_with_its_traceback_and_the_log(tmp_path: Path) -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        event, content = process._error_event(error)
    line = json.dumps({"event": event, **content})
    with Script(tmp_path, f"print({line!r})").child as child, pytest.raises(TrainingProcessError) as raised:
        process._attend(child, None, None, print)
    assert raised.value.cause == "the training failed: ZeroDivisionError: division by zero"
    assert "1 / 0" in raised.value.next_step
    assert str(tmp_path / "log") in raised.value.next_step


def test_any_platform_error_comes_back_as_itself() -> None:
    event, content = process._error_event(Demanding(3))
    assert event == "error"
    error = process._as_itself(json.loads(json.dumps(content)))
    assert isinstance(error, Demanding)
    assert (error.cause, error.next_step) == ("row 3", "look at it")
    foreign = process._as_itself({**content, "module": "os", "name": "system"})
    assert type(foreign) is PlatformError


def test_the_command_for_other_machines_says_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    spec = ModelSpec(**TINY, devices=4, num_nodes=2)
    assert process.command_elsewhere(spec, Path("/shared/job.pickle")) == (
        "torchrun --nnodes 2 --node-rank N --nproc-per-node 4 --master-addr node0 --master-port 29500 "
        "-m gbif_platform.training.process /shared/job.pickle"
    )
