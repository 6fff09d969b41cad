"""A toy dataset, and MLflow stores, shared by the training tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import SAMPLE_SCHEMA, Samples
from gbif_platform.training.run import TrainResult, train
from gbif_platform_tests.training.shards import PATTERNS, toy_table

settings.register_profile("any machine", deadline=None)  # an example may wait for the processor
settings.load_profile("any machine")

HOOKS = ("tracker", "progress", "checkpoint_seconds", "start")
TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": 32,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "patience": 0,
}


@dataclass(frozen=True)
class Toy:
    """Training and validation samples in one store."""

    store: ObjectStore
    training: Samples
    validation: Samples

    def train(self, work_dir: Path, *, validate: bool = True, **settings: Any) -> TrainResult:
        hooks = {name: settings.pop(name) for name in HOOKS if name in settings}
        validation = self.validation if validate else self.nothing
        spec = ModelSpec(**{**TINY, **settings})
        return train(spec, self.training, validation, PATTERNS, self.store, work_dir, **hooks)

    @property
    def nothing(self) -> Samples:
        return Samples.from_table(SAMPLE_SCHEMA.empty_table(), [])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks as small as these are slower on two threads, much slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """50 training and 24 validation pictures of three patterns."""
    folder = tmp_path_factory.mktemp("toy")
    store, training = toy_table(folder, 50, seed=1)
    _, validation = toy_table(folder, 24, seed=2)
    return Toy(store, Samples.from_table(training, PATTERNS), Samples.from_table(validation, PATTERNS))


@pytest.fixture(scope="session")
def trained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """An undisturbed training of three epochs: what resumed ones must equal."""
    return toy.train(tmp_path_factory.mktemp("trained"), epochs=3)


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store in SQLite; its schema takes seconds to make, so it is made here and the session shares it."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments()
    return uri
