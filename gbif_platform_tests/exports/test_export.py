"""Exports that are made, made again, grow, shrink, break off and go bad."""

import json
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from gbif_platform.exports.formats import IN_FILES, IN_SHARDS
from gbif_platform.exports.manifest import NAME, WORK, ExportError, Manifest
from gbif_platform_tests.exports.stock import Stock, files, stamps, write

FORMATS = (*IN_FILES, *IN_SHARDS)
ONE_OF_EACH = ("imagefolder", "webdataset", "parquet")
BESIDE = {"catalogue.parquet", "catalogue.csv", "attribution.csv", "LICENCES.txt", "CITATION.txt", "README.md"}
BESIDE |= {"croissant.json", NAME}


def manifest(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / NAME)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_export_carries_its_credit_and_says_what_it_holds(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    report = write(stock, rows, kind, folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there >= BESIDE
    assert (report.pictures, report.kept, report.removed, report.up_to_date) == (24, 0, 0, False)
    assert "CC-BY-4.0: 24 pictures" in (folder / "LICENCES.txt").read_text()
    assert "10.15468/dl.sand01" in (folder / "CITATION.txt").read_text()
    assert "A museum's frogs" in (folder / "CITATION.txt").read_text()
    credit = pl.read_csv(folder / "attribution.csv")
    assert credit["media_id"].to_list() == sorted(rows["media_id"])
    assert credit["credit"].str.contains("Jörg № ").sum() == 23
    assert not credit.select(pl.col(pl.String).str.contains(r"^[=+@-]").any()).transpose().to_series().any()
    assert set(credit["file"]) <= there
    assert pl.read_parquet(folder / "catalogue.parquet")["media_id"].to_list() == sorted(rows["media_id"])
    said = manifest(folder)
    assert set(said["file"]) == there - {NAME}
    assert sorted(said["media_id"].drop_nulls()) == sorted(rows["media_id"])
    assert not (folder / WORK).exists()
    json.loads((folder / "croissant.json").read_text())


@pytest.mark.parametrize("kind", FORMATS)
def test_again_with_nothing_new_nothing_is_read_or_written(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    write(stock, rows, kind, folder)
    before, stock.asked = stamps(folder), 0
    for verify in (False, True):
        report = write(stock, rows, kind, folder, verify=verify)
        assert report.up_to_date
        assert (report.written, report.kept, report.removed, stock.asked) == (0, report.kept, 0, 0)
    assert stamps(folder) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_growth_adds_files_and_leaves_those_that_are_there(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    old = stock.rows(40)
    write(stock, old, kind, folder)
    pictures = set(manifest(folder).drop_nulls("media_id")["file"])
    before, stock.asked = {name: stamps(folder)[name] for name in pictures}, 0
    report = write(stock, pl.concat([old, stock.rows(4, start=40)]), kind, folder)
    assert (report.kept, report.removed, stock.asked) == (len(pictures), 0, 4)
    assert report.written == (4 if kind in IN_FILES else 2)
    assert {name: stamps(folder)[name] for name in pictures} == before


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_taken_down_or_moved_disappears_and_the_rest_stays(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(60).sort("media_id")
    write(stock, rows, kind, folder)
    train = rows.filter(pl.col("subset") == "train")["media_id"]
    gone, moved = train[0], train[1]
    there = stamps(folder)
    kept = set(manifest(folder).drop_nulls("media_id").filter(pl.col("media_id").is_in(train[20:].to_list()))["file"])
    subset = pl.when(pl.col("media_id") == moved).then(pl.lit("validation")).otherwise("subset").alias("subset")
    rows = rows.filter(pl.col("media_id") != gone).with_columns(subset)
    write(stock, rows, kind, folder)
    fresh = tmp_path / "fresh"
    write(stock, rows, kind, fresh)
    found = manifest(folder).drop_nulls("media_id")
    assert sorted(found["media_id"]) == sorted(rows["media_id"])
    assert found.filter(pl.col("media_id") == moved)["subset"].to_list() == ["validation"]
    assert {name: stamps(folder)[name] for name in kept} == {name: there[name] for name in kept}
    if kind in IN_FILES:
        assert files(folder) == files(fresh)


def test_a_class_that_is_gone_leaves_no_folder(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    write(stock, rows, "imagefolder", folder)
    write(stock, rows.filter(pl.col("label") != "Bufo bufo"), "imagefolder", folder)
    assert {path.name for path in folder.glob("*/*")} == {"Rana temporaria", "Triturus cristatus"}


def test_a_shard_without_pictures_leaves_no_gap_in_the_numbers(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(40).sort("media_id").with_columns(subset=pl.lit("train"))
    write(stock, rows, "webdataset", folder)
    write(stock, rows[10:], "webdataset", folder)
    names = [f"frogs-train-{number:06d}" for number in range(3)]
    assert sorted(path.name for path in (folder / "train").iterdir()) == [
        f"{name}.{ending}" for name in names for ending in ("parquet", "tar")
    ]
    assert write(stock, rows[10:], "webdataset", folder).up_to_date


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("after", [0, 1, 13, 39])
def test_a_run_that_was_killed_is_completed_by_the_next(tmp_path: Path, kind: str, after: int) -> None:
    stock, folder, whole = Stock(), tmp_path / "export", tmp_path / "whole"
    rows = stock.rows(40)
    write(stock, rows, kind, whole)
    stock.asked, stock.fails_after = 0, after
    with pytest.raises(KeyboardInterrupt):
        write(stock, rows, kind, folder)
    assert not pl.read_parquet(folder / NAME).drop_nulls("sha256")["media_id"].has_nulls()
    stock.fails_after = -1
    write(stock, rows, kind, folder)
    assert files(folder) == files(whole)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_a_killed_run_leaves_nothing_of_what_is_not_wanted_any_more(tmp_path: Path, kind: str) -> None:
    stock, folder, whole = Stock(), tmp_path / "export", tmp_path / "whole"
    rows = stock.rows(40)
    stock.fails_after = 35
    with pytest.raises(KeyboardInterrupt):
        write(stock, rows, kind, folder)
    stock.fails_after = -1
    left = rows.filter(pl.col("subset") == "validation")
    write(stock, left, kind, folder)
    write(stock, left, kind, whole)
    assert files(folder) == files(whole)


@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_are_missing_or_damaged_are_written_again(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(40)
    write(stock, rows, kind, folder)
    sound = files(folder)
    pictures = sorted(set(manifest(folder).drop_nulls("media_id")["file"]))
    (folder / pictures[0]).unlink()
    (folder / pictures[1]).write_bytes(sound[pictures[1]][:-7])
    (folder / "catalogue.csv").write_bytes(b"media_id\n")
    report = write(stock, rows, kind, folder)
    assert (report.damaged, report.written) == (2, 2)
    assert files(folder) == sound
    turned = bytes([sound[pictures[2]][0] ^ 1]) + sound[pictures[2]][1:]
    (folder / pictures[2]).write_bytes(turned)
    assert write(stock, rows, kind, folder).up_to_date
    assert write(stock, rows, kind, folder, verify=True).damaged == 1
    assert files(folder) == sound


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_the_same_export_has_the_same_bytes(tmp_path: Path, kind: str) -> None:
    stock = Stock()
    rows = stock.rows(24)
    write(stock, rows, kind, tmp_path / "one")
    write(stock, rows.reverse().with_columns(shard=pl.lit("images/compacted.tar")), kind, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_pictures_that_compaction_moved_are_not_written_again(tmp_path: Path) -> None:
    stock = Stock()
    rows = stock.rows(24)
    for kind in FORMATS:
        write(stock, rows, kind, tmp_path / kind)
        moved = rows.with_columns(shard=pl.lit("images/compacted.tar"))
        assert write(stock, moved, kind, tmp_path / kind).up_to_date


@pytest.mark.parametrize("link", [True, False])
def test_a_picture_that_is_there_twice_is_one_file_or_two(tmp_path: Path, link: bool) -> None:
    stock = Stock()
    rows = stock.rows(8)
    twice = pl.concat([rows, rows[:1].with_columns(media_id=pl.lit("again"), subset=pl.lit("validation"))])
    write(stock, twice, "imagefolder", tmp_path / "export", link=link)
    assert stock.asked == 8
    paths = [path for path in (tmp_path / "export").rglob("*.jpg") if path.stem in ("again", rows["media_id"][0])]
    assert len(paths) == 2
    assert paths[0].samefile(paths[1]) is link
    assert paths[0].read_bytes() == paths[1].read_bytes()
    paths[0].write_bytes(b"")  # both names, where it is one file
    assert write(stock, twice, "imagefolder", tmp_path / "export").damaged == (2 if link else 1)
    assert paths[0].read_bytes() == paths[1].read_bytes() != b""


def test_a_stored_picture_that_is_damaged_is_never_exported(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(40)
    sound, place = stock.bytes, rows["shard_offset"][20] + 50
    stock.bytes = sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
    with pytest.raises(ExportError, match=f"{rows['media_id'][20]}.*damaged"):
        write(stock, rows, "webdataset", folder)
    stock.bytes, stock.asked = sound, 0
    write(stock, rows, "webdataset", folder)
    assert stock.asked < 40


# Folders


def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    stock = Stock()
    rows = stock.rows(4)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for path, said in (
        (folder, "not empty"),
        (folder / "notes.txt", "is a file"),
        (tmp_path / "a" / "b", "there is no folder"),
    ):
        with pytest.raises(ExportError, match=said):
            write(stock, rows, "imagefolder", path)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
    write(stock, rows, "imagefolder", tmp_path / "export")
    for kind, name in (("webdataset", "frogs"), ("imagefolder", "newts")):
        with pytest.raises(ExportError, match="holds an export of frogs as imagefolder"):
            write(stock, rows, kind, tmp_path / "export", name=name)


def test_a_users_own_files_in_an_export_stay(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    write(stock, rows, "webdataset", folder)
    (folder / "train" / "notes.txt").write_text("mine")
    write(stock, rows[:3], "webdataset", folder)
    assert (folder / "train" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_users_own_empty_folders_in_an_export_stay(tmp_path: Path, kind: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24)
    write(stock, rows, kind, folder)
    for mine in (".git/branches", "notes/empty", "train/mine"):
        (folder / mine).mkdir(parents=True)
    assert write(stock, rows, kind, folder).up_to_date
    write(stock, rows.filter(pl.col("label") != "Bufo bufo"), kind, folder)
    for mine in (".git/branches", "notes/empty", "train/mine"):
        assert (folder / mine).is_dir(), mine


def test_the_folder_of_a_class_without_a_picture_goes_with_its_class(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    rows = stock.rows(24).with_columns(subset=pl.lit("train"))
    write(stock, rows.filter(pl.col("label") == "Bufo bufo").vstack(rows[2:3].with_columns(subset=pl.lit("test"))),
          "imagefolder", folder)  # fmt: skip
    assert (folder / "test" / "Bufo bufo").is_dir()
    write(stock, rows[2:3].with_columns(subset=pl.lit("test")), "imagefolder", folder)
    assert {path.relative_to(folder).as_posix() for path in folder.glob("*") if path.is_dir()} == {"test"}
    assert {path.name for path in (folder / "test").iterdir()} == {rows["label"][2]}


def test_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot write into /proc/x") as error:
        write(Stock(), Stock().rows(4), "imagefolder", Path("/proc/x"))
    assert error.value.next_step == "name a folder of yours"


@pytest.mark.parametrize("file", ["../victim.txt", "/tmp/victim.txt", "train/../../victim.txt", "C:\\victim.txt", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path, file: str) -> None:
    stock, folder = Stock(), tmp_path / "export"
    (folder / WORK).mkdir(parents=True)
    (tmp_path / "victim.txt").write_text("mine")
    row = {"file": file, "size": 4, "sha256": "0", "media_id": "m", "subset": "train", "label": "a", "content": "c"}
    Manifest("frogs", "imagefolder", pl.DataFrame([row]), complete=True).write(folder)
    with pytest.raises(ExportError, match="outside its folder"):
        write(stock, stock.rows(4), "imagefolder", folder)
    Manifest("frogs", "imagefolder", folders=[file], complete=True).write(folder)
    with pytest.raises(ExportError, match="outside its folder"):
        write(stock, stock.rows(4), "imagefolder", folder)
    assert (tmp_path / "victim.txt").exists()


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not Parquet")
    with pytest.raises(ExportError, match="no manifest"):
        write(Stock(), Stock().rows(4), "imagefolder", tmp_path)


def test_two_exports_never_write_into_one_folder_together(tmp_path: Path) -> None:
    stock, folder = Stock(), tmp_path / "export"
    (folder / WORK).mkdir(parents=True)
    with FileLock(folder / WORK / "lock"), pytest.raises(ExportError, match="another process"):
        write(stock, stock.rows(4), "imagefolder", folder)
    write(stock, stock.rows(4), "imagefolder", folder)
