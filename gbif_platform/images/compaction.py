"""Shards that hold little of what the index still names are rewritten; those that nobody needs go.

Old versions of the lake name old shards. One stays until its grace is over, and for as long as the lake version that a
model was trained on names it, so that the model's pictures can be read again. Only a takedown wins over that.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from gbif_platform.images.shards import ShardProblem, ShardWriter, verify_shard
from gbif_platform.storage import tables
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.tables import TAKEN_DOWN

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
SHARDS_TOGETHER = 50
"""Rewritten in one transaction: what a kill undoes, at most."""
MEMBERS_TOGETHER = 64
LIVE = (
    f"SELECT shard, count(*) AS pictures, sum({BLOCK} + ceil(shard_size / {BLOCK}) * {BLOCK})::BIGINT AS live "
    "FROM images WHERE status = 'ok' GROUP BY shard"
)
MOVES = {
    "url_id": pl.String, "transform": pl.String, "shard": pl.String, "shard_offset": pl.Int64,
    "new_shard": pl.String, "new_offset": pl.Int64,
}  # fmt: skip

Told = Callable[[int, int], None]
"""Called as (shards done, shards in all)."""
Row = dict[str, Any]


@dataclass
class Rewritten:
    """What rewriting did: shards read and written, pictures moved, and those that turned out to be damaged."""

    read: int = 0
    written: list[str] = field(default_factory=list)
    moved: int = 0
    damaged: int = 0


def survey(lake: Lake, objects: ObjectStore) -> pl.DataFrame:
    """All shards of the store: `shard, size, modified, pictures, live` (bytes that the index names), `taken_down`."""
    stored = pl.DataFrame(
        [entry for entry in objects.entries("images") if entry.key.endswith(".tar")],
        schema={"shard": pl.String, "size": pl.Int64, "modified": pl.Datetime("us", "UTC")},
        orient="row",
    )
    condemned = lake.frame(
        "SELECT DISTINCT shard, true AS taken_down FROM images WHERE reason = ? AND shard IS NOT NULL", [TAKEN_DOWN]
    )
    return (
        stored.join(lake.frame(LIVE), on="shard", how="left")
        .join(condemned, on="shard", how="left")
        .with_columns(pl.col("pictures", "live").fill_null(0), pl.col("taken_down").fill_null(False))
        .sort("shard")
    )


def wasteful(shards: pl.DataFrame, share: float) -> list[str]:
    """Shards of which less than `share` of the bytes are live, and those that hold a picture that was taken down."""
    # The tar's end is filled up to a whole record: a shard of one small picture is not dead.
    dead = pl.col("size") - pl.col("live") - RECORD
    wanted = (dead > (1 - share) * pl.col("size")) | pl.col("taken_down")
    return shards.filter((pl.col("pictures") > 0) & wanted)["shard"].to_list()


def rewrite(
    lake: Lake, objects: ObjectStore, shards: Sequence[str], *, shard_images: int, author: str, told: Told
) -> Rewritten:
    """Copy what lives in these shards into new ones, byte for byte, and point the index there.

    A row that has changed meanwhile stays as it is. The old shards stay too: `unneeded` finds them in time.
    """
    done = Rewritten()
    for start in range(0, len(shards), SHARDS_TOGETHER):
        group = shards[start : start + SHARDS_TOGETHER]
        moves, damaged = _copy(lake, objects, group, shard_images)
        done.read += len(group)
        done.written += sorted({move["new_shard"] for move in moves})
        done.moved += _repoint(lake, moves, author)
        if damaged:
            done.damaged += tables.mark_damaged(lake, damaged, run_id=author)
        told(done.read, len(shards))
    return done


def _copy(
    lake: Lake, objects: ObjectStore, shards: Sequence[str], shard_images: int
) -> tuple[list[Row], list[tuple[str, str, str]]]:
    """New shards with what the index names of these, unseen until `_repoint`, and (shard, url_id, why) of the rest."""
    rows = lake.frame(
        "SELECT url_id, transform, shard, shard_offset, shard_size, sha256 FROM images "
        "WHERE status = 'ok' AND list_contains(?, shard) ORDER BY transform, shard, shard_offset",
        [list(shards)],
    )
    moves: list[Row] = []
    damaged: list[tuple[str, str, str]] = []
    with ExitStack() as stack:
        for _, of_transform in rows.group_by("transform", maintain_order=True):
            writer: ShardWriter | None = None
            waiting: list[Row] = []
            for row, name, data in _members(objects, of_transform):
                if sha256(data).hexdigest() != row["sha256"] or not name.startswith(f"{row['url_id']}."):
                    damaged.append((row["shard"], row["url_id"], "wrong_bytes"))
                    continue
                writer = writer or stack.enter_context(ShardWriter(objects, Path(row["shard"]).parent.name))
                offset, _ = writer.add(row["url_id"], data, name.removeprefix(row["url_id"]))
                waiting.append(row | {"new_offset": offset})
                if writer.full or len(writer) >= shard_images:
                    moves += _closed(writer, waiting)
                    writer, waiting = None, []
            if writer:
                moves += _closed(writer, waiting)
    return moves, damaged


def _closed(writer: ShardWriter, rows: list[Row]) -> list[Row]:
    shard = writer.close()
    return [row | {"new_shard": shard} for row in rows]


def _members(objects: ObjectStore, rows: pl.DataFrame) -> Iterator[tuple[Row, str, bytes]]:
    """Each row with its member's name and bytes."""
    for (shard,), of_shard in rows.group_by("shard", maintain_order=True):
        todo = of_shard.iter_rows(named=True)
        while some := list(islice(todo, MEMBERS_TOGETHER)):
            places = [(row["shard_offset"] - BLOCK, row["shard_size"] + BLOCK) for row in some]
            for row, member in zip(some, objects.get_ranges(str(shard), places), strict=True):
                yield row, _member_name(member[:BLOCK]), member[BLOCK:]


