"""Trains toy data in processes that may be killed: `python -m …` reads one job a line, and answers with its end.

It imports everything once and forks each process of a training, with torchrun's environment, from there: a killed and
resumed training costs a second instead of twenty. No thread may have run in it before.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from gbif_platform.training import run
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Samples
from gbif_platform_tests.training.conftest import TINY
from gbif_platform_tests.training.shards import PATTERNS, toy_table

TRAINING, VALIDATION = 50, 23  # pictures
PORT_TAKEN = 98  # by another process, since it was probed
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """One try at a training of the toy pictures.

    Attributes:
        folder: where the pictures and the work folder lie.
        settings: of the model, over those of `TINY`.
        world: processes.
        kill: (rank, epoch, step): that process ends with SIGKILL after that step.
        kill_after: seconds until all of them do.
        checkpoint_seconds: as in `train`.
        validation: pictures of it.
    """

    folder: str
    settings: dict[str, Any] = field(default_factory=dict)
    world: int = 1
    kill: tuple[int, int, int] | None = None
    kill_after: float | None = None
    checkpoint_seconds: float = 0.0
    validation: int = VALIDATION


class Worker:
    """The process that forks, as the tests see it."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "gbif_platform_tests.training.worker"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def train(self, job: Job) -> bool:
        """Whether the training ended; False = it was killed. Raises RuntimeError where it failed by itself."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        outcome = self._process.stdout.readline().strip()
        if outcome not in ("ended", "killed"):
            raise RuntimeError(f"the training failed: {outcome}")
        return outcome == "ended"


def _serve() -> None:
    torch.set_num_threads(1)
    run.PROGRESS_SECONDS = 0.0
    for line in sys.stdin:
        print(_outcome(Job(**json.loads(line))), flush=True)


def _outcome(job: Job) -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    killed = _killed(job)
    killed.unlink(missing_ok=True)
    pids: dict[int, int] = {}
    for rank in reversed(range(job.world)):  # the first reports, so it must know the others
        pids[rank] = os.fork() or _train(job, rank, port, pids)
    running = set(pids.values())
    if job.kill_after is not None:
        time.sleep(job.kill_after)
        killed.touch()
        _kill(running)
    codes = []
    while running:
        pid, status = os.wait()
        running.remove(pid)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1] != 0:  # as torchrun does
            _kill(running)
    if PORT_TAKEN in codes:
        return _outcome(job)
    if not any(codes):
        return "ended"
    # Those that lost a partner end by themselves, maybe before it: whoever kills says so beforehand.
    return "killed" if killed.exists() and -signal.SIGKILL in codes else f"codes {codes}"


def _killed(job: Job) -> Path:
    return Path(job.folder, "killed")


def _kill(pids: set[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _train(job: Job, rank: int, port: int, pids: dict[int, int]) -> int:
    assert threading.active_count() == 1
    os.dup2(2, 1)
    if job.world > 1:
        torchrun = {
            "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": job.world, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0,
            "LOCAL_WORLD_SIZE": job.world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        os.environ.update({name: str(value) for name, value in torchrun.items()})
    pids[rank] = os.getpid()

    def kill(progress: run.Progress) -> None:
        if job.kill is not None and tuple(job.kill[1:]) == (progress.epoch, progress.step):
            _killed(job).touch()
            os.kill(pids[job.kill[0]], signal.SIGKILL)

    try:
        folder = Path(job.folder)
        store, training = toy_table(folder, TRAINING, seed=1)
        _, validation = toy_table(folder, job.validation, seed=2)
        run.train(
            ModelSpec(**{**TINY, **job.settings, "devices": job.world}),
            Samples.from_table(training, PATTERNS),
            Samples.from_table(validation, PATTERNS),
            PATTERNS,
            store,
            folder / "work",
            progress=kill,
            checkpoint_seconds=job.checkpoint_seconds,
        )
    except BaseException as error:
        import traceback

        traceback.print_exc()
        os._exit(PORT_TAKEN if "EADDRINUSE" in str(error) else 1)
    os._exit(0)


if __name__ == "__main__":
    _serve()
