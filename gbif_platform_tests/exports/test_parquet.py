"""Parquet files with pictures: read back by pyarrow and Polars, in bounded memory, the same bytes twice."""

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from gbif_platform.exports.parquet import ROW_GROUP_BYTES, ROW_GROUP_PICTURES, write_parquet_shard
from gbif_platform_tests.exports.small_export import CLASSES, pictures


def test_polars_reads_pictures_and_catalogue(tmp_path: Path) -> None:
    rows, read = pictures()
    write_parquet_shard(rows, read, tmp_path / "a.parquet", CLASSES, suffix=".png")
    found = pl.read_parquet(tmp_path / "a.parquet")
    same = [name for name in rows.columns if name in found.columns and name != "label"]
    assert set(rows.columns) - set(same) == {"label", "transform", "shard", "shard_offset", "shard_size"}
    assert found.select(same).equals(rows.select(same))
    assert found["label_name"].to_list() == [CLASSES[index] for index in found["label"]] == rows["label"].to_list()
    at = rows.select("shard", "shard_offset", "shard_size").rows()
    assert found["image"].struct.field("bytes").to_list() == [read(*place) for place in at]
    assert found["image"].struct.field("path").to_list() == [f"{name}.png" for name in rows["media_id"]]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    rows, read = pictures(40)
    for name in ("a", "b"):
        write_parquet_shard(rows, read, tmp_path / name, CLASSES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_row_groups_bound_what_a_reader_of_one_picture_loads(tmp_path: Path) -> None:
    rows, read = pictures(2 * ROW_GROUP_PICTURES + 7)
    write_parquet_shard(rows, read, tmp_path / "a.parquet", CLASSES)
    file = pq.ParquetFile(tmp_path / "a.parquet").metadata
    groups = [file.row_group(index) for index in range(file.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP_PICTURES, ROW_GROUP_PICTURES, 7]
    columns = {groups[0].column(at).path_in_schema: groups[0].column(at) for at in range(groups[0].num_columns)}
    assert columns["media_id"].has_column_index  # a reader finds the page of a medium
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in columns["image.bytes"].encodings
    assert not columns["image.bytes"].is_stats_set
    assert all(column.compression == "ZSTD" for name, column in columns.items() if name != "image.bytes")


def test_memory_is_bounded_where_pictures_are_large(tmp_path: Path) -> None:
    rows, _ = pictures(8)
    size = ROW_GROUP_BYTES // 3
    data = bytes(size)
    rows = rows.with_columns(shard_size=pl.lit(size, pl.Int64))
    write_parquet_shard(rows, lambda *_: data, tmp_path / "a.parquet", CLASSES)
    file = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [file.row_group(index).num_rows for index in range(file.num_row_groups)] == [3, 3, 2]


def test_a_label_outside_the_classes_is_null(tmp_path: Path) -> None:
    rows, read = pictures(6)
    write_parquet_shard(rows, read, tmp_path / "a.parquet", CLASSES[:2])
    found = pl.read_parquet(tmp_path / "a.parquet")
    assert found["label"].to_list() == [0, 1, None, 0, 1, None]
    assert found["label_name"].to_list() == [*CLASSES, *CLASSES]


def test_no_rows_give_an_empty_file_with_its_columns(tmp_path: Path) -> None:
    rows, read = pictures(1)
    write_parquet_shard(rows[:0], read, tmp_path / "a.parquet", CLASSES)
    assert pl.read_parquet(tmp_path / "a.parquet").is_empty()
