"""The stages of a model over two snapshots of a folder: answers, metrics, promotion, report; and what is done anew."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from gbif_platform.dataset import Dataset
from gbif_platform.orchestration.assets import shells
from gbif_platform.orchestration.metadata import metadata
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.evaluation_metrics import evaluation_metrics
from gbif_platform.steps.model_report import model_report
from gbif_platform.steps.promotion import is_astray, move_alias, promotion
from gbif_platform.steps.run import Report, Run
from gbif_platform.steps.seen import ROWS, training_rows
from gbif_platform.terminal import model_scores

COLOURS = {"Rana temporaria": (150, 90, 40), "Bufo bufo": (90, 90, 150), "Pelophylax lessonae": (60, 160, 60)}
LEARNS = {"backbone": "test_resnet", "image_size": 32, "epochs": 5, "learning_rate": 0.01, "threads": 1}


class World:
    """A folder that grows, and a platform that learns from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pictures"
        self.platform = Platform(Settings(home=folder / "home"))
        self._drawn = 0

    def draw(self, each: int) -> None:
        """Add pictures of each label: its colour, with noise."""
        for label, colour in COLOURS.items():
            (self.folder / label).mkdir(parents=True, exist_ok=True)
            for _ in range(each):
                random = np.random.default_rng(self._drawn)
                pixels = random.normal(colour, 45, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(self.folder / label / f"{self._drawn:04d}.png")
                self._drawn += 1

    def dataset(self, **model: object) -> Dataset:
        """The dataset file, with more said of its model."""
        return Dataset.model_validate(
            {
                "name": "frogs",
                "source": {"image_folder": {"path": str(self.folder)}},
                "filters": {"licences": "any"},
                "sampling": {"policy": "all"},
                "images": {"size": 40},
                "split": {"subsets": {"train": 0.5, "validation": 0.2, "test": 0.3}},
                "models": {"small": LEARNS | model},
            }
        )

    def run(self, snapshot: str | None = None, **model: object) -> tuple[Run, dict[str, Report]]:
        """All stages of a snapshot, by name; by default of the folder as it is now."""
        dataset = self.dataset(**model)
        run = Run(self.platform, dataset, snapshot or add_snapshot(self.platform, dataset)[0])
        return run, {shell.stage: shell.step(run) for shell in shells(dataset)}

    def registered(self) -> tuple[dict[str, str], dict[str, str]]:
        """Of MLflow's registry: the snapshot of each version, and the version behind each alias."""
        from mlflow import MlflowClient

        client = MlflowClient(self.platform.settings.tracking_uri, self.platform.settings.tracking_uri)
        versions = client.search_model_versions("name = 'frogs-small'")
        aliases = client.get_registered_model("frogs-small").aliases
        return {one.version: one.tags["snapshot"] for one in versions}, dict(aliases)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("models"))
    world.draw(20)
    yield world
    world.platform.lake.close()


@pytest.fixture(scope="module")
def first(world: World) -> tuple[Run, dict[str, Report]]:
    return world.run()


@pytest.fixture(scope="module")
def second(world: World, first: tuple[Run, dict[str, Report]]) -> tuple[Run, dict[str, Report]]:
    world.draw(10)
    return world.run(warm_start=True)


def test_every_metric_follows_from_the_rows_of_the_lake(first: tuple[Run, dict[str, Report]]) -> None:
    run, reports = first
    rows = run.frame("SELECT * FROM predictions WHERE {key} AND subset = 'test'")
    right = (rows["label"] == rows["predicted"]).mean()
    numbers = reports["small/evaluation_metrics"].numbers
    assert numbers["test_top1"] == pytest.approx(right)
    assert numbers["test_log_loss"] == pytest.approx(-rows["log_probability"].to_numpy().mean(), rel=1e-6)
    assert rows["top_scores"].list.sum().to_list() == pytest.approx([1.0] * len(rows), abs=1e-5), "all three labels"
    asked = run.frame("SELECT count(*) AS n FROM splits WHERE {key} AND subset <> 'train'")["n"][0]
    assert len(run.frame("SELECT * FROM predictions WHERE {key}")) == asked


def test_the_answers_are_kept_and_the_rows_say_where(first: tuple[Run, dict[str, Report]]) -> None:
    from gbif_platform.evaluation.answers import Answers

    run, _ = first
    rows = run.frame("SELECT * FROM predictions WHERE {key} ORDER BY answer_row")
    [key] = rows["answers"].unique()
    logits = Answers.of_object(run.platform.objects, f"{key}/logits.npy").array()
    labels = json.loads(run.platform.objects.get(run.frame("FROM models WHERE {key}")["bundle"][0] + "/bundle.json"))
    assert [labels["labels"][best] for best in logits[rows["answer_row"].to_numpy()].argmax(1)] == rows[
        "predicted"
    ].to_list()


