"""Answers kept while a prediction goes on, so that the same call goes on where a killed one was."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gbif_platform.serving.pictures import Problem
from gbif_platform.training.files import write_atomically


def keep_part(
    folder: Path, first: int, top: np.ndarray, score: np.ndarray, problems: Mapping[int, Problem], seconds: float
) -> None:
    """Keep the answers to the pictures from place `first` on, whole or not at all.

    Args:
        folder: of this call alone: of the same pictures, model and options.
        first: the place where the part before ends.
        top, score: as in `Answered`, of these pictures.
        problems: by place; those of other pictures are left out.
        seconds: spent on them.
    """
    told = [(place, *problem) for place, problem in problems.items() if 0 <= place - first < len(top)]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # savez would add an ending to a name
            np.savez(file, top=top, score=score, seconds=seconds, problems=np.array(json.dumps(told)))

    write_atomically(_part(folder, first), write)


def read_parts(folder: Path, top: np.ndarray, score: np.ndarray, problems: dict[int, Problem]) -> tuple[int, float]:
    """Fill in what an earlier call has kept. Returns (the place after it, seconds spent on it)."""
    done, seconds = 0, 0.0
    while _part(folder, done).exists():
        try:
            with np.load(_part(folder, done)) as part:
                end = done + len(part["top"])
                top[done:end], score[done:end] = part["top"], part["score"]
                told = json.loads(part["problems"].item())
                seconds += float(part["seconds"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            break  # somebody changed it: from here on all is answered anew
        problems |= {place: Problem(*problem) for place, *problem in told}
        done = end
    return done, seconds


def _part(folder: Path, first: int) -> Path:
    return folder / f"{first}.npz"