def _member_name(header: bytes) -> str:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
    except tarfile.TarError:
        return ""


def _repoint(lake: Lake, moves: list[Row], author: str) -> int:
    """Point the index to the new places of pictures that are still where they were read; returns how many are."""
    if not moves:
        return 0
    with lake.transaction(author, f"images: {len(moves)} moved to other shards") as con:
        con.register("moves", pl.DataFrame(moves, schema_overrides=MOVES).select(*MOVES).to_arrow())
        row = con.execute(
            "UPDATE lake.images SET shard = new_shard, shard_offset = new_offset FROM moves "
            "WHERE images.url_id = moves.url_id AND images.transform = moves.transform AND status = 'ok' "
            "AND images.shard = moves.shard AND images.shard_offset = moves.shard_offset"
        ).fetchone()
    return int(row[0]) if row else 0


def unneeded(lake: Lake, shards: pl.DataFrame, grace: timedelta) -> list[str]:
    """Shards of a `survey` that no row names: not now, not since `grace` ago, not in the lake version of a model.

    None is where the index names no shard at all, for it is not this store's then, or is younger than the grace.
    """
    since = datetime.now(UTC) - grace
    then = lake.frame("SELECT max(snapshot_id) FROM lake.snapshots() WHERE snapshot_time <= ?", [since]).item()
    if then is None or not shards["pictures"].sum():
        return []
    models = lake.frame("SELECT DISTINCT lake_version FROM models WHERE lake_version IS NOT NULL")["lake_version"]
    # What was named later than `then` and is no longer was also written later.
    named = set().union(*(_named(lake, version) for version in {then, *models}))
    old = (pl.col("modified") < since) & (pl.col("pictures") == 0)
    return [shard for shard in shards.filter(old & ~pl.col("taken_down"))["shard"] if shard not in named]


def _named(lake: Lake, version: int) -> set[str]:
    """Shards that the index named in a version of the lake; none in one that was before the table, or is no more."""
    try:
        rows = lake.frame(f"SELECT DISTINCT shard FROM images AT (VERSION => {version}) WHERE shard IS NOT NULL")
    except (duckdb.CatalogException, duckdb.InvalidInputException, duckdb.BinderException):
        return set()
    return set(rows["shard"])


def remove_taken_down(lake: Lake, objects: ObjectStore, author: str) -> list[str]:
    """Delete the shards that hold pictures that were taken down, once no other picture is read from them."""
    shards = survey(lake, objects).filter(pl.col("taken_down") & (pl.col("pictures") == 0))["shard"].to_list()
    for shard in shards:
        objects.delete(shard)
    if shards:
        with lake.transaction(author, f"images: {len(shards)} shards with pictures taken down are gone") as con:
            con.execute(
                "UPDATE lake.images SET shard = NULL WHERE reason = ? AND list_contains(?, shard)", [TAKEN_DOWN, shards]
            )
    return shards


def problems_of(lake: Lake, objects: ObjectStore, shard: str) -> list[ShardProblem]:
    """What is wrong with a shard that the index names; members that it does not know are no problem."""
    rows = lake.frame(
        "SELECT url_id, shard_offset, shard_size, sha256 FROM images WHERE shard = ? AND status = 'ok'", [shard]
    ).to_dicts()
    return [one for one in verify_shard(objects, shard, rows) if one.problem != "not_in_index"] if rows else []


def verify_all(lake: Lake, objects: ObjectStore, author: str, told: Told, *, dry_run: bool = False) -> pl.DataFrame:
    """Verify every shard that the index names; pictures that cannot be read are fetched again by the next run.

    Returns:
        The problems: `shard, url_id, problem, detail`.
    """
    shards = lake.frame("SELECT DISTINCT shard FROM images WHERE status = 'ok' ORDER BY shard")["shard"].to_list()
    found: list[tuple[str, str, str, str]] = []
    for number, shard in enumerate(shards, 1):
        problems = problems_of(lake, objects, shard)
        lost = [one.place for one in problems if one.loses_picture]
        if lost and not dry_run:
            tables.mark_damaged(lake, lost, run_id=author)
        found += [(one.shard, one.url_id, one.problem, one.detail) for one in problems]
        told(number, len(shards))
    columns = ("shard", "url_id", "problem", "detail")
    return pl.DataFrame(found, schema=dict.fromkeys(columns, pl.String), orient="row")
