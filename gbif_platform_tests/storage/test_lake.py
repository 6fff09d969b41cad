"""The lake: all or nothing, one writer at a time, readers never refused, a kill leaves the state before."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake, LakeError
from gbif_platform.storage.tables import Outcome, Stage, refusals

STAGE = Stage("frogs", "10.15468/dl.abc123", "occurrences")


def open_lake(folder: Path) -> Lake:
    lake = Lake(f"sqlite:{folder / 'catalog.sqlite'}", str(folder / "data"))
    tables.initialise(lake)
    return lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path)


def outcome(ids: list[str], **columns: list[object]) -> Outcome:
    return Outcome({"occurrences": pl.DataFrame({"gbif_id": ids, **columns})}, len(ids), len(ids))


def test_a_stage_replaces_its_own_rows_and_no_others(lake: Lake) -> None:
    other = Stage("frogs", "10.15468/dl.other1", "occurrences")
    tables.write_stage(lake, other, "v1", outcome(["9"]), run_id="r")
    tables.write_stage(lake, STAGE, "v1", outcome(["1", "2", "3"]), run_id="r")
    tables.write_stage(lake, STAGE, "v2", outcome(["4"]), run_id="r")
    rows = lake.frame("SELECT snapshot, gbif_id FROM occurrences ORDER BY gbif_id").rows()
    assert rows == [(STAGE.snapshot, "4"), (other.snapshot, "9")]
    assert tables.stage_version(lake, STAGE) == "v2"


def test_columns_of_a_new_archive_are_added_and_old_rows_stay(lake: Lake) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1"], year=[1999]), run_id="r")
    tables.write_stage(lake, Stage("frogs", "two", "occurrences"), "v1", outcome(["2"], order=["Anura"]), run_id="r")
    assert lake.frame('SELECT gbif_id, year, "order" FROM occurrences ORDER BY gbif_id').rows() == [
        ("1", 1999, None),
        ("2", None, "Anura"),
    ]


def test_a_failed_block_leaves_nothing_behind(lake: Lake) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1"]), run_id="r")
    before = lake.version()
    with pytest.raises(duckdb.Error), lake.transaction("r", "will fail") as con:
        con.execute("DELETE FROM lake.occurrences; SELECT no_such_column FROM lake.images")
    assert lake.version() == before
    assert len(lake.frame("FROM occurrences")) == 1


def test_an_old_state_can_be_read_again_by_its_version(lake: Lake) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1", "2"]), run_id="run-7")
    old = lake.version()
    tables.write_stage(lake, STAGE, "v2", outcome(["3"]), run_id="run-8")
    assert lake.frame(f"SELECT gbif_id FROM occurrences AT (VERSION => {old}) ORDER BY 1").rows() == [("1",), ("2",)]
    author = lake.frame("SELECT author FROM lake.snapshots() ORDER BY snapshot_id")["author"].to_list()
    assert author[-2:] == ["run-7", "run-8"]


def test_only_one_select_is_run_for_a_person(lake: Lake) -> None:
    assert lake.query("SELECT 1 AS one")["one"].to_list() == [1]
    for statement in ("DELETE FROM images", "SELECT 1; SELECT 2", "COPY (SELECT 1) TO 'x.csv'", "SELEC 1"):
        with pytest.raises(LakeError):
            lake.query(statement)


def test_a_read_only_lake_refuses_writes(lake: Lake, tmp_path: Path) -> None:
    reader = Lake(lake.catalog, lake.data, read_only=True)
    with reader.reader() as con, pytest.raises(duckdb.Error, match="read-only"):
        con.execute("DELETE FROM lake.images")


def test_a_lake_that_is_not_there_says_so(tmp_path: Path) -> None:
    missing = Lake(f"sqlite:{tmp_path / 'none' / 'catalog.sqlite'}", str(tmp_path / "data"), read_only=True)
    with pytest.raises(LakeError, match="cannot open the lake"):
        missing.query("SELECT 1")


def _append(folder: str, worker: int, times: int) -> None:
    lake = open_lake(Path(folder))
    for turn in range(times):
        stage = Stage("frogs", f"{worker}", "occurrences")
        tables.write_stage(lake, stage, f"{turn}", outcome([f"{turn}-{n}" for n in range(50)]), run_id=f"w{worker}")


def test_writers_in_several_processes_take_turns_while_a_reader_reads(lake: Lake, tmp_path: Path) -> None:
    workers, times = 3, 4
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(str(tmp_path), n, times)) for n in range(workers)]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        counts = lake.frame("SELECT snapshot, count(*) AS n FROM occurrences GROUP BY snapshot")["n"].to_list()
        seen |= set(counts)
        time.sleep(0.02)
    assert [process.exitcode for process in processes] == [0] * workers
    assert seen <= {50}, "a reader never sees half of a transaction"
    assert lake.frame("SELECT count(*) AS n FROM occurrences")["n"][0] == workers * 50


def _hold_transaction(folder: str, ready: str) -> None:
    lake = open_lake(Path(folder))
    with lake.transaction("victim", "never commits") as con:
        con.execute(
            "INSERT INTO lake.occurrences (dataset, snapshot, gbif_id) "
            "SELECT 'x', 'y', range::VARCHAR FROM range(100000)"
        )
        Path(ready).touch()
        time.sleep(600)


def test_kill_9_inside_a_transaction_loses_it_and_frees_the_lock(lake: Lake, tmp_path: Path) -> None:
    tables.write_stage(lake, STAGE, "v1", outcome(["1"]), run_id="r")
    ready = tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=_hold_transaction, args=(str(tmp_path), str(ready)))
    process.start()
    while not ready.exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    start = time.monotonic()
    tables.write_stage(lake, STAGE, "v2", outcome(["1", "2"]), run_id="r")
    assert time.monotonic() - start < 60, "the lock is free"
    assert len(lake.frame("FROM occurrences")) == 2


def test_images_are_one_row_for_each_url_and_transform(lake: Lake) -> None:
    row = {"url_id": "u", "transform": "keep_ratio-256-jpeg-92", "status": "failed", "reason": "timeout"}
    tables.add_images(lake, [row, {**row, "url_id": "v"}], run_id="r")
    tables.add_images(lake, [{**row, "status": "ok", "reason": None}, {**row, "transform": "no-jpeg-92"}], run_id="r")
    rows = lake.frame("SELECT url_id, transform, status FROM images ORDER BY ALL").rows()
    assert rows == [
        ("u", "keep_ratio-256-jpeg-92", "ok"),
        ("u", "no-jpeg-92", "failed"),
        ("v", "keep_ratio-256-jpeg-92", "failed"),
    ]


def test_refused_rows_keep_reference_reason_and_detail(lake: Lake) -> None:
    result = outcome(["1"])
    result.rows_in, result.refused = 2, refusals([("occurrence.txt:3", "empty_id", "the row has no id")])
    tables.write_stage(lake, STAGE, "v1", result, run_id="r")
    assert lake.frame("SELECT stage, row_ref, reason, detail FROM quarantine").rows() == [
        ("occurrences", "occurrence.txt:3", "empty_id", "the row has no id")
    ]
    account = lake.frame("SELECT rows_in, rows_out, rows_refused FROM stages").row(0)
    assert account == (2, 1, 1)


def staged(file: Path, rows: pl.DataFrame) -> Outcome:
    rows.write_parquet(file)
    return Outcome({"occurrences": file}, rows_in=len(rows), rows_out=len(rows))


def test_a_staged_file_becomes_the_lakes_own_and_is_replaced_like_any_rows(tmp_path: Path) -> None:
    lake = Lake(f"sqlite:{tmp_path}/catalog.sqlite", str(tmp_path / "data"))
    tables.initialise(lake)
    stage = Stage("frogs", "10.15468/dl.x y", "occurrences")
    first = pl.DataFrame({"gbif_id": ["1", "2"], "year": [2020, None]}, schema={"gbif_id": pl.String, "year": pl.Int32})
    tables.write_stage(lake, stage, "1", staged(tmp_path / "a.parquet", first), run_id="test")
    assert not (tmp_path / "a.parquet").exists(), "moved, not copied"
    before = lake.version()
    second = pl.DataFrame({"gbif_id": ["3"], "sex": ["FEMALE"]})
    tables.write_stage(lake, stage, "2", staged(tmp_path / "b.parquet", second), run_id="test")
    rows = lake.frame("SELECT dataset, snapshot, gbif_id, year, sex FROM occurrences")
    assert rows.rows() == [("frogs", "10.15468/dl.x y", "3", None, "FEMALE")]
    assert lake.frame(f"SELECT gbif_id FROM occurrences AT (VERSION => {before}) ORDER BY 1")["gbif_id"].to_list() == [
        "1",
        "2",
    ], "the earlier state can be read again"
    lake.close()
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = Lake(f"sqlite:{tmp_path}/catalog.sqlite", str(tmp_path / "moved"))
    assert len(moved.frame("SELECT * FROM occurrences")) == 1, "the data may be moved"


def test_a_staged_file_that_the_lake_does_not_take_leaves_nothing(tmp_path: Path) -> None:
    lake = Lake(f"sqlite:{tmp_path}/catalog.sqlite", str(tmp_path / "data"))
    tables.initialise(lake)
    outcome = staged(tmp_path / "a.parquet", pl.DataFrame({"gbif_id": ["1"]}))
    outcome.rows = {**outcome.rows, "no_such_table": pl.DataFrame({"gbif_id": ["1"]})}
    with pytest.raises(duckdb.CatalogException):
        tables.write_stage(lake, Stage("frogs", "1", "occurrences"), "1", outcome, run_id="test")
    assert lake.frame("SELECT * FROM occurrences").is_empty()
    assert list((tmp_path / "data").rglob("*.parquet")) == []
