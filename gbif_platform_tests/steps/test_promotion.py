"""Who becomes champion where the split, the settings or the start of a model change."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from gbif_platform.dataset import Dataset
from gbif_platform.orchestration.assets import shells
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings, fingerprint
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.evaluation_metrics import evaluation_metrics
from gbif_platform.steps.promotion import decision, promotion
from gbif_platform.steps.run import Report, Run
from gbif_platform.steps.seen import ROWS, keep_training_rows, training_rows
from gbif_platform.steps.splits import splits
from gbif_platform.steps.trained_model import (
    BUNDLE_FILES,
    _start,
    _version,
    bundle_key,
    champion,
    labelled_pictures,
    model_row,
    stage_name,
)
from gbif_platform.storage.tables import Outcome
from gbif_platform_tests.training.bundles import random_bundle

COLOURS = {"Rana temporaria": (150, 90, 40), "Bufo bufo": (90, 90, 150), "Pelophylax lessonae": (60, 160, 60)}
LEARNS = {"backbone": "test_resnet", "image_size": 32, "epochs": 5, "learning_rate": 0.01, "threads": 1}


class World:
    """A folder of pictures, and a model that has learnt their colours under the first split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = Platform(Settings(home=folder / "home"))
        for number in range(120):
            label = list(COLOURS)[number % 3]
            (folder / "pictures" / label).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).normal(COLOURS[label], 45, (40, 40, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / label / f"{number}.png")
        files = [path.relative_to(folder / "pictures") for path in (folder / "pictures").glob("*/*.png")]
        (folder / "table.csv").write_text("\n".join(["file,recordedBy", *(f"{file},Ann" for file in files)]))
        self.snapshot = add_snapshot(self.platform, self.run(1, "none").dataset)[0]
        learns = self.run(1)
        for shell in shells(learns.dataset):
            if not shell.stage.endswith("model_report"):
                shell.step(learns)
        self.learnt = str(model_row(learns, "small")["bundle"])

    def run(self, split_seed: int, snapshot: str = "", **model: object) -> Run:
        dataset = Dataset.model_validate(
            {
                "name": "frogs",
                "source": {
                    "image_folder": {"path": str(self.folder / "pictures"), "table": f"{self.folder}/table.csv"}
                },
                "filters": {"licences": "any"},
                "sampling": {"policy": "all"},
                "images": {"size": 40},
                "split": {"subsets": {"train": 0.35, "validation": 0.15, "test": 0.5}, "seed": split_seed},
                "models": {"small": LEARNS | model},
            }
        )
        return Run(self.platform, dataset, snapshot or self.snapshot)

    def ids(self, run: Run, *subsets: str) -> set[str]:
        return set(pictures(run, *subsets)["media_id"])

    def put_in_place(self, run: Run, bundle: str, folder: Path | None = None) -> None:
        """Make a bundle, that of a folder where one is given, the trained model of the split as it is now."""
        if folder is not None:
            keep_training_rows(run.platform.objects, bundle, pictures(run, "train", "validation"), None)
            for file in BUNDLE_FILES:
                run.platform.objects.put(f"{bundle}/{file}", folder / file)
        row = pl.DataFrame([model_row(run, "small")]).drop("dataset", "snapshot", "model")
        row = row.with_columns(bundle=pl.lit(bundle), start=pl.lit(None, pl.String))
        run.compute(stage_name("small"), bundle, lambda *_: Outcome({"models": row}, 1, 1), keys={"model": "small"})

    def judge(self, run: Run) -> Report:
        evaluation_metrics(run, "small")
        return promotion(run, "small")


def pictures(run: Run, *subsets: str) -> pl.DataFrame:
    with run.reader() as con:
        return labelled_pictures(run, con).filter(pl.col("subset").is_in(subsets))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("promotion"))
    yield world
    world.platform.lake.close()


