"""Trainings killed with SIGKILL, in one process and in two (gloo), end with the weights of undisturbed ones."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gbif_platform_tests.training.worker import VALIDATION, Job, Worker

EVERYTHING: dict[str, Any] = {
    "epochs": 2,
    "ema_decay": 0.9,
    "accumulate_grad_batches": 2,
    "gradient_clip_val": 1.0,
    "sampler": "balanced",
    "loss": "balanced_softmax",
    "mixup": 0.2,
    "cutmix": 0.5,
    "hidden": 8,
    "dropout": 0.1,
    "layer_decay": 0.8,
    "label_smoothing": 0.1,
}
BATCH_SIZE = {1: 8, 2: 4}  # 7 batches an epoch either way


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def left_by(folder: Path) -> tuple[bytes, list[dict[str, float]], int]:
    work = folder / "work"
    result = json.loads((work / "result.json").read_text())
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in result["history"]]
    return (work / "best.safetensors").read_bytes(), history, result["best_epoch"]


@pytest.fixture(scope="module", params=[1, 2])
def world(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def undisturbed(worker: Worker, world: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert worker.train(job(folder, world))
    return folder


def job(folder: Path, world: int, **arguments: Any) -> Job:
    return Job(str(folder), {**EVERYTHING, "batch_size": BATCH_SIZE[world]}, world, **arguments)


def test_a_training_killed_again_and_again_leaves_no_trace(
    worker: Worker, world: int, undisturbed: Path, tmp_path: Path
) -> None:
    """At a step that waits for its gradient, after an optimiser step, in the next epoch, and at any moment."""
    kills = [(world - 1, 1, 3), (0, 1, 6), (0, 2, Random(tmp_path.name).randint(2, 6))]
    for kill in kills:
        assert not worker.train(job(tmp_path, world, kill=kill)), f"{kill} came too late"
    worker.train(job(tmp_path, world, kill_after=0.7))
    assert worker.train(job(tmp_path, world))
    assert left_by(tmp_path) == left_by(undisturbed)


def test_a_kill_before_any_resume_point_leaves_no_trace(
    worker: Worker, world: int, undisturbed: Path, tmp_path: Path
) -> None:
    assert not worker.train(job(tmp_path, world, kill=(0, 2, 3), checkpoint_seconds=1e9))
    assert worker.train(job(tmp_path, world, checkpoint_seconds=1e9))
    assert left_by(tmp_path) == left_by(undisturbed)


def test_each_validation_picture_counts_once(undisturbed: Path) -> None:
    _, history, _ = left_by(undisturbed)
    for row in history:
        right = row["val_top1"] * VALIDATION
        assert right == pytest.approx(round(right))


def test_two_processes_find_one_rate(worker: Worker, tmp_path: Path) -> None:
    settings = {"learning_rate": "find", "epochs": 1, "warmup_epochs": 0, "batch_size": 8}
    assert not worker.train(Job(str(tmp_path), settings, 2, kill=(1, 1, 2)))
    rate = json.loads((tmp_path / "work" / "learning_rate.json").read_text())
    assert worker.train(Job(str(tmp_path), settings, 2))
    assert json.loads((tmp_path / "work" / "learning_rate.json").read_text()) == rate


def test_a_process_without_validation_pictures_spoils_no_score(worker: Worker, tmp_path: Path) -> None:
    assert worker.train(Job(str(tmp_path), {"epochs": 1}, 2, validation=1))
    _, [row], _ = left_by(tmp_path)
    assert math.isfinite(row["val_loss"])
