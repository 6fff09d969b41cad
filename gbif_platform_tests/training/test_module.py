"""The module under a plain Lightning trainer, on batches from memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from gbif_platform.training.backbone import create_backbone, preprocess_for
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Batch
from gbif_platform.training.module import Classifier, CompilerMissingError

SIZE = 32
COUNTS = np.array([9, 6, 3])
LOSSES = ["cross_entropy", "class_balanced", "balanced_softmax", "logit_adjusted", "focal"]


def batches(count: int, *, several: bool = False) -> list[Batch]:
    """Of six pictures each: the label is the brightest channel."""
    random = torch.Generator().manual_seed(4)
    made = []
    for number in range(count):
        label = torch.randint(0, 3, (6,), generator=random)
        image = torch.randint(0, 120, (6, 3, SIZE, SIZE), generator=random, dtype=torch.uint8)
        image[torch.arange(6), label] += 100
        target = torch.nn.functional.one_hot(label, 3).float() if several else None
        made.append(Batch(torch.arange(6) + 6 * number, image, label, target))
    return made


def module(steps: int = 4, **settings: Any) -> Classifier:
    spec = ModelSpec(
        **{"backbone": "test_resnet", "learning_rate": 3e-3, "epochs": 2, "warmup_epochs": 0.5, **settings}
    )
    torch.manual_seed(spec.seed)
    network = create_backbone("test_resnet", 3, SIZE, hidden=spec.hidden, dropout=spec.dropout)
    return Classifier(network, preprocess_for("test_resnet", SIZE), spec, COUNTS, steps)


class Listener(Callback):
    """Keeps the scores and rates of each epoch, and calls back after each batch."""

    def __init__(self, after_batch: Callable[[pl.Trainer, int], None] | None = None) -> None:
        self.scores: list[dict[str, float]] = []
        self.rates: list[float] = []
        self._after_batch = after_batch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        if self._after_batch is not None:
            self._after_batch(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        self.scores.append(pl_module.take_scores())


class Loader:
    """Goes on where a resumed run stands, as BatchLoader does. (Lightning takes a list for several loaders.)"""

    def __init__(self, made: list[Batch]) -> None:
        self._made = made
        self._begin = self._done = 0

    def __len__(self) -> int:
        return len(self._made)

    def state_dict(self) -> dict[str, int]:
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._begin = state["done"]

    def __iter__(self) -> Iterator[Batch]:
        begin, self._begin = self._begin % len(self), 0
        for position in range(begin, len(self)):
            self._done = position + 1
            yield self._made[position]


def fit(
    trained: Classifier,
    folder: Path,
    *,
    after_batch: Callable[[pl.Trainer, int], None] | None = None,
    resume: Path | None = None,
    several: bool = False,
) -> Listener:
    listener = Listener(after_batch)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=trained.spec.epochs,
        accumulate_grad_batches=trained.spec.accumulate_grad_batches,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=[listener],
    )
    made = batches(8, several=several)
    trainer.fit(trained, Loader(made[:4]), Loader(made[4:]), ckpt_path=resume, weights_only=True)
    return listener


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_with_mixed_pictures(tmp_path: Path, loss: str, output: str) -> None:
    trained = module(
        epochs=4, learning_rate=0.01, loss=loss, output=output, mixup=0.2, cutmix=0.5, label_smoothing=0.05
    )
    scores = fit(trained, tmp_path, several=output == "sigmoid").scores
    assert scores[-1]["val_loss"] < scores[0]["val_loss"]
    assert np.isfinite([row["train_loss"] for row in scores]).all()


def test_a_cut_run_with_everything_on_ends_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "epochs": 2,
        "ema_decay": 0.9,
        "dropout": 0.2,
        "hidden": 8,
        "mixup": 0.4,
        "cutmix": 1.0,
        "layer_decay": 0.7,
        "accumulate_grad_batches": 2,
    }
    whole = module(2, **settings)
    undisturbed = fit(whole, tmp_path)

    class Cut(Exception):
        pass

    def cut(trainer: pl.Trainer, batch: int) -> None:
        if trainer.current_epoch == 1 and batch == 1:
            trainer.save_checkpoint(tmp_path / "cut.ckpt")
            raise Cut

    first = module(2, **settings)
    with pytest.raises(Cut):
        fit(first, tmp_path, after_batch=cut)
    resumed = module(2, **{**settings, "seed": 99})  # whatever it starts from is replaced …
    resumed.spec = whole.spec  # … and the chance of each step is the same
    again = fit(resumed, tmp_path, resume=tmp_path / "cut.ckpt")
    assert again.scores == undisturbed.scores[1:]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert not torch.equal(whole.judged_network().head.output.weight, whole.network.head.output.weight)


def test_the_moving_average_is_what_is_judged(tmp_path: Path) -> None:
    trained = module(epochs=1, ema_decay=0.9)
    scores = fit(trained, tmp_path).scores[0]
    judged = trained.judged_network().eval()
    with torch.no_grad():
        answers = [judged(trained.preprocess.normalise(batch.image)) for batch in batches(8)[4:]]
    labels = torch.cat([batch.label for batch in batches(8)[4:]])
    expected = torch.nn.functional.cross_entropy(torch.cat(answers), labels)
    assert scores["val_loss"] == pytest.approx(float(expected), rel=1e-5)
    plain = module(epochs=1)
    assert plain.judged_network() is plain.network


def test_the_schedule_counts_optimiser_steps(tmp_path: Path) -> None:
    listener = fit(module(2, epochs=2, warmup_epochs=0, accumulate_grad_batches=2), tmp_path)
    assert len(listener.rates) == 8
    assert listener.rates[-1] == pytest.approx(0)
    assert listener.rates[3] == pytest.approx(1.5e-3)  # half way down


def test_a_frozen_backbone_is_frozen_under_the_trainer(tmp_path: Path) -> None:
    trained = module(epochs=1, freeze_backbone=True, ema_decay=0.5)
    before = {name: value.clone() for name, value in trained.network.state_dict().items()}
    fit(trained, tmp_path)
    changed = {name for name, value in trained.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.output.weight", "head.output.bias"}


def test_the_chance_of_a_step_depends_on_seed_step_and_batch() -> None:
    drawn = {}
    for seed, step, batch in [(1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]:
        module(seed=seed).seed_step(step, batch)
        drawn[seed, step, batch] = float(torch.rand(1))
    assert len(set(drawn.values())) == 4
    module(seed=1).seed_step(0, 0)
    assert float(torch.rand(1)) == drawn[1, 0, 0]


def test_compiling_leaves_the_names_of_the_weights() -> None:
    compiled = module(compile=True, ema_decay=0.9)
    assert compiled.network._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(module(ema_decay=0.9).state_dict())


def test_a_machine_without_a_compiler_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CompilerMissingError, match="compile: true"):
        module(compile=True)


def test_several_labels_a_picture_are_right_if_one_is_hit() -> None:
    trained = module(output="sigmoid").eval()
    batch = batches(1)[0]
    everything = Batch(batch.index, batch.image, batch.label, torch.ones(6, 3))
    trained.validation_step(everything, 0)
    assert trained.take_scores()["val_top1"] == 1
    unlabelled = Batch(batch.index, batch.image, torch.full((6,), -1), torch.zeros(6, 3))
    trained.validation_step(everything, 0)
    trained.validation_step(unlabelled, 1)
    assert trained.take_scores()["val_top1"] == 1


def test_an_unset_rate_is_no_rate() -> None:
    with pytest.raises(RuntimeError, match="find_learning_rate"):
        module(learning_rate="find").configure_optimizers()
