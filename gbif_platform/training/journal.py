"""What MLflow shall be told of a run, on disk before anything is sent: a folder of its own for each run.

`journal.jsonl` grows by one fsynced line a call, so a kill -9 loses nothing but a line half written. `run.json` tells
which run it is, `files/` holds the artifacts of lines not yet sent, `sent` how many bytes of the journal MLflow has.
"""

import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from gbif_platform.training.files import write_text_atomically

LINES, RUN, SENT, FILES, LOCK = "journal.jsonl", "run.json", "sent", "files", "lock"
Event = dict[str, Any]


class Journal:
    """One run's journal; several trackers and processes may write to it.

    Args:
        folder: made with the first line.
        run: what finds the run again, as JSON: experiment, key, name, tags, inputs; None = as `run.json` says.

    Methods raise OSError where the disk fails.
    """

    def __init__(self, folder: Path, run: dict[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self._run, self._new_run = run, run is not None
        self._guard = threading.RLock()  # system metrics come from a thread of their own
        self._steps: dict[str, dict[int, float]] = {}
        for event, _ in self._events(0):
            self._remember(event)

    @property
    def run(self) -> dict[str, Any]:
        """What finds the run again."""
        if self._run is None:
            self._run = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        return self._run

    def write(self, kind: str, **values: Any) -> None:
        """Append a line, and have it on disk when this returns."""
        event = {"kind": kind, "time": int(time.time() * 1000), **values}
        with self._guard:
            self._append(event)
            self._remember(event)

    def write_metrics(self, metrics: dict[str, float], step: int, *, revised: bool = False) -> None:
        """Append the finite metrics that have no value at `step` yet, so that a resumed training repeats nothing.

        Args:
            metrics: by name.
            step: epoch, optimiser step or sample; not negative.
            revised: also those whose value is another than before.
        """
        with self._guard:
            known = {name: self._steps.get(name, {}).get(step) for name in metrics}
            new = {
                name: float(value)
                for name, value in metrics.items()
                if math.isfinite(value) and (known[name] is None or (revised and known[name] != value))
            }
            if new:
                self.write("metrics", step=step, values=new, revised=revised)

    def write_bytes(self, data: bytes, name: str) -> None:
        """Append an artifact; `name` may hold folders."""
        folder = self._new_folder()
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.write("files", folder=folder.name, what=name)

    def write_table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        """Append a table as an artifact, as MLflow's `log_table` writes it; `name` ends in .json."""
        table = {"columns": list(columns), "data": [list(row) for row in rows]}
        self.write_bytes(json.dumps(table, ensure_ascii=False).encode(), name)
        self.write("table", what=name)

    def write_folder(self, source: Path, name: str) -> None:
        """Append a folder's files as artifacts under `name`; they may be removed at their place afterwards."""
        folder = self._new_folder()
        shutil.copytree(source, folder / name, copy_function=_link)
        self.write("files", folder=folder.name, what=name)

    def next_step(self, prefix: str) -> int:
        """One more than the last step of any metric whose name starts so; 0 where there is none."""
        with self._guard:
            last = (max(steps) for name, steps in self._steps.items() if name.startswith(prefix))
            return 1 + max(last, default=-1)

    @contextmanager
    def sending(self, seconds: float = 60.0) -> Iterator[None]:
        """The right to send, for one process at a time. Raises filelock.Timeout."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK, timeout=seconds):
            yield

    def unsent(self) -> Iterator[tuple[Event, int]]:
        """Lines that MLflow lacks, each with the journal's size up to its end."""
        return self._events(self._sent())

    @property
    def whole(self) -> bool:
        """Whether MLflow has every line."""
        return next(self.unsent(), None) is None

    @property
    def finished(self) -> bool:
        """Whether the run ended well; one that failed or was killed may go on."""
        ends = [event.get("status") for event, _ in self._events(0) if event["kind"] in ("begin", "end")]
        return bool(ends) and ends[-1] == "FINISHED"

    @property
    def idle_seconds(self) -> float:
        """Since the last line."""
        return time.time() - (self.folder / LINES).stat().st_mtime

    def acknowledge(self, size: int) -> None:
        """MLflow has the journal up to `size` bytes."""
        write_text_atomically(self.folder / SENT, str(size))

    def artifacts(self, event: Event) -> Path:
        """The folder of a line's artifacts, named as in MLflow."""
        return self.folder / FILES / str(event["folder"])

    def forget_artifacts(self, event: Event) -> None:
        """Remove artifacts that MLflow has."""
        shutil.rmtree(self.artifacts(event), ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder; the next line makes it again."""
        with self._guard:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, event: Event) -> None:
        path = self.folder / LINES
        if self._new_run or not (self.folder / RUN).exists():
            self._write_run()
        with path.open("ab+") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                # After a line that a kill cut, be it of its end alone: its call is made again, so it may not count.
                file.write(b"#\n")
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _write_run(self) -> None:
        """The run as it is now, in another process perhaps, with the time when it first began."""
        with suppress(FileNotFoundError, ValueError, KeyError):
            began = json.loads((self.folder / RUN).read_text(encoding="utf-8"))["time"]
            self._run = {**self.run, "time": began}
        write_text_atomically(self.folder / RUN, json.dumps(self.run))
        self._new_run = False

    def _remember(self, event: Event) -> None:
        if event["kind"] == "metrics":
            for name, value in event["values"].items():
                self._steps.setdefault(name, {})[int(event["step"])] = value

    def _events(self, start: int) -> Iterator[tuple[Event, int]]:
        """Whole lines from byte `start`. A cut line is of a call that never returned: the caller makes it again."""
        try:
            file = (self.folder / LINES).open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(start)
            for line in file:
                start += len(line)
                if line.endswith(b"\n") and (event := _parsed(line)) is not None:
                    yield event, start

    def _sent(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            sent = int((self.folder / SENT).read_text(encoding="utf-8"))
            return sent if sent <= (self.folder / LINES).stat().st_size else 0
        return 0

    def _new_folder(self) -> Path:
        return self.folder / FILES / uuid.uuid4().hex[:12]


def journals(folder: Path) -> list[Path]:
    """Every journal under a folder."""
    return sorted(path.parent for path in folder.rglob(LINES) if (path.parent / RUN).exists())


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def _link(source: str, target: str) -> str:
    """A second name costs no space; a copy where the file system or its borders forbid it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
