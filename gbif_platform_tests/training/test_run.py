import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import softmax

from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training import run
from gbif_platform.training.backbone import create_backbone
from gbif_platform.training.bundle import Provenance, save_bundle
from gbif_platform.training.checkpoints import TrainingDivergedError
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Samples
from gbif_platform.training.predict import predict
from gbif_platform.training.ranks import RanksError
from gbif_platform.training.run import Progress, TrainingDataError, TrainResult
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.cuts import Cut, CutAfterEpoch, cut_at
from gbif_platform_tests.training.shards import PATTERNS, toy_table


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


def test_gradients_that_wait_for_more_are_not_lost(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PROGRESS_SECONDS", 0.0)
    settings: dict[str, Any] = {"epochs": 1, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5}
    undisturbed = toy.train(tmp_path / "a", **settings)
    with pytest.raises(Cut):
        toy.train(tmp_path / "b", progress=cut_at(1, 3), checkpoint_seconds=0.0, **settings)
    assert not (tmp_path / "b" / "last.ckpt").exists(), "saved within an optimiser step"
    assert_same(toy.train(tmp_path / "b", **settings), undisturbed)


def test_a_found_rate_is_kept(toy: Toy, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": "find", "warmup_epochs": 0}
    with pytest.raises(Cut):
        toy.train(tmp_path, tracker=CutAfterEpoch(0), **settings)
    found = tmp_path / run.FOUND_RATE
    rate = json.loads(found.read_text())
    resumed = toy.train(tmp_path, **settings)
    assert rate > resumed.history[0]["learning_rate"] > 0.4 * rate
    (tmp_path / "result.json").unlink()
    found.write_text("1e-9")  # a run that was killed before its first resume point seeks no second time
    assert toy.train(tmp_path, **settings).history[0]["learning_rate"] < 1e-9


def test_a_warm_start_knows_what_the_earlier_model_knew(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    spec = ModelSpec(**TINY, epochs=3)
    bundle = save_bundle(tmp_path / "bundle", trained, spec, PATTERNS, Provenance("toy", "1")).folder
    frozen: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-12, "freeze_backbone": True}
    warm = toy.train(tmp_path / "warm", start=bundle, **frozen)
    best = trained.history[trained.best_epoch]
    assert warm.history[0]["val_loss"] == pytest.approx(best["val_loss"], rel=1e-3)
    cold = toy.train(tmp_path / "warm", **frozen)
    assert "started afresh" in cold.warnings[0], "another start is another training"
    assert cold.history[0]["val_loss"] > warm.history[0]["val_loss"]


def test_new_weights_under_the_old_path_start_afresh(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "start.pth"
    settings: dict[str, Any] = {"epochs": 1, "pretrained": str(path), "freeze_backbone": True, "learning_rate": 1e-12}

    def with_start(seed: int, tracker: CutAfterEpoch | None = None) -> TrainResult:
        torch.manual_seed(seed)
        torch.save(create_backbone("test_resnet", 3, 32).state_dict(), path)
        return toy.train(tmp_path / "work", tracker=tracker, **settings)

    first = with_start(1)
    weights = first.weights.read_bytes()
    assert with_start(1).warnings == []
    with pytest.raises(Cut):
        with_start(2, CutAfterEpoch(0))
    assert "started afresh" in with_start(1).warnings[0], "half a training from other weights is not gone on with"
    assert first.weights.read_bytes() == weights
    assert "started afresh" in with_start(2).warnings[0]
    assert first.weights.read_bytes() != weights


def test_two_trainings_do_not_share_a_folder(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LOCK_SECONDS", 0.0)
    refusals: list[str] = []

    def second(progress: Progress) -> None:
        with pytest.raises(run.FolderInUseError) as refused:
            toy.train(tmp_path, epochs=1)
        refusals.append(refused.value.cause)

    toy.train(tmp_path, epochs=1, progress=second)
    assert str(tmp_path) in refusals[0]


def test_several_devices_need_several_processes(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(RanksError, match="need 2 processes; here are 1"):
        toy.train(tmp_path, epochs=1, devices=2)


def test_a_training_that_stopped_early_is_not_continued(toy: Toy, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 30, "patience": 1, "learning_rate": 1e-6}
    undisturbed = toy.train(tmp_path / "a", **settings)
    assert undisturbed.epochs < 30
    tracker = CutAfterEpoch(undisturbed.epochs - 1)
    with pytest.raises(Cut):
        toy.train(tmp_path / "b", tracker=tracker, **settings)
    assert tracker.ended == ["FAILED"]
    assert_same(toy.train(tmp_path / "b", **settings), undisturbed)


def test_a_finished_training_returns_without_a_look_at_pictures(toy: Toy, trained: TrainResult, tmp_path: Path) -> None:
    nothing = Toy(ObjectStore(tmp_path.as_uri()), toy.training, toy.validation)
    assert nothing.train(trained.weights.parent, epochs=3) == trained


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
        logits = np.load(predict(bundle, samples, store, tmp_path / f"{loss}-answers").logits).astype(np.float64)
        lead[loss] = float(softmax(logits, axis=1)[:, 0].mean())
    assert lead["cross_entropy"] > lead["logit_adjusted"] + 0.1
