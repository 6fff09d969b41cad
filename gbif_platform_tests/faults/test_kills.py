"""Killed at any moment, then run again: the same tables, shards and weights as if nothing had happened."""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from polars.testing import assert_frame_equal

from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform_tests.faults.victim import Victim

pytestmark = pytest.mark.faults

MODELS = """\
  models:
    tiny: {backbone: test_resnet, image_size: 32, epochs: 4, patience: 0, batch_size: 8, threads: 1}
"""


@dataclass(frozen=True)
class World:
    """A sandbox, whose addresses both homes know the pictures by, and a home in which nothing went wrong."""

    sandbox: Sandbox
    doi: str
    undisturbed: Victim

    def pictures(self) -> int:
        """How often any picture was asked for."""
        return sum(count for path, count in self.sandbox.counts().items() if path.startswith("/media/"))

    def archives(self) -> int:
        """How often an archive was asked for."""
        return sum(count for path, count in self.sandbox.counts().items() if path.endswith(".zip"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox() as sandbox:
        doi = sandbox.publish(SandboxDataset(size=60, troubles=1)).doi
        undisturbed = Victim(tmp_path_factory.mktemp("undisturbed"))
        undisturbed.write_dataset(doi, sandbox.url)
        undisturbed.run("run", "insects")
        yield World(sandbox, doi, undisturbed)


def more(counter: Callable[[], int], wanted: int) -> Callable[[], bool]:
    """Whether a counter has risen by so much since now."""
    start = counter()
    return lambda: counter() >= start + wanted


def test_killed_again_and_again_before_the_pictures_are_there(world: World, tmp_path: Path) -> None:
    moments = Random(17)
    home = Victim(tmp_path / "home")
    home.write_dataset(world.doi, world.sandbox.url)
    home.kill_when(more(world.archives, 2), "run", "insects", later=moments.uniform(0, 0.05))  # as the archive comes
    home.kill_when(lambda: home.work("staging/*/occurrences*.parquet"), "run", "insects")  # in occurrences
    home.kill_when(more(world.pictures, 1), "run", "insects", later=moments.uniform(0, 0.2))
    # The second shard is stored when the first one's rows are committed.
    home.kill_when(more(home.stored_shards, 2), "run", "insects")
    interrupted = home.kill_when(more(world.pictures, 2), "run", "insects", number=signal.SIGINT)
    assert "error: downloaded_images: interrupted" in interrupted
    assert "Traceback" not in interrupted

    kept = home.fetched()
    before = world.pictures()
    home.run("run", "insects")
    everything = home.fetched()
    assert 0 < kept < everything, "the kills fell into the fetching"
    retried = 2  # a transfer that is cut each time, and a host that was busy
    assert world.pictures() - before <= everything - kept + retried, "what was stored is not asked for again"

    undisturbed = world.undisturbed.tables()
    for name, table in home.tables().items():
        assert_frame_equal(table, undisturbed[name], check_column_order=False)
    assert home.shard_problems() == []
    assert home.dagster_leftovers() == []
    assert not home.work("staging/*")


def test_killed_while_training(world: World, tmp_path: Path) -> None:
    homes = []
    for name in ("calm", "killed"):
        shutil.copytree(world.undisturbed.folder, tmp_path / name)
        homes.append(Victim(tmp_path / name))
        homes[-1].write_dataset(world.doi, world.sandbox.url, MODELS)
    calm, killed = homes
    calm.run("run", "insects", "--select", "trained_model")

    train = ("run", "insects", "--select", "trained_model")
    killed.kill_when(lambda: killed.work("training/**/training.json"), *train)  # before the first epoch has ended
    assert killed.frame("SELECT * FROM models").is_empty()
    killed.kill_when(lambda: killed.work("training/**/last.ckpt"), *train)
    assert not killed.work("training/**/result.json"), "the kill fell between the epochs"
    assert killed.frame("SELECT * FROM models").is_empty()
    killed.run(*train)

    assert killed.weights() == calm.weights()
    assert killed.mlflow_runs() == calm.mlflow_runs() == ["FINISHED"]
    assert killed.dagster_leftovers() == []
    assert not killed.work("training/**/last.ckpt")
    (weights,) = killed.folder.glob("objects/bundles/**/model.safetensors")
    assert sha256(weights.read_bytes()).hexdigest() == killed.weights()
