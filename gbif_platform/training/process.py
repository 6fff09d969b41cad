"""A training in a process of its own, or in several where it runs on several devices, and the parent that attends it.

`train_in_child` starts `python -m gbif_platform.training.process JOB`, under torchrun for several devices. The job is a
file in the work folder (a pickle: only this platform writes there); its last run's output is `training.log` beside it.
The child tells events as JSON lines on its standard output, and ends when its standard input does: with its parent.
"""

import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from gbif_platform.errors import PlatformError, explained
from gbif_platform.training.data import Objects, Samples
from gbif_platform.training.files import write_atomically
from gbif_platform.training.run import (
    CHECKPOINT_SECONDS,
    Progress,
    Tracker,
    TrainResult,
    alone,
    read_result,
    tracked,
    tracked_parameters,
    train,
)

if TYPE_CHECKING:  # pydantic may be missing where a model is only trained
    from gbif_platform.training.config import ModelSpec

MODULE = "gbif_platform.training.process"
JOB = "job.pickle"
LOG = "training.log"
ATTENDED = "--attended"
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 600.0  # without a heartbeat: the machine or the driver hangs
GRACE_SECONDS = 10.0  # between asking a process to end and ending it
POLL_SECONDS = 1.0
MASTER_PORT = "29500"
TAIL_LINES = 12
LINE_BYTES = 65536
TEXT = 1500  # characters of an error's texts: one event is one write into the pipe


class TrainingProcessError(PlatformError):
    """The training's process ended, or fell silent, for a reason that is not the user's to know beforehand."""


