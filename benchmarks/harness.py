"""What the benchmarks share: peers in environments of their own, measured child processes, the table and the JSON line.

Every run is a child process, so that CPU seconds and memory are the kernel's own figures for it and for what it starts.
This process stays small: Linux counts the memory of the parent at the fork as the child's.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from gbif_platform.settings import default_home

HOME = default_home() / "benchmarks"
DATA = HOME / "data"
PARTS = Path(__file__).resolve().parent / "parts"
PEERS = Path(__file__).resolve().parent / "peers"

OURS = "gbif-platform"
RUN_LIMIT_SECONDS = 900.0
INSTALL_LIMIT_SECONDS = 900.0

Command = Sequence[str | Path]
"""What to run: the program and its arguments."""


class PeerUnavailable(Exception):
    """A peer cannot be installed or run here; the message says why."""


class RunFailed(Exception):
    """A measured run ended with an error, or with another result than it must have."""


@dataclass(frozen=True)
class Peer:
    """A package from the registry, pinned with all it needs in `peers/<name>.txt`."""

    name: str
    version: str

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return HOME / self.name

    def program(self, name: str) -> Path:
        """A program of its environment, such as `python`; installs the peer where that is not done yet.

        Raises:
            PeerUnavailable: it cannot be installed.
        """
        pins = (PEERS / f"{self.name}.txt").read_text()
        ready = self.folder / "ready.txt"
        if not ready.exists() or ready.read_text() != pins:
            print(f"installing {self.title} into {self.folder}", flush=True)
            self._install()
            ready.write_text(pins)
        return self.folder / "bin" / name

    def _install(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        python, pins = str(self.folder / "bin" / "python"), str(PEERS / f"{self.name}.txt")
        for command in (
            [sys.executable, "-m", "venv", str(self.folder)],
            [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", pins],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_SECONDS)
            except subprocess.CalledProcessError as error:
                raise PeerUnavailable(f"cannot be installed: {_last_line(error.stderr)}") from error
            except subprocess.TimeoutExpired as error:
                raise PeerUnavailable(f"cannot be installed in {INSTALL_LIMIT_SECONDS:g} s") from error


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        wall_s, cpu_s: seconds; CPU is user and system, of the process and of all it started and waited for.
        peak_mb: the largest resident size (MB = 2**20 bytes) that any single one of these processes had.
        result: the JSON object that the run printed as its last line, or {}.
        peak_sum_mb: the largest sum over all of them at a time, shared pages counted once (PSS), seen twice a second.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    result: dict[str, Any]
    peak_sum_mb: float = 0.0


def measure(command: Command, scratch: Path, env: Mapping[str, str] | None = None) -> Measured:
    """Run a command to its end, with `scratch` as its folder for temporary files.

    Raises:
        RunFailed: it ended with an error, or not within the limit.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        environment = {**os.environ, **(env or {}), "TMPDIR": str(scratch)}
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)
        timer = threading.Timer(RUN_LIMIT_SECONDS, _kill, [process.pid])
        timer.start()
        watch = MemoryWatch(process.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            timer.cancel()
            watch.stop()
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        printed, complaint = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode:
        raise RunFailed(f"exit code {process.returncode} after {wall:.0f} s: {_last_line(complaint or printed)}")
    result: dict[str, Any] = {}
    with suppress(ValueError):
        last = json.loads(_last_line(printed))
        result = last if isinstance(last, dict) else {}
    largest = usage.ru_maxrss / 1024
    return Measured(wall, usage.ru_utime + usage.ru_stime, largest, result, max(largest, watch.peak_mb))


class MemoryWatch(threading.Thread):
    """Looks at the memory of a session's processes until it is stopped."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self._session = session
        self._stopped = threading.Event()
        self.peak_mb = 0.0

    def run(self) -> None:
        """Look, wait, look again."""
        while not self._stopped.wait(0.5):
            self.peak_mb = max(self.peak_mb, sum(map(self._megabytes, psutil.process_iter())))

    def stop(self) -> None:
        """Return when it has ended."""
        self._stopped.set()
        self.join()

    def _megabytes(self, process: psutil.Process) -> float:
        try:
            return process.memory_full_info().pss / 2**20 if os.getsid(process.pid) == self._session else 0.0
        except (psutil.Error, OSError):  # it has ended
            return 0.0


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        title: as in the table.
        run: does the work once in an empty folder.
    """

    title: str
    run: Callable[[Path], Measured]


def interleave(contenders: Sequence[Contender], rounds: int) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Let them run in turn, A B A B: runs by title, and why the others have none.

    Raises:
        RunFailed: the platform itself failed.
    """
    runs: dict[str, list[Measured]] = {contender.title: [] for contender in contenders}
    troubles: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for contender in contenders:
            if contender.title in troubles:
                continue
            try:
                measured = in_scratch(contender.run)
            except (PeerUnavailable, RunFailed) as error:
                if contender.title == OURS:
                    raise
                troubles[contender.title] = str(error)
                print(f"{contender.title}: {error}", flush=True)
                continue
            runs[contender.title].append(measured)
            print(f"round {number}/{rounds}  {contender.title}: {measured.wall_s:.1f} s", flush=True)
    return {title: measured for title, measured in runs.items() if title not in troubles}, troubles


def in_scratch(run: Callable[[Path], Measured]) -> Measured:
    """Run in an empty folder under the platform home, removed afterwards."""
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME, prefix="scratch-") as scratch:
        return run(Path(scratch))


def make_once(folder: Path, make: Command) -> Path:
    """Data of a benchmark: made by a command that gets the folder as its last argument, and kept for the next time."""
    if not folder.exists():
        print(f"making {folder}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="part-") as part:
            made = Path(part) / "data"
            subprocess.run([*make, made], check=True)
            made.rename(folder)
    return folder


def median(runs: Sequence[Measured] | None, figure: str) -> float | None:
    """Median of a figure of the runs; None without runs."""
    return statistics.median(getattr(run, figure) for run in runs) if runs else None


def ratio(larger: float | None, smaller: float | None) -> float | None:
    """How many times as large; None where a side is missing."""
    return round(larger / smaller, 2) if larger is not None and smaller else None


def options(description: str, rounds: int) -> argparse.Namespace:
    """The command line that all benchmarks share: `quick`, `rounds`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data: about a minute once the peers are installed")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each side runs")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds: at least 1")
    return given


def start(main: Callable[[], None]) -> None:
    """Run a benchmark; an error of the platform's own side ends it in one line."""
    try:
        main()
    except RunFailed as error:
        sys.exit(f"error: {error}")


def report(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    notes: Sequence[str],
    figures: Mapping[str, Any],
) -> None:
    """Print the table, notes below it, and the figures as one JSON object on the last line."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console(width=120, highlight=False, markup=False)
    console.print(table)
    for note in notes:
        console.print(note)
    print(json.dumps(figures), flush=True)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
