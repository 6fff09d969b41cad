"""Trains on the toy data in a process of its own and kills itself: `python -m … FOLDER EPOCH STEP`."""

import os
import signal
import sys
from pathlib import Path

import torch

from gbif_platform.training import run
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Samples
from gbif_platform_tests.training.conftest import TINY
from gbif_platform_tests.training.shards import PATTERNS, toy_table


def main() -> None:
    folder = Path(sys.argv[1])
    deadline = (int(sys.argv[2]), int(sys.argv[3]))
    torch.set_num_threads(1)  # as the tests do
    run.PROGRESS_SECONDS = 0.0
    store, training = toy_table(folder, 50, seed=1)
    _, validation = toy_table(folder, 24, seed=2)

    def kill(progress: run.Progress) -> None:
        if (progress.epoch, progress.step) == deadline:
            os.kill(os.getpid(), signal.SIGKILL)

    run.train(
        ModelSpec(**TINY, epochs=3),
        Samples.from_table(training, PATTERNS),
        Samples.from_table(validation, PATTERNS),
        PATTERNS,
        store,
        folder / "work",
        progress=kill,
        checkpoint_seconds=0.0,
    )


if __name__ == "__main__":
    main()