def train_in_child(
    spec: "ModelSpec",
    training: Samples,
    validation: Samples,
    labels: Sequence[str],
    objects: Objects,
    work_dir: Path,
    *,
    tracker: Tracker | None = None,
    progress: Callable[[Progress], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    start: Path | None = None,
    log: Callable[[str], None] | None = None,
) -> TrainResult:
    """`gbif_platform.training.run.train` in a process of its own, or one on each of `spec.devices`.

    Whatever ends this call ends those processes too: an error or an interrupt raised here (SIGTERM, after 10 seconds
    SIGKILL), and the death of this process. The same call goes on from there, as after a kill.

    Args:
        objects: must pickle; it is opened anew in each process.
        tracker: called in this process.
        progress: called in this process.
        log: receives each line that the training prints; they also lie in `training.log` of the work folder.

    Raises:
        TrainingProcessError: the process crashed, was killed or fell silent; names the log and quotes its end.
        FolderInUseError: another call trains in `work_dir`; its log and its tracked run stay as they are.
        PlatformError: as `train` raises them.
    """
    work_dir = Path(work_dir).absolute()
    job = {
        "spec": spec, "training": training, "validation": validation, "labels": list(labels), "objects": objects,
        "work_dir": work_dir, "checkpoint_seconds": checkpoint_seconds, "start": start,
    }  # fmt: skip
    path = work_dir / JOB
    say = log or (lambda line: None)
    work_dir.mkdir(parents=True, exist_ok=True)
    # The processes hold the folder; the log, the job and the tracked run are this one's.
    with alone(work_dir, LOG), tracked(tracker, tracked_parameters(spec, training, validation, labels)):
        write_atomically(path, lambda temporary: temporary.write_bytes(pickle.dumps(job)))
        if spec.num_nodes > 1:
            say(f"waiting for {spec.num_nodes - 1} more machines; run on each: {command_elsewhere(spec, path)}")
        with _Child(_command(spec, path), _environment(spec), work_dir / LOG) as child:
            warnings = _attend(child, tracker, progress, say)
        path.unlink(missing_ok=True)
        result = read_result(spec, training, labels, work_dir)
        if tracker is not None:
            for row in result.history:
                tracker.log_epoch(row)
    result.warnings.extend(warnings + (tracker.warnings if tracker is not None else []))
    return result


def command_elsewhere(spec: "ModelSpec", job: Path) -> str:
    """What each further machine runs, with its own number in place of N (from 1)."""
    arguments = _torchrun(spec, node="N")
    return " ".join(["torchrun", *arguments, "-m", MODULE, str(job)])


def _command(spec: "ModelSpec", job: Path) -> list[str]:
    module = ["-m", MODULE, str(job), ATTENDED]
    if spec.devices * spec.num_nodes == 1:
        return [sys.executable, *module]
    return [sys.executable, "-m", "torch.distributed.run", *_torchrun(spec, node="0"), *module]


def _torchrun(spec: "ModelSpec", node: str) -> list[str]:
    processes = ["--nproc-per-node", str(spec.devices)]
    if spec.num_nodes == 1:
        return ["--standalone", "--local-addr", "127.0.0.1", *processes]
    address, port = os.environ.get("MASTER_ADDR", socket.getfqdn()), os.environ.get("MASTER_PORT", MASTER_PORT)
    nodes = ["--nnodes", str(spec.num_nodes), "--node-rank", node]
    return [*nodes, *processes, "--master-addr", address, "--master-port", port]


def _environment(spec: "ModelSpec") -> dict[str, str]:
    """This process's, and where it finds its modules: what it could pickle, the child can load."""
    modules = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": modules, "PYTHONUNBUFFERED": "1"}
    if spec.devices > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // spec.devices)))
    return environment


def _attend(
    child: "_Child",
    tracker: Tracker | None,
    progress: Callable[[Progress], None] | None,
    log: Callable[[str], None],
) -> list[str]:
    """Pass on what the child tells until it has ended. Returns the training's warnings."""
    for event in child.events():
        match event:
            case {"event": "log", "line": line}:
                log(line)
            case {"event": "progress", "progress": values} if progress is not None:
                progress(Progress(**values))
            case {"event": "epoch", "row": row} if tracker is not None:
                tracker.log_epoch(row)
            case {"event": "step", "step": step, "metrics": metrics} if tracker is not None:
                tracker.log_step(step, metrics)
            case {"event": "error"}:
                raise _as_itself(event)
            case {"event": "crash", "cause": cause, "next_step": next_step}:
                raise TrainingProcessError(cause, f"{next_step}; the whole log: {child.log_path}")
            case {"event": "done", "warnings": warnings}:
                return list(warnings)
    raise child.failure()


def _as_itself(event: dict[str, Any]) -> PlatformError:
    """The error that the child raised; one of a kind unknown here comes as a PlatformError."""
    kind: Any = PlatformError
    with suppress(ImportError, AttributeError):
        kind = getattr(import_module(event["module"]), event["name"])
    if not (isinstance(kind, type) and issubclass(kind, PlatformError)):
        kind = PlatformError
    error: PlatformError = kind.__new__(kind)
    PlatformError.__init__(error, event["cause"], event["next_step"])  # its own may want more than these
    return error


class _Child:
    """The processes of one training as their parent sees them: events come in, and they end with the block."""

    def __init__(self, command: list[str], environment: dict[str, str], log_path: Path) -> None:
        self.log_path = log_path
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._queue: Queue[dict[str, Any] | None] = Queue()
        self._log_file = log_path.open("wb")
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a group that can be ended as a whole
        )
        streams = ((self._process.stdout, self._read_event), (self._process.stderr, self._read_log))
        self._readers = [threading.Thread(target=self._read, args=stream, daemon=True) for stream in streams]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(patient=error is None)

    def events(self) -> Iterator[dict[str, Any]]:
        """What the child tells, log lines among it, until it has ended.

        Raises:
            TrainingProcessError: nothing for 10 minutes, not even a heartbeat.
        """
        heard, reading, ended = time.monotonic(), len(self._readers), None
        while reading:
            try:
                event = self._queue.get(timeout=POLL_SECONDS)
            except Empty:
                if self._process.poll() is not None:
                    # torchrun may be killed alone: the others still hold the pipes, and see this one close.
                    self._hang_up()
                    ended = ended or time.monotonic()
                    if time.monotonic() - ended > GRACE_SECONDS:
                        return
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    raise TrainingProcessError(
                        f"the training has given no sign of life for {SILENCE_SECONDS:.0f} s",
                        f"look at {self.log_path} and at the machine; run again: it goes on from its last checkpoint",
                    ) from None
                continue
            heard = time.monotonic()
            if event is None:
                reading -= 1
            else:
                yield event

    def failure(self) -> TrainingProcessError:
        """Why it ended without a word."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        memory = " (that is how Linux ends a process when memory runs out)" if code == -signal.SIGKILL else ""
        tail = "".join(f"\n  {line}" for line in self._tail)
        return TrainingProcessError(
            f"the training process {how}{memory}",
            f"run again: it goes on from its last checkpoint; the whole log: {self.log_path}{tail}",
        )

    def _end(self, *, patient: bool) -> None:
        """Wait for the processes; ask them to end where they have no reason to by themselves."""
        try:
            if not patient:
                self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)
            self._hang_up()
            self._signal(signal.SIGKILL)
            self._process.wait()
            for reader in self._readers:
                reader.join(GRACE_SECONDS)
        finally:
            self._hang_up()
            self._log_file.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _read(self, stream: IO[bytes], take: Callable[[str], None]) -> None:
        with stream:
            while line := stream.readline(LINE_BYTES):
                take(line.decode(errors="replace").rstrip())
        self._queue.put(None)

    def _read_log(self, line: str) -> None:
        self._tail.append(line)
        with suppress(OSError, ValueError):  # a full disk must not stop the training; closed: it is over
            self._log_file.write(line.encode() + b"\n")
            self._log_file.flush()
        self._queue.put({"event": "log", "line": line})

    def _read_event(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            self._queue.put(event)
        else:
            self._read_log(line)


class _Parent:
    """The parent as the child sees it: told one JSON line an event, on what was standard output. A `Tracker` too."""

    def __init__(self) -> None:
        self.warnings: list[str] = []  # the tracker that has any is the parent's
        self._lock = threading.Lock()
        self._events = os.dup(1)
        os.dup2(2, 1)  # what libraries print goes to the log

    def tell(self, event: str, **content: Any) -> None:
        """Send an event. A parent that is gone is none of the caller's troubles: the process ends in a moment."""
        line = json.dumps({"event": event, **content}, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock, suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._events, line) :]

    def progress(self, progress: Progress) -> None:
        """Where the training is."""
        self.tell("progress", progress=asdict(progress))

    def begin(self, params: dict[str, Any]) -> None:
        """The parent has told its tracker."""

    def log_epoch(self, row: dict[str, float]) -> None:
        """One epoch's row."""
        self.tell("epoch", row=row)

    def log_step(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics within an epoch."""
        self.tell("step", step=step, metrics=metrics)

    def end(self, status: str) -> None:
        """The parent tells its tracker."""

    def attend(self) -> None:
        """Send heartbeats; end this process with its parent, and at once when it is asked to.

        The work folder is whole at every moment, so nothing is left to be done. Lightning's own handling of SIGTERM
        waits for the other processes of the training, which may wait for this one.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads that start later inherit it
        for action in (self._beat, self._end_with_parent, self._end_when_asked):
            threading.Thread(target=action, name=action.__name__, daemon=True).start()

    def _beat(self) -> None:
        while True:
            self.tell("heartbeat")
            time.sleep(HEARTBEAT_SECONDS)

    def _end_with_parent(self) -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    def _end_when_asked(self) -> None:
        signal.sigwait({signal.SIGTERM})
        os._exit(128 + signal.SIGTERM)


def _error_event(error: BaseException) -> tuple[str, dict[str, str]]:
    """A PlatformError as itself; anything else with the last lines of its traceback."""
    known = explained(error)
    if known is not None:
        kind = type(known)
        names = {"module": kind.__module__, "name": kind.__qualname__}
        return "error", {**names, "cause": known.cause[:TEXT], "next_step": known.next_step[:TEXT]}
    lines = traceback.format_exception(error)
    message = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    advice = "lower batch_size or image_size" if "out of memory" in message.lower() else "this may be a mistake of ours"
    tail = "".join(lines)[-TEXT:].strip()
    return "crash", {"cause": f"the training failed: {message}"[:TEXT], "next_step": f"{advice}\n{tail}\n"}


def main() -> None:
    """Train what the job file says. Attended: tell the parent; else, as on a further machine, only print."""
    parent = _Parent() if ATTENDED in sys.argv[2:] else None
    first = int(os.environ.get("RANK", "0")) == 0
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    try:
        if parent is not None:
            parent.attend()
        job = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - written by the parent
        result = train(**job, tracker=parent, progress=parent.progress if parent is not None else None)
    except BaseException as error:
        event, content = _error_event(error)
        if event == "crash" or parent is None:
            traceback.print_exc()
        if parent is not None:
            parent.tell(event, **content)
        code = 1
    else:
        if parent is not None and first:
            parent.tell("done", warnings=result.warnings)
        code = 0
    sys.stderr.flush()
    os._exit(code)  # the usual way out takes seconds, and waits for threads that may wait for processes that are gone


if __name__ == "__main__":
    main()
