"""Which picture goes into which shard, and WebDataset shards as `webdataset` reads them."""

import json
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from gbif_platform.exports.manifest import ExportError
from gbif_platform.exports.shards import ShardSize, in_shards
from gbif_platform_tests.exports.stock import LABELS, Stock, write

PATTERN = "{subset}/{number:06d}.tar"
SETS = st.frozensets(st.integers(0, 60), max_size=40)


def media(numbers: frozenset[int]) -> pl.DataFrame:
    """Media in two subsets; every seventh is large."""
    rows = [(f"m{n:03}", ("train", "test")[n % 2], 400_000 if n % 7 == 0 else 1_000) for n in sorted(numbers)]
    schema = {"media_id": pl.String, "subset": pl.String, "shard_size": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@given(st.lists(SETS, min_size=1, max_size=5), st.integers(1, 6))
def test_shards_have_no_gap_and_keep_what_they_hold(states: list[frozenset[int]], most: int) -> None:
    placed = pl.DataFrame(schema={"media_id": pl.String, "file": pl.String})
    for numbers in states:
        rows, before = media(numbers), placed
        placed = in_shards(rows, before, PATTERN, ShardSize(most, 1))
        assert sorted(placed["media_id"]) == rows["media_id"].to_list()
        for (subset,), members in placed.join(rows, "media_id").group_by("subset"):
            sizes = members.group_by("file").agg(pl.len(), pl.col("shard_size").sum())
            assert sorted(sizes["file"]) == [PATTERN.format(subset=subset, number=n) for n in range(len(sizes))]
            assert sizes["len"].max() <= most
            assert sizes["shard_size"].max() <= 1_000_000
        together = before.join(placed, "media_id").group_by("file").agg(pl.col("file_right").n_unique())
        assert together["file_right"].to_list() == [1] * len(together)  # what was in one shard still is


def test_a_growing_export_never_moves_a_picture() -> None:
    few, many = media(frozenset(range(0, 40, 3))), media(frozenset(range(40)))
    before = in_shards(few, few.select("media_id", file=pl.lit("other.tar")), PATTERN, ShardSize(4))
    after = in_shards(many, before, PATTERN, ShardSize(4))
    assert after.join(before, ["media_id", "file"], "semi").height == len(few)


def test_a_shard_holds_one_picture_at_least() -> None:
    with pytest.raises(ExportError):
        ShardSize(pictures=0)
    rows = media(frozenset({1})).with_columns(shard_size=pl.lit(5_000_000))
    assert len(in_shards(rows, rows.select("media_id", file=pl.lit("x")), PATTERN, ShardSize(megabytes=1))) == 1


def test_webdataset_reads_pictures_classes_and_rows(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(60)
    write(stock, rows, "webdataset", folder)
    urls = f"{folder}/train/frogs-train-{{000000..000004}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls", "json"))
    train = rows.filter(pl.col("subset") == "train").sort("media_id")
    assert [row["key"] for _, _, row in samples] == train["media_id"].to_list()
    classes = (folder / "classes.txt").read_text().splitlines()
    assert classes == list(LABELS)
    assert [classes[index] for _, index, _ in samples] == train["label"].to_list()
    for (picture, _, said), row in zip(samples, train.iter_rows(named=True), strict=True):
        assert {name: said[name] for name in ("license", "creator", "gbif_id", "sha256")}.items() <= row.items()
        stored = Image.open(BytesIO(stock.read("", row["shard_offset"], row["shard_size"]))).convert("RGB")
        assert not ImageChops.difference(picture, stored).getbbox()


def test_metadata_beside_a_shard_are_those_of_img2dataset(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(40)
    write(stock, rows, "webdataset", folder)
    beside = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("train/*.parquet"))])
    columns = ["key", "shard_id", "status", "error_message", "url", "caption", "width", "height", "sha256"]
    assert beside.columns[: len(columns)] == columns
    train = rows.filter(pl.col("subset") == "train").sort("media_id")
    assert beside["key"].to_list() == train["media_id"].to_list()
    assert beside["url"].to_list() == train["url"].to_list()
    assert beside["shard_id"].to_list() == [0] * 10 + [1] * 10 + [2] * 10
    assert set(beside["status"]) == {"success"}
    assert beside["caption"].to_list() == train["caption_taxonomic_common"].to_list()


def test_a_picture_without_label_or_subset_is_a_sample_without_class(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(4, labels=[None]).with_columns(subset=pl.lit(None, pl.String))
    write(stock, rows, "webdataset", folder)
    samples = list(webdataset.WebDataset(str(folder / "all" / "frogs-all-000000.tar"), shardshuffle=False))
    assert len(samples) == 4
    assert not any("cls" in sample for sample in samples)
    assert "label" not in json.loads(samples[0]["json"])


def test_a_new_class_before_others_rewrites_the_shards_whose_indices_change(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    write(stock, rows, "webdataset", folder)
    more = pl.concat([rows, stock.rows(1, start=24, labels=["Alytes obstetricans"])])
    write(stock, more, "webdataset", folder)
    classes = (folder / "classes.txt").read_text().splitlines()
    label_of = dict(more.select("media_id", "label").iter_rows())
    urls = [str(file) for file in sorted(folder.glob("*/*.tar"))]
    for key, index in webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("__key__", "cls"):
        assert classes[index] == label_of[key]