def test_another_split_and_back(world: World, tmp_path: Path) -> None:
    """A champion is not judged on pictures that it learnt, and a refused model's row is not taken for its own."""
    first = world.run(1)
    learnt = training_rows(world.platform.objects, world.learnt)
    assert set(learnt["media_id"]) == world.ids(first, "train", "validation")

    other = world.run(2)
    splits(other)
    ignorant = random_bundle(tmp_path / "ignorant", labels=sorted(COLOURS), backbone="test_resnet", image_size=32)
    refused = bundle_key(other.dataset, other.snapshot, "small", "ignorant")
    world.put_in_place(other, refused, ignorant.folder)
    world.judge(other)
    fair = world.ids(other, "test") - set(learnt["media_id"])
    assert 10 <= len(fair) < len(world.ids(other, "test"))
    decided = decision(other, "small")
    assert (decided["bundle"], decided["champion_bundle"], decided["promoted"]) == (refused, world.learnt, False)
    assert decided["reason"].startswith("Worse than the champion")
    assert (decided["test_pictures"], decided["test_digest"]) == (len(fair), fingerprint(*sorted(fair)))
    assert set(decided["comparison"].filter(pl.col("slice") == "all")["rows"]) == {len(fair)}

    splits(first)
    world.put_in_place(first, world.learnt)
    world.judge(first)
    decided = decision(first, "small")
    assert (decided["bundle"], decided["champion_bundle"], decided["promoted"]) == (world.learnt, None, True)
    assert decided["reason"] == "the model is the champion in force"
    assert decided["comparison"].is_empty()
    assert champion(first, "small") == {"bundle": world.learnt, "snapshot": world.snapshot}

    world.judge(world.run(1, evaluation={"tau": 1.0}))
    assert decision(first, "small")["decided_at"] == decided["decided_at"], "what made it champion stays"


def test_a_slice_that_protects_nothing_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def check(*protected: str) -> tuple[bool, str]:
        report = promotion(world.run(1, evaluation={"protected": protected}), "small")
        [found] = [one for one in report.checks if one.name == "protected_slices"]
        return found.passed, found.description

    assert check()[0]
    assert check("recorded_by") == (True, "compared by recorded_by")
    assert "nothing to compare" not in caplog.text
    passed, says = check("contry_code", "title", "media_id")
    assert not passed
    unknown, empty, rare = says.split("; '")[0], *says.split("; '")[1:]
    assert unknown.startswith("'contry_code': no such slice; known are ")
    assert "recorded_by, " in unknown
    assert empty == "title': known of no test picture, nothing to compare"
    assert rare == "media_id': no value has 20 test pictures, nothing to compare"
    assert "'contry_code': no such slice" in caplog.text


def test_a_champion_of_which_nobody_knows_what_it_saw_gives_way(world: World, tmp_path: Path) -> None:
    run, objects = world.run(1), world.platform.objects
    before = decision(run, "small")
    kept = objects.get(f"{world.learnt}/{ROWS}")
    newer = random_bundle(tmp_path / "newer", labels=sorted(COLOURS), backbone="test_resnet", image_size=32)
    world.put_in_place(run, bundle_key(run.dataset, run.snapshot, "small", "newer"), newer.folder)
    objects.delete(f"{world.learnt}/{ROWS}")
    world.judge(run)
    objects.put(f"{world.learnt}/{ROWS}", kept)
    assert before["promoted"]
    decided = decision(run, "small")
    assert decided["promoted"]
    assert "cannot be judged fairly any more" in decided["reason"]
    assert "training_rows.parquet is missing" in decided["reason"]


def test_a_start_that_has_seen_test_pictures_is_told_or_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    later = world.run(1, "a later snapshot", warm_start=True)
    force = champion(later, "small")
    assert force is not None
    objects, test = world.platform.objects, pictures(world.run(1), "test")

    def start() -> tuple[str | None, str]:
        caplog.clear()
        return _start(later, "small", test), caplog.text

    with caplog.at_level(logging.WARNING):
        assert start() == (force["bundle"], "")
        keep_training_rows(objects, force["bundle"], test.head(7), None)
        found, says = start()
        assert found == force["bundle"]
        assert f"has seen 7 of the {len(test)} test pictures" in says
        keep_training_rows(objects, force["bundle"], test, None)
        found, says = start()
        assert found is None
        assert (
            f"has seen {len(test)} of the {len(test)} test pictures, or others of their groups: no warm start" in says
        )
        objects.delete(f"{force['bundle']}/{ROWS}")
        found, says = start()
        assert found is None
        assert "training_rows.parquet is missing" in says


def test_other_weights_under_the_same_path_make_another_model(world: World, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    versions = []
    for content in (b"first", b"first", b"other"):
        weights.write_bytes(content)
        versions.append(_version(world.run(1, pretrained=str(weights)), "small"))
    assert versions[0] == versions[1] != versions[2]
