"""`gbif-platform predict` and `export-model`, as a person uses them."""

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import numpy as np
import polars as pl
import pytest
import torch

from gbif_platform.commands.export_model import export_model
from gbif_platform.commands.predict import predict
from gbif_platform.commands.shared import Group
from gbif_platform.serving.pictures import FilePictures, transform_of
from gbif_platform.serving.predictor import Reading
from gbif_platform.training.bundle import Bundle
from gbif_platform_tests.commands import Home
from gbif_platform_tests.conftest import SHARED
from gbif_platform_tests.serving.conftest import SPECIES, TAXONOMY, scene
from gbif_platform_tests.training.bundles import random_bundle
from gbif_platform_tests.training.shards import picture, write_shard

MAIN = Group(commands=[predict, export_model])
SNAPSHOT = "10.15468/dl.sand01"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("model") / "bundle", labels=SPECIES, taxonomy=TAXONOMY)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path / "home", monkeypatch)


@pytest.fixture
def run(home: Home) -> Callable[..., click.testing.Result]:
    return lambda *arguments: click.testing.CliRunner().invoke(MAIN, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, of which one is cut and one empty, a note, and a table that names two of them."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    scene().save(folder / "a.png")
    scene(300, 400).save(folder / "deep" / "b.jpg")
    (folder / "cut.jpg").write_bytes((folder / "deep" / "b.jpg").read_bytes()[:900])
    (folder / "empty.gif").touch()
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_is_answered_picture_by_picture_and_nothing_is_dropped(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    file = tmp_path / "answers.csv"
    result = run("predict", bundle.folder, folder, "--to", file, "--top-k", 2)
    assert result.exit_code == 0, result.output
    rows = pl.read_csv(file)
    assert rows["path"].to_list() == [str(folder / name) for name in ("a.png", "cut.jpg", "empty.gif", "deep/b.jpg")]
    assert rows["problem"].to_list() == [None, "truncated_image", "empty_body", None]
    assert rows["label_1"].null_count() == rows["label_2"].null_count() == 2
    assert (rows["score_1"].drop_nulls() >= rows["score_2"].drop_nulls()).all()
    assert set(rows["taxon_key_1"].drop_nulls().cast(pl.String)) <= {"5217160", "2426805", "2426814"}
    assert "1 files in the folders are no pictures" in result.stderr
    assert "cut.jpg: truncated_image" in result.stderr
    assert "2 pictures" in result.stderr
    assert "a second on" in result.stderr
    assert "not read: 2" in result.stderr
    assert not list(tmp_path.glob(".answers*")), "nothing half written is left"


def test_strict_fails_where_a_picture_could_not_be_read_but_writes_all(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    file = tmp_path / "answers.parquet"
    assert run("predict", bundle.folder, folder, "--to", file, "--strict").exit_code == 1
    assert len(pl.read_parquet(file)) == 4
    assert run("predict", bundle.folder, folder / "a.png", "--to", file, "--strict").exit_code == 0


def test_the_three_kinds_of_file_say_the_same(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    for ending in ("csv", "parquet", "jsonl"):
        assert run("predict", bundle.folder, folder, "--to", tmp_path / f"a.{ending}").exit_code == 0
    parquet = pl.read_parquet(tmp_path / "a.parquet")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == parquet["labels"].to_list()
    csv = pl.read_csv(tmp_path / "a.csv")
    assert csv["label_1"].to_list() == parquet["label"].to_list()
    assert np.allclose(csv["score_1"].drop_nulls(), parquet["score"].drop_nulls(), atol=1e-5)


def test_a_table_of_paths_a_rank_and_a_smallest_score(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    (folder / "list.csv").write_text("file_name,seen\na.png,1\ndeep/b.jpg,2\n,3\n")
    file = tmp_path / "answers.jsonl"
    result = run("predict", bundle.folder, folder / "list.csv", "--to", file, "--rank", "genus", "--min-score", "0.2")
    assert result.exit_code == 0, result.output
    rows = pl.read_ndjson(file)
    assert rows["path"].to_list()[:2] == ["a.png", "deep/b.jpg"]
    assert rows["problem"].to_list() == [None, None, "no_such_file"]
    assert set(rows["labels"].explode().drop_nulls()) <= {"Rana", "Bufo"}
    assert all(score >= 0.2 for score in rows["scores"].explode().drop_nulls())


def test_without_a_file_the_answers_are_a_table(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result]
) -> None:
    (folder / "[").mkdir()  # "[/a]" would end a style of rich's
    (folder / "a.png").rename(folder / "[" / "a].png")
    result = run("predict", bundle.folder, folder / "[" / "a].png", "--top-k", 1, "--tau", 1)
    assert result.exit_code == 0, result.output
    assert any(species in result.stdout for species in SPECIES)
    assert "%" in result.stdout


def test_mistakes_are_told_before_any_work(
    bundle: Bundle, folder: Path, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    for arguments, said in (
        ((), "name pictures or a dataset"),
        ((folder, "--dataset", "frogs"), "name pictures or a dataset"),
        ((folder, "--subset", "test"), "--dataset NAME"),
        ((folder, "--to", "a.xlsx"), "a.xlsx"),
        ((folder, "--rank", "tribe"), "species, genus, family"),
        ((folder, "--device", "teapot"), "teapot"),
        ((tmp_path / "nowhere",), "nowhere"),
    ):
        result = run("predict", bundle.folder, *arguments)
        assert result.exit_code == 1, arguments
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_a_datasets_model_answers_a_datasets_subset(
    bundle: Bundle, home: Home, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    dataset(home, bundle)
    file = tmp_path / "answers.parquet"
    result = run("predict", "frogs/baseline", "--dataset", "frogs", "--subset", "test", "--to", file)
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(file)["path"].to_list() == ["m001", "m003", "m005"]
    assert run("predict", f"frogs/baseline@{SNAPSHOT}", "--dataset", "frogs", "--to", file).exit_code == 0
    assert len(pl.read_parquet(file)) == 6
    result = run("predict", "frogs/baseline", "--dataset", "frogs", "--subset", "tset")
    assert result.exit_code == 1
    assert "test, train" in result.stderr
    result = run("predict", "frogs/other", "--dataset", "frogs")
    assert result.exit_code == 1
    assert f"frogs/baseline@{SNAPSHOT}" in result.stderr


def dataset(home: Home, bundle: Bundle) -> None:
    """A dataset of six stored pictures, three in test, and a trained model, as the steps leave them."""
    home.dataset("frogs", "{archive: /nowhere.zip}")
    store, lake = home.platform.objects, home.platform.lake
    transform = find_transform(home)
    random = np.random.default_rng(1)
    places = write_shard(store, "images/1.tar", {f"{i}.jpg": picture("checked", random) for i in range(6)})
    key = "bundles/frogs/1/baseline-1"
    for name in ("bundle.json", "model.safetensors"):
        store.put(f"{key}/{name}", bundle.folder / name)
    with lake.transaction("test", "a dataset") as con:
        keys = f"'frogs' AS dataset, '{SNAPSHOT}' AS snapshot"
        con.execute(f"INSERT INTO lake.snapshots BY NAME SELECT {keys}, now() AS added_at")
        model = f"'baseline' AS model, '{key}' AS bundle"
        con.execute(f"INSERT INTO lake.models BY NAME SELECT {keys}, {model}, now() AS trained_at")
        for i, (offset, size) in enumerate(places.values()):
            media = f"{keys}, 'm00{i}' AS media_id"
            subset = ("train", "test")[i % 2]
            con.execute(f"INSERT INTO lake.splits BY NAME SELECT {media}, '{subset}' AS subset")
            con.execute(f"INSERT INTO lake.balanced_samples BY NAME SELECT {media}, 'u{i}' AS url_id, 'x' AS label")
            con.execute(f"INSERT INTO lake.media_urls BY NAME SELECT {media}, 'u{i}' AS url_id, 'https://x/{i}' AS url")
            con.execute(
                f"INSERT INTO lake.images BY NAME SELECT 'u{i}' AS url_id, '{transform}' AS transform, 'ok' AS status, "
                f"'images/1.tar' AS shard, {offset} AS shard_offset, {size} AS shard_size"
            )


def find_transform(home: Home) -> str:
    from gbif_platform.commands.shared import find_dataset

    return find_dataset(home.platform.settings, "frogs").images.key


def test_the_exported_model_answers_real_pictures_as_predict_does(
    real_pictures: list[Path], bundle: Bundle, run: Callable[..., click.testing.Result], tmp_path: Path
) -> None:
    file = tmp_path / "answers.parquet"
    result = run("predict", bundle.folder, *real_pictures, "--to", file, "--top-k", 3)
    assert result.exit_code == 0, result.output
    rows = pl.read_parquet(file)
    assert rows["path"].to_list() == [str(path) for path in real_pictures]
    assert rows["problem"].null_count() == len(real_pictures)
    assert np.allclose(rows["scores"].list.sum(), 1, atol=1e-4)
    result = run("export-model", bundle.folder, "--format", "torch-export", "--to", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "3 labels; differs from the model by at most" in result.stdout
    module = torch.export.load(tmp_path / "new" / "model.pt2").module()
    files = FilePictures([("", path) for path in real_pictures], transform_of(bundle))
    images = [bundle.preprocess.read(files.load(place)) for place in range(len(real_pictures))]
    top, score = Reading(bundle).best(module(torch.stack(images))[0].detach().numpy(), 3)
    assert [[bundle.labels[place] for place in row] for row in top] == rows["labels"].to_list()
    assert np.allclose(score, rows["scores"].to_list(), atol=1e-4)


@pytest.fixture
def real_pictures(tmp_path: Path) -> list[Path]:
    """A dozen photographs; generated pictures where these are absent."""
    photographs = sorted((SHARED / "photos" / "dev" / "monkeys10" / "Aotus_nigriceps").glob("*.jpg"))[:12]
    if photographs:
        return photographs
    paths = [tmp_path / f"{number}.jpg" for number in range(12)]
    for number, path in enumerate(paths):
        scene(200 + 10 * number, 300).save(path)
    return paths
