"""Lists of URLs from the command line to shards and splits, with the pictures on a host of this machine."""

import re
import shlex
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gbif_platform.dataset import read_dataset
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.catalogue import catalogue
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.predicted_catalogue import predicted_catalogue
from gbif_platform.steps.run import Run
from gbif_platform.steps.splits import splits
from gbif_platform.steps.taxa import taxa
from gbif_platform_tests.commands import Home
from gbif_platform_tests.images.faulty_host import FaultyHost

pytestmark = pytest.mark.e2e

STEPS = (
    occurrences,
    media_urls,
    taxa,
    balanced_samples,
    predicted_catalogue,
    downloaded_images,
    duplicate_images,
    splits,
    catalogue,
)
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "from-img2dataset.md"
LABELS = ("Rana temporaria", "Bufo bufo")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path / "home", monkeypatch)


@pytest.fixture
def host() -> Iterator[FaultyHost]:
    with FaultyHost() as host:
        yield host


def test_a_text_of_urls_becomes_shards_without_labels(home: Home, host: FaultyHost, tmp_path: Path) -> None:
    urls = [host.url(f"good/{n}?size=!{n},512") for n in range(6)]
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join([*urls, host.url("status/404"), "images/7.jpg"]))
    made = home("dataset", "new", "plain", "--urls", listed)
    assert made.exit_code == 0, made.stderr
    result = home("run", "plain", "--select", "downloaded_images")
    assert result.exit_code == 0, result.stderr
    stored = home.rows("SELECT url, shard, status FROM images WHERE status = 'ok'")
    assert sorted(row["url"] for row in stored) == urls, "commas and all"
    assert {row["shard"] for row in stored} != {None}
    assert home.rows("SELECT row_ref, reason FROM quarantine WHERE stage = 'media_urls'") == [
        {"row_ref": "urls.txt:8", "reason": "no_scheme"}
    ]
    sampled = home.rows("SELECT label, count(*) AS n FROM balanced_samples GROUP BY label")
    assert sampled == [{"label": "unlabelled", "n": 7}], "one did not come"


def test_the_guides_commands_make_of_a_list_what_img2dataset_makes(
    home: Home, host: FaultyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    urls = [host.url(f"good/{n}") for n in range(6)]
    told = {"TEXT": ["a bird"] * 6, "license": ["CC BY 4.0"] * 6, "author": ["Ada"] * 6}
    pl.DataFrame({"URL": urls, **told}).write_parquet("birds.parquet")
    (block,) = re.findall(r"(?s)becomes\n\n```bash\n(.*?)```", GUIDE.read_text())
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [command[0] for command in commands] == ["gbif-platform"] * 3
    for command in commands:
        done = home(*command[1:])
        assert done.exit_code == 0, done.stderr
    assert "6 pictures as webdataset" in done.stdout
    assert not home.rows("SELECT * FROM models"), "nothing was trained"
    read = pl.concat([pl.read_parquet(file) for file in sorted(Path("birds").glob("*/*.parquet"))])
    assert sorted(read["url"]) == urls
    assert set(read["creator"]) == {"Ada"}
    members: list[str] = []
    for file in Path("birds").glob("*/*.tar"):
        with tarfile.open(file) as shard:
            members += shard.getnames()
    assert {name for name in members if name.endswith(".jpg")} == set(read["key"] + ".jpg")


def all_steps(home: Home, file: Path) -> None:
    """What `gbif-platform run` does, without Dagster around it."""
    dataset = read_dataset(file)
    run = Run(home.platform, dataset, add_snapshot(home.platform, dataset)[0])
    for step in STEPS:
        step(run)


def test_a_table_with_labels_is_split_and_grows_without_a_request_for_what_is_known(
    home: Home, host: FaultyHost, tmp_path: Path
) -> None:
    listed = tmp_path / "birds.csv"
    # names that the lake's own tables have, too
    header = "image_url,class,TEXT,licence,author,width,height,url_id,label,status,subset,split,sha256,gbif_id,key"
    rows = [
        f'{host.url(f"good/{n}")},{LABELS[n % 2]},"a frog, no. {n}",CC BY 4.0,Ada,1,2,x,y,ok,train,a,b,{n // 2},k'
        for n in range(64)
    ]
    listed.write_text("\n".join([header, *rows[:60]]))
    made = home("dataset", "new", "amphibians", "--urls", listed, "--label-column", "class")
    assert made.exit_code == 0, made.stderr
    file = home.folder / "datasets" / "amphibians.yaml"
    # the host's pictures are near duplicates of each other
    file.write_text(file.read_text().replace("split: {", "split: {group_by: [occurrence], "))

    all_steps(home, file)
    split = home.rows("SELECT label, subset, license, creator FROM catalogue")
    assert Counter(row["label"] for row in split) == dict.fromkeys(LABELS, 30)
    assert {row["subset"] for row in split} == {"train", "validation", "test"}
    assert {(row["license"], row["creator"]) for row in split} == {("CC-BY-4.0", "Ada")}
    assert home.rows("SELECT description FROM media_urls WHERE description LIKE '%no. 7'") == [
        {"description": "a frog, no. 7"}
    ]
    pairs = home.rows(
        "SELECT occurrence_id, count(DISTINCT group_id) AS groups FROM splits JOIN media_urls USING (media_id) "
        "JOIN occurrences USING (gbif_id) GROUP BY occurrence_id"
    )
    assert len(pairs) == 30
    assert {pair["groups"] for pair in pairs} == {1}, "pictures of one gbifID stay together"

    asked = len(host.seen)
    listed.write_text("\n".join([header, *rows]))
    all_steps(home, file)
    assert len(home.rows("SELECT * FROM snapshots")) == 2
    assert sorted(host.targets()[asked:]) == [f"good/{n}" for n in range(60, 64)]
    moved = home.rows(
        "SELECT count(*) AS n FROM splits AS old JOIN splits AS new USING (media_id) WHERE old.subset <> new.subset"
    )
    assert moved == [{"n": 0}]
    assert not add_snapshot(home.platform, read_dataset(file))[1], "the same bytes are the same snapshot"
