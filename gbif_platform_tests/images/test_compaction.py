"""Compaction: what lives is moved byte for byte, what somebody may still read stays, the rest goes."""

import io
import os
import tarfile
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from gbif_platform.errors import PlatformError
from gbif_platform.images.compaction import remove_taken_down, rewrite, survey, unneeded, verify_all, wasteful
from gbif_platform.images.takedown import take_down
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.maintenance import delete_files, merge_files
from gbif_platform.storage.objects import ObjectStore
from gbif_platform_tests.images.ledger import TRANSFORM, picture, store, stored

pytest_plugins = "gbif_platform_tests.services"
NOW = timedelta(0)
WEEK = timedelta(days=7)
SEVEN = {f"p{number}": picture(number) for number in range(7)}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(f"sqlite:{tmp_path / 'catalog.sqlite'}", str(tmp_path / "lake"))
    tables.initialise(lake)
    return lake


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


@pytest.fixture
def thin(lake: Lake, objects: ObjectStore) -> str:
    """A shard of seven pictures, five of which were fetched again since."""
    shard = store(lake, objects, SEVEN)
    store(lake, objects, {f"p{number}": picture(100 + number) for number in range(5)})
    return shard


def compact(lake: Lake, objects: ObjectStore, grace: timedelta = NOW) -> list[str]:
    """As the command does it; returns the shards that were deleted."""
    chosen = wasteful(survey(lake, objects), 0.7)
    rewrite(lake, objects, chosen, shard_images=1000, author="test", told=lambda done, total: None)
    remove_taken_down(lake, objects, "test")
    gone = unneeded(lake, survey(lake, objects), grace)
    for shard in gone:
        objects.delete(shard)
    return gone


def problems(lake: Lake, objects: ObjectStore) -> pl.DataFrame:
    return verify_all(lake, objects, "test", lambda done, total: None, dry_run=True)


def test_what_lives_is_moved_and_the_old_shard_goes_in_time(lake: Lake, objects: ObjectStore, thin: str) -> None:
    before = stored(lake, objects)
    assert compact(lake, objects, WEEK) == []
    assert stored(lake, objects) == before
    assert objects.exists(thin), "somebody may be reading it"
    assert thin not in lake.frame("SELECT shard FROM images")["shard"]
    assert compact(lake, objects, NOW) == [thin]
    assert stored(lake, objects) == before
    assert problems(lake, objects).is_empty()
    members = [name for shard in objects.list("images") for name in names(objects, shard)]
    assert sorted(members) == [f"p{number}.jpg" for number in range(7)], "each picture lies in one place"


def test_it_is_the_same_in_s3(lake: Lake, s3: str) -> None:
    objects = ObjectStore(f"{s3}/objects")
    old = store(lake, objects, SEVEN)
    store(lake, objects, {f"p{number}": picture(100 + number) for number in range(5)})
    before = stored(lake, objects)
    assert compact(lake, objects, NOW) == [old]
    assert stored(lake, objects) == before
    assert problems(lake, objects).is_empty()


def names(objects: ObjectStore, shard: str) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(objects.get(shard))) as tar:
        return tar.getnames()


def test_what_has_no_waste_is_left_alone(lake: Lake, objects: ObjectStore) -> None:
    store(lake, objects, {"alone": picture(1)})
    store(lake, objects, SEVEN)
    assert wasteful(survey(lake, objects), 0.7) == []
    assert wasteful(survey(lake, objects), 1.0) == []
    version = lake.version()
    assert compact(lake, objects) == []
    assert lake.version() == version


def test_originals_keep_their_names(lake: Lake, objects: ObjectStore) -> None:
    for seed in (0, 100):
        originals = {f"p{number}": picture(seed + number, "PNG") for number in range(5 if seed else 7)}
        store(lake, objects, originals, "original", ".png")
    compact(lake, objects)
    shards = list(objects.list("images"))
    assert {Path(shard).parent.as_posix() for shard in shards} == {"images/original"}
    assert {Path(name).suffix for shard in shards for name in names(objects, shard)} == {".png"}
    assert problems(lake, objects).is_empty()


class BusyStore(ObjectStore):
    """While a shard is put into it, a run fetches `p6` again."""

    def put(self, key: str, data: bytes | Path) -> None:
        super().put(key, data)
        if not self.busy:
            self.busy = True
            store(self.lake, self, {"p6": picture(1000)})

    lake: Lake
    busy = False


def test_a_fetch_meanwhile_wins(lake: Lake, objects: ObjectStore, thin: str) -> None:
    before = stored(lake, objects)
    busy = BusyStore(objects.url)
    busy.lake = lake
    done = rewrite(lake, busy, [thin], shard_images=1000, author="test", told=lambda done, total: None)
    assert done.moved == 1, "p5; p6 is another picture now"
    assert stored(lake, objects) == before | {"p6": picture(1000)}
    assert problems(lake, objects).is_empty()


def test_the_pictures_of_a_model_stay(lake: Lake, objects: ObjectStore) -> None:
    old = store(lake, objects, SEVEN)
    trained_on = lake.version()
    tables.put_rows(
        lake, "models", {"dataset": "d", "snapshot": "s"}, pl.DataFrame({"model": ["m"], "lake_version": [trained_on]}),
        author="test",
    )  # fmt: skip
    newer = store(lake, objects, {url_id: picture(50) for url_id in SEVEN})
    newest = store(lake, objects, {url_id: picture(51) for url_id in SEVEN})
    assert compact(lake, objects, NOW) == [newer]
    assert sorted(objects.list("images")) == sorted([old, newest])
    assert stored(lake, objects, version=trained_on) == SEVEN
    tables.put_rows(lake, "models", {"dataset": "d", "snapshot": "s"}, pl.DataFrame({"model": []}), author="test")
    assert compact(lake, objects, NOW) == [old]