def test_the_first_model_is_champion_and_its_report_is_whole(
    world: World, first: tuple[Run, dict[str, Report]]
) -> None:
    run, reports = first
    assert reports["small/promotion"].texts["decision"].startswith("the first model")
    page = Path(reports["small/model_report"].texts["report.html"].removeprefix("file://")).read_text()
    assert all(label in page for label in COLOURS)
    assert "commonest label" in page
    versions, aliases = world.registered()
    assert versions[aliases["champion"]] == run.snapshot


def test_mlflow_shows_some_of_the_answers(world: World, first: tuple[Run, dict[str, Report]], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run, _ = first
    uri = world.platform.settings.tracking_uri
    run_id = run.frame("FROM models WHERE {key}")["run_id"][0]
    shown = json.loads(
        Path(MlflowClient(uri, uri).download_artifacts(run_id, "sample_predictions.json", str(tmp_path))).read_text()
    )
    assert shown["columns"] == ["media_id", "label", "predicted", "score", "url"]
    rows = run.frame("SELECT * FROM predictions WHERE {key} AND subset = 'test' ORDER BY media_id")
    assert [tuple(row[:4]) for row in shown["data"]] == rows.select("media_id", "label", "predicted", "score").rows()
    assert all(row[4].endswith(".png") for row in shown["data"])


def test_mlflow_is_told_again_who_is_champion(world: World, first: tuple[Run, dict[str, Report]]) -> None:
    from mlflow import MlflowClient

    run, _ = first
    uri = world.platform.settings.tracking_uri
    before = world.registered()
    assert not is_astray(run, "small")
    MlflowClient(uri, uri).delete_registered_model_alias("frogs-small", "champion")
    assert is_astray(run, "small")
    assert move_alias(run, "small", run.frame("FROM models WHERE {key}")["bundle"][0]) is None
    assert world.registered() == before


def test_nothing_new_is_no_work(world: World, first: tuple[Run, dict[str, Report]]) -> None:
    _, again = world.run(first[0].snapshot)
    assert [stage for stage, report in again.items() if report.written] == []


def test_another_prior_needs_no_training_and_no_pictures(world: World, second: tuple[Run, dict[str, Report]]) -> None:
    run, before = second
    answers = run.frame("SELECT DISTINCT answers FROM predictions WHERE {key}")["answers"][0]
    path = world.platform.objects.path_of(f"{answers}/logits.npy")
    assert path is not None
    written = path.stat().st_mtime_ns
    _, after = world.run(run.snapshot, warm_start=True, evaluation={"tau": 1.0, "resamples": 50})
    assert not after["small/trained_model"].written
    assert after["small/evaluation_metrics"].written
    assert path.stat().st_mtime_ns == written
    assert (
        after["small/evaluation_metrics"].numbers["test_pictures"]
        == before["small/evaluation_metrics"].numbers["test_pictures"]
    )


def test_a_larger_snapshot_starts_warm_and_is_compared_picture_by_picture(
    world: World, first: tuple[Run, dict[str, Report]], second: tuple[Run, dict[str, Report]]
) -> None:
    run, _ = second
    bundles = world.platform.lake.frame("SELECT snapshot, bundle, start FROM models ORDER BY trained_at").rows()
    assert [row[0] for row in bundles] == [first[0].snapshot, run.snapshot]
    assert [row[2] for row in bundles] == [None, bundles[0][1]]
    decided = run.frame("SELECT * FROM promotions WHERE {key}").row(0, named=True)
    assert decided["champion_bundle"] == bundles[0][1]
    seen = world.platform.lake.frame(
        "SELECT media_id FROM splits WHERE snapshot = ? AND subset <> 'test'", [first[0].snapshot]
    )["media_id"]
    test = run.frame("SELECT media_id FROM splits WHERE {key} AND subset = 'test'")["media_id"]
    assert decided["test_pictures"] == len(set(test) - set(seen))
    table = pl.DataFrame(json.loads(decided["comparison"]))
    overall = table.filter((pl.col("slice") == "all") & (pl.col("metric") == "macro_accuracy")).row(0, named=True)
    assert overall["difference"] == pytest.approx(overall["candidate"] - overall["champion"])
    assert overall["low"] <= overall["difference"] <= overall["high"]
    assert decided["promoted"] == (not any(table["worse"]))
    versions, aliases = world.registered()
    assert set(versions.values()) == {first[0].snapshot, run.snapshot}
    assert (versions[aliases["champion"]] == run.snapshot) == decided["promoted"]


def test_a_model_that_has_learnt_nothing_does_not_become_champion(
    world: World, second: tuple[Run, dict[str, Report]]
) -> None:
    run, _ = second
    before = world.registered()[1]["champion"]
    _, reports = world.run(run.snapshot, epochs=1, learning_rate=1e-7)
    assert reports["small/promotion"].numbers["promoted"] == 0
    assert reports["small/promotion"].texts["decision"].startswith("Worse than the champion")
    versions, aliases = world.registered()
    assert aliases["champion"] == before
    assert len(versions) == 3
    # The champion is still the one to beat.
    _, again = world.run(run.snapshot, epochs=5, seed=3)
    assert again["small/promotion"].texts["champion_before"] != "none"


def test_a_sigmoid_model_is_judged_label_by_label_too(world: World, second: tuple[Run, dict[str, Report]]) -> None:
    run, _ = second
    _, reports = world.run(run.snapshot, output="sigmoid", epochs=2)
    numbers = reports["small/evaluation_metrics"].numbers
    assert 0 < numbers["test_macro_average_precision"] <= 1
    assert 0 < numbers["test_binary_log_loss"] < 2 * numbers["test_baseline_binary_log_loss"]
    third = -np.log([1 / 3, 2 / 3]) @ [1 / 3, 2 / 3]
    assert numbers["test_baseline_binary_log_loss"] == pytest.approx(third, rel=0.1), "of the shares of the pictures"
    assert {"test_log_loss", "test_ece"}.isdisjoint(numbers)
    assert "reliability" not in reports["small/evaluation_metrics"].pictures
    rows = run.frame("SELECT * FROM predictions WHERE {key} AND model = 'small'")
    assert rows["top_scores"].list.sum().max() != pytest.approx(1.0, abs=1e-3), "no parts of one whole"


def test_pictures_that_an_ancestor_saw_are_refused_and_few_that_are_left_prove_nothing(
    world: World, second: tuple[Run, dict[str, Report]]
) -> None:
    run, _ = second
    bundle = run.frame("FROM models WHERE {key}")["bundle"][0]
    asked = run.frame("SELECT * FROM splits WHERE {key} AND subset <> 'train' ORDER BY media_id")
    test = asked.filter(pl.col("subset") == "test")
    known = training_rows(world.platform.objects, bundle)
    before = test["media_id"][4:].to_list()
    ancestor = pl.DataFrame({"media_id": before}).select(
        "media_id",
        *(pl.lit("of an earlier snapshot").alias(name) for name in ("url_id", "group_id", "label")),
        subset=pl.lit("train"),
        bundle=pl.lit("bundles/earlier"),
    )
    buffer = BytesIO()
    pl.concat([known, ancestor.select(known.columns)]).write_parquet(buffer)
    world.platform.objects.put(f"{bundle}/{ROWS}", buffer.getvalue())
    model = run.dataset.models["small"].model_dump(exclude={"evaluation"}, exclude_defaults=True)
    judged = Run(world.platform, world.dataset(**model, evaluation={"slices": ["nonsense", "year"]}), run.snapshot)
    report = evaluation_metrics(judged, "small")

    assert report.written
    assert report.numbers["rows_quarantined"] == len(before)
    assert report.tables["quarantined"]["reason"].to_list() == ["seen_by_the_model_it_was_started_from"]
    checks = {check.name: check for check in report.checks}
    assert checks["rows_reconcile"].passed
    left = run.frame("SELECT media_id, subset FROM predictions WHERE {key}")
    assert set(left["media_id"]) == set(asked["media_id"]) - set(before)
    assert report.numbers["test_pictures"] == 4

    assert {check.name: check.passed for check in second[1]["small/evaluation_metrics"].checks}["slices_known"]
    assert not checks["slices_known"].passed
    assert "'nonsense': no such slice" in checks["slices_known"].description
    assert "country_code" in checks["slices_known"].description

    assert not checks["beats_baseline"].passed
    assert "too few" in checks["beats_baseline"].description
    top1 = run.frame("FROM evaluation_metrics WHERE {key} AND subset = 'test' AND slice = 'all' AND metric = 'top1'")
    assert top1.select("low", "high").row(0) == (None, None)
    assert metadata(report)
    assert model_scores(world.platform, "frogs", run.snapshot)["95 % interval"].to_list() == [None]
    promotion(judged, "small")
    page = Path(model_report(judged, "small").texts["report.html"].removeprefix("file://")).read_text()
    assert "Of too few groups of pictures to say" in page
    assert ">nan" not in page.lower()
