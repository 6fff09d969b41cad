import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from gbif_platform.training import run
from gbif_platform.training.bundle import Provenance, save_bundle
from gbif_platform.training.checkpoints import TrainingDivergedError
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Samples
from gbif_platform.training.module import rate_factor
from gbif_platform.training.predict import predict
from gbif_platform.training.run import Progress, TrainingDataError, TrainResult
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.cuts import Cut, CutAfterEpoch, cut_at
from gbif_platform_tests.training.shards import PATTERNS, toy_table

REPOSITORY = Path(__file__).resolve().parents[2]


def untimed(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def assert_same(resumed: TrainResult, undisturbed: TrainResult) -> None:
    assert resumed.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert untimed(resumed.history) == untimed(undisturbed.history)
    assert resumed.best_epoch == undisturbed.best_epoch


def test_it_learns_what_can_be_learnt(toy: Toy, tmp_path: Path) -> None:
    result = toy.train(tmp_path, epochs=6)
    assert max(row["val_top1"] for row in result.history) > 0.8
    assert result.history[-1]["train_loss"] < 0.6 * result.history[0]["train_loss"]


def test_a_training_killed_with_kill_9_ends_with_the_same_weights(
    toy: Toy, trained: TrainResult, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "gbif_platform_tests.training.worker", str(tmp_path), "2", "3"]
    killed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "work" / "result.json").exists()
    assert_same(toy.train(tmp_path / "work", epochs=3), trained)


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 4), (2, 2), (3, 4)])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_a_cut_anywhere_leaves_no_trace(
    toy: Toy,
    trained: TrainResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    checkpoint_seconds: float,
) -> None:
    monkeypatch.setattr(run, "PROGRESS_SECONDS", 0.0)
    with pytest.raises(Cut):
        toy.train(tmp_path, epochs=3, progress=cut_at(epoch, step), checkpoint_seconds=checkpoint_seconds)
    assert_same(toy.train(tmp_path, epochs=3), trained)


def test_a_training_that_stopped_early_is_not_continued(toy: Toy, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 30, "patience": 1, "learning_rate": 1e-6}
    undisturbed = toy.train(tmp_path / "a", **settings)
    assert undisturbed.epochs < 30
    tracker = CutAfterEpoch(undisturbed.epochs - 1)
    with pytest.raises(Cut):
        toy.train(tmp_path / "b", tracker=tracker, **settings)
    assert tracker.ended == ["FAILED"]
    assert_same(toy.train(tmp_path / "b", **settings), undisturbed)


def test_a_finished_training_returns_at_once(toy: Toy, trained: TrainResult) -> None:
    began = time.monotonic()
    again = toy.train(trained.weights.parent, epochs=3)
    assert time.monotonic() - began < 1
    assert again == trained


def test_the_weights_of_the_lowest_validation_loss_are_kept(trained: TrainResult) -> None:
    losses = [row["val_loss"] for row in trained.history]
    assert trained.best_epoch == losses.index(min(losses))


def test_other_settings_start_afresh_and_say_so(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    toy.train(tmp_path, epochs=1)
    other = toy.train(tmp_path, epochs=3)
    assert "started afresh" in other.warnings[0]
    assert_same(other, trained)


def test_the_number_of_threads_changes_nothing(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    assert_same(toy.train(tmp_path, epochs=3, threads=5), trained)


def test_without_validation_the_last_epoch_is_taken(toy: Toy, tmp_path: Path) -> None:
    result = toy.train(tmp_path, epochs=2, validate=False, patience=1)
    assert result.best_epoch == 1
    assert "val_loss" not in result.history[0]


def test_one_label_is_refused(toy: Toy, tmp_path: Path) -> None:
    store, table = toy_table(tmp_path, 8, patterns=["vertical"])
    single = Toy(store, Samples.from_table(table, PATTERNS), toy.validation)
    with pytest.raises(TrainingDataError, match="at least two labels; here is only 'vertical'"):
        single.train(tmp_path / "work", epochs=1)
    with pytest.raises(TrainingDataError, match="none at all"):
        Toy(store, toy.nothing, toy.validation).train(tmp_path / "work", epochs=1)


def test_a_loss_that_is_no_number_is_told(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="epoch"):
        toy.train(tmp_path, epochs=3, learning_rate=1e30, warmup_epochs=0, precision="32-true")


def test_it_writes_its_own_files_and_nothing_else(
    toy: Toy, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    level = logging.getLogger("lightning.pytorch").level
    seen: list[Progress] = []
    result = toy.train(tmp_path / "work", epochs=2, progress=seen.append)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert names == {"best.safetensors", "history.jsonl", "result.json", "training.json"}
    rows = [json.loads(line) for line in (tmp_path / "work" / "history.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert (seen[-1].epoch, seen[-1].step) == (2, seen[-1].steps)
    assert seen[-1].rate > 0
    assert torch.rand(1) == expected, "the caller's random numbers were disturbed"
    assert logging.getLogger("lightning.pytorch").level == level


def test_logit_adjustment_favours_the_rare_label(toy: Toy, tmp_path: Path) -> None:
    """With pictures that tell nothing, plain training leans on the common label; balanced softmax does not."""
    store, table = toy_table(tmp_path, 48, patterns=["vertical"])
    labels = ["rare" if index % 12 == 0 else "common" for index in range(48)]
    samples = Samples.from_table(table.set_column(1, "label", pa.array(labels)), ["common", "rare"])
    lead: dict[str, float] = {}
    for loss in ("cross_entropy", "logit_adjusted"):
        spec = ModelSpec(**TINY, epochs=8, loss=loss)
        result = run.train(spec, samples, toy.nothing, ["common", "rare"], store, tmp_path / loss)
        bundle = save_bundle(tmp_path / f"{loss}-bundle", result, spec, ["common", "rare"], Provenance("toy", "1"))
        answers = predict(bundle, samples, store, k=2).to_pylist()
        common = [row["top_probabilities"][row["top_labels"].index(0)] for row in answers]
        lead[loss] = sum(common) / len(common)
    assert lead["cross_entropy"] > lead["logit_adjusted"] + 0.1


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    factors = [rate_factor(step, 10, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1
    assert factors[100] == 0
    assert factors[10:] == sorted(factors[10:], reverse=True)