def test_the_grace_begins_when_nothing_names_a_shard_any_more(lake: Lake, objects: ObjectStore) -> None:
    old = store(lake, objects, SEVEN)
    path = objects.path_of(old)
    assert path is not None
    os.utime(path, (0, 0))  # written long ago
    grace = timedelta(seconds=4)
    time.sleep(grace.total_seconds())
    store(lake, objects, {url_id: picture(50) for url_id in SEVEN})
    assert compact(lake, objects, grace) == []
    time.sleep(grace.total_seconds())
    assert compact(lake, objects, grace) == [old]


def test_what_was_just_written_stays(lake: Lake, objects: ObjectStore) -> None:
    store(lake, objects, SEVEN)
    objects.put(f"images/{TRANSFORM}/0123456789abcdef.tar", b"of a run whose rows are not committed yet")
    assert compact(lake, objects, timedelta(seconds=0.5)) == []


def test_an_index_without_any_picture_is_no_reason_to_delete(lake: Lake, objects: ObjectStore, tmp_path: Path) -> None:
    store(lake, objects, SEVEN)
    other = Lake(f"sqlite:{tmp_path / 'other.sqlite'}", str(tmp_path / "other"))
    tables.initialise(other)
    assert compact(other, objects, NOW) == []


def test_a_damaged_picture_is_not_moved_but_fetched_again(lake: Lake, objects: ObjectStore, thin: str) -> None:
    content = bytearray(objects.get(thin))
    offset = lake.frame("SELECT shard_offset FROM images WHERE url_id = 'p6'")["shard_offset"][0]
    content[offset + 50] ^= 255
    objects.put(thin, bytes(content))
    assert set(problems(lake, objects)["problem"]) == {"name_is_not_hash", "wrong_bytes"}
    compact(lake, objects)
    row = lake.frame("SELECT * FROM images WHERE url_id = 'p6'").row(0, named=True)
    assert (row["status"], row["reason"]) == ("failed", "damaged")
    assert sorted(stored(lake, objects)) == [f"p{number}" for number in range(6)]
    assert problems(lake, objects).is_empty()


def test_verification_marks_what_cannot_be_read(lake: Lake, objects: ObjectStore) -> None:
    torn, lost = store(lake, objects, SEVEN), store(lake, objects, {"q": picture(9)})
    store(lake, objects, {"r": picture(10)})
    objects.put(torn, objects.get(torn)[:-20_000])
    objects.delete(lost)
    told: list[tuple[int, int]] = []
    found = verify_all(lake, objects, "test", lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert set(found["problem"]) == {"name_is_not_hash", "unreadable", "wrong_bytes", "missing"}
    due = lake.frame("SELECT url_id FROM images WHERE reason = 'damaged' AND retry_at <= now() ORDER BY url_id")
    whole = stored(lake, objects)
    assert "q" in set(due["url_id"])
    assert "r" in whole
    assert set(whole) | set(due["url_id"]) == {*SEVEN, "q", "r"}
    assert whole.items() <= (SEVEN | {"r": picture(10)}).items()
    assert 4 <= len(whole) < 8, "only what is lost of a torn shard is fetched again"


def test_a_picture_taken_down_is_unreachable_at_once_and_soon_gone(lake: Lake, objects: ObjectStore) -> None:
    shard = store(lake, objects, SEVEN)
    small = store(lake, objects, {"p3": picture(3), "p4": picture(4)}, "keep_ratio-64-jpeg-92")
    tables.put_rows(
        lake, "models", {"dataset": "d", "snapshot": "s"}, pl.DataFrame({"lake_version": [lake.version()]}), author="t"
    )
    assert take_down(lake, ["http://host/p3"], "the photographer asked", "test") == 1
    assert "p3" not in stored(lake, objects)
    assert compact(lake, objects, WEEK) == []
    assert not {shard, small} & set(objects.list("images")), "whatever the grace, and though a model names them"
    assert stored(lake, objects) == {url_id: data for url_id, data in SEVEN.items() if url_id != "p3"}
    assert stored(lake, objects, "keep_ratio-64-jpeg-92") == {"p4": picture(4)}
    assert not any(picture(3) in objects.get(key) for key in objects.list())
    rows = lake.frame("SELECT DISTINCT status, reason, detail, shard, retry_at FROM images WHERE url_id = 'p3'")
    assert rows.rows() == [("refused", "taken_down", "the photographer asked", None, None)]
    assert compact(lake, objects, WEEK) == []


def test_nothing_is_taken_down_where_a_name_is_unknown(lake: Lake, objects: ObjectStore) -> None:
    store(lake, objects, SEVEN)
    with pytest.raises(PlatformError, match="no medium is known by http://host/nobody"):
        take_down(lake, ["http://host/p3", "http://host/nobody"], "a typing error", "test")
    assert stored(lake, objects) == SEVEN


def test_maintenance_merges_small_files_and_old_versions_can_still_be_read(lake: Lake, objects: ObjectStore) -> None:
    for number in range(6):
        store(lake, objects, {f"{number}-{n}": picture(n) for n in range(30)})
    old = lake.version()
    before = stored(lake, objects)
    store(lake, objects, {"0-0": picture(77)})
    merged = merge_files(lake, "test")
    assert merged["files_read"] > merged["files_written"] > 0
    assert delete_files(lake, "test") == 0, "they were replaced just now"
    assert stored(lake, objects) == before | {"0-0": picture(77)}
    assert stored(lake, objects, version=old) == before
