"""Step `duplicate_images`: which pictures that arrived are the same, or nearly so, and which of their media stay.

What is left out here is refused by `splits`.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from gbif_platform.curation.near_duplicates import duplicate_media, duplicate_pairs
from gbif_platform.errors import PlatformError
from gbif_platform.images import perceptual
from gbif_platform.images.grid import sample_grid
from gbif_platform.images.shards import read_member
from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome, add_hashes

NAME = "duplicate_images"
VERSION = 1
# Hashed and committed at a time: a kill loses a few seconds of work.
CHUNK = 4000
# More than cores, as reading from an object store waits.
THREADS = 8
SHOWN_PAIRS, SHOWN_ROWS = 15, 100


class PictureMissing(PlatformError):
    """A picture that the index names cannot be read."""


def duplicate_images(run: Run) -> Report:
    """Hash the stored pictures that have no hash yet, pair those that look alike, and apply the policy.

    A kill loses at most the hashes of a chunk; running again goes on from there.
    """
    filters = run.dataset.filters
    version = fingerprint(
        NAME,
        VERSION,
        perceptual.VERSION,
        run.version_of("downloaded_images"),
        filters.near_duplicate_bits,
        filters.duplicate_images,
    )
    hashed = 0 if run.is_current(NAME, version) else _hash_missing(run)

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        media = _arrived(run, con)
        order = [pl.col("label").is_null(), "sample_key", "media_id"]
        pictures = media.sort(order).unique("url_id", keep="first", maintain_order=True)
        pairs = duplicate_pairs(pictures, filters.near_duplicate_bits)
        rows = duplicate_media(media, pairs, filters.duplicate_images)
        labels = pictures.select("url_id", "label")
        labelled = pairs.join(labels, on="url_id", maintain_order="left").join(
            labels.rename({"url_id": "other_url_id", "label": "other_label"}), on="other_url_id", maintain_order="left"
        )
        tables = {"duplicate_images": rows, "duplicate_pairs": labelled.cast({"kind": pl.String})}
        return Outcome(tables, len(media), len(media))

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.numbers["pictures_hashed_now"] = hashed
    report.columns = run.columns(NAME)
    _describe(run, report)
    return report


def _arrived(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """The media whose picture arrived, with label, order and all that tells pictures apart."""
    pictures = run.pictures(con)  # noqa: F841  read by name
    keys = run.rows(con, "media_urls", "media_id, sample_key")  # noqa: F841
    return con.execute(
        """
        WITH hashes AS (
            SELECT sha256, any_value(phash) AS phash, any_value(reason) AS not_hashed
            FROM lake.image_hashes WHERE version = ? GROUP BY sha256)
        SELECT media_id, url_id, url, label, sample_key, source_sha256, sha256, phash, not_hashed,
               shard, shard_offset, shard_size
        FROM pictures JOIN keys USING (media_id) LEFT JOIN hashes USING (sha256)
        WHERE status = 'ok' ORDER BY media_id""",
        [perceptual.VERSION],
    ).pl()


def _hash_missing(run: Run) -> int:
    """Hash what has no hash of this version, in the order in which it lies in the shards; returns how many."""
    with run.reader() as con:
        pictures = run.pictures(con)  # noqa: F841  read by name
        plan = con.execute(
            """
            SELECT DISTINCT ON (sha256) sha256, shard, shard_offset, shard_size FROM pictures
            WHERE status = 'ok' AND sha256 NOT IN (SELECT sha256 FROM lake.image_hashes WHERE version = ?)
            ORDER BY shard, shard_offset""",
            [perceptual.VERSION],
        ).pl()
    report_progress, start = run.progress(NAME), time.monotonic()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hash") as pool:
        for done in range(0, len(plan), CHUNK):
            chunk = plan.slice(done, CHUNK)
            squares = list(pool.map(lambda row: perceptual.grey_square(_read(run, row)), chunk.to_dicts()))
            hashes = perceptual.perceptual_hashes(squares)
            reason = pl.Series(hashes.reason, dtype=pl.String)
            rows = chunk.select(
                "sha256",
                version=pl.lit(perceptual.VERSION),
                phash=pl.when(reason.is_null()).then(pl.Series(hashes.phash, dtype=pl.UInt64)),
                reason=reason,
            )
            add_hashes(run.platform.lake, rows, run_id=run.run_id)
            now = done + len(chunk)
            report_progress(now, len(plan), f"{now / (time.monotonic() - start):.0f} pictures/s")
    return len(plan)


def _read(run: Run, row: dict[str, Any]) -> bytes:
    """The stored bytes of a picture."""
    try:
        return read_member(run.platform.objects, row["shard"], row["shard_offset"], row["shard_size"])
    except FileNotFoundError as error:
        raise PictureMissing(
            f"shard {row['shard']} is not in {run.platform.objects.url}",
            "restore it; downloaded_images verifies shards",
        ) from error


def _describe(run: Run, report: Report) -> None:
    """Groups, pairs and conflicts, and the pairs to look at."""
    with run.reader() as con:
        media = _arrived(run, con)
        rows = run.rows(con, NAME).pl()
        pairs = run.rows(con, "duplicate_pairs", "url_id, other_url_id, kind, distance, label, other_label").pl()
    groups = rows.group_by("group_id").agg(media=pl.len(), labels_agree=pl.col("labels_agree").first())
    conflicting = groups.filter(~pl.col("labels_agree"))
    pictures = media.unique("url_id", keep="first", maintain_order=True)
    not_hashed = pictures.filter(pl.col("not_hashed").is_not_null())
    report.numbers |= {
        "duplicate_groups": len(groups),
        "duplicate_media": len(rows),
        "largest_group": groups["media"].max() or 0,  # type: ignore[dict-item]  # a column of integers
        "conflicting_groups": len(conflicting),
        "exact_pairs": len(pairs.filter(pl.col("kind") != "near")),
        "near_pairs": len(pairs.filter(pl.col("kind") == "near")),
        "media_left_out": len(rows.filter(pl.col("decision") == "left out")),
        "pictures_without_hash": len(not_hashed),
    }
    if len(pairs):
        report.tables["duplicate_pairs"] = _with_urls(pairs, pictures)
        report.pictures["duplicate_pairs"] = _sheet(run, pairs, pictures)
    if len(conflicting):
        listed = rows.filter(~pl.col("labels_agree")).join(media.select("media_id", "url"), on="media_id")
        columns = ("group_id", "label", "kind", "distance", "decision", "media_id", "url")
        report.tables["conflicting_duplicates"] = listed.sort("group_id", "media_id").select(columns).head(SHOWN_ROWS)
    if len(not_hashed):
        reasons = not_hashed.group_by(reason="not_hashed").agg(pictures=pl.len(), example=pl.col("url").first())
        report.tables["pictures_without_hash"] = reasons.sort("reason")
    differ = f"{len(conflicting):,} groups of the same picture have different labels"
    says = differ if len(conflicting) else f"labels agree within all {len(groups):,} groups of the same picture"
    report.checks.append(Check("labels_agree", conflicting.is_empty(), says, only_warn=True))


def _with_urls(pairs: pl.DataFrame, pictures: pl.DataFrame) -> pl.DataFrame:
    """The closest pairs with their URLs; at equal distance near ones come first, as exact ones surprise nobody."""
    urls = pictures.select("url_id", "url")
    others = urls.rename({"url_id": "other_url_id", "url": "other_url"})
    closest = pairs.sort(pl.col("distance"), pl.col("kind") != "near", "url_id", "other_url_id").head(SHOWN_ROWS)
    joined = closest.join(urls, on="url_id", maintain_order="left")
    return joined.join(others, on="other_url_id", maintain_order="left").drop("url_id", "other_url_id")


def _sheet(run: Run, pairs: pl.DataFrame, pictures: pl.DataFrame) -> bytes:
    """Pairs side by side: first those whose labels differ, then near ones, the farthest first, then exact ones."""
    agree = (pl.col("label") == pl.col("other_label")).fill_null(value=True)
    worst = pairs.sort(
        agree,
        pl.col("kind") != "near",
        pl.col("distance"),
        "url_id",
        "other_url_id",
        descending=[False, False, True, False, False],
    ).head(SHOWN_PAIRS)
    members = {row["url_id"]: row for row in pictures.join(_ends(worst), on="url_id", how="semi").iter_rows(named=True)}
    tiles = []
    for pair in worst.iter_rows(named=True):
        apart = f"{pair['distance']} bits" if pair["kind"] == "near" else f"same {pair['kind']}"
        for url_id, label in ((pair["url_id"], pair["label"]), (pair["other_url_id"], pair["other_label"])):
            tiles.append((_read(run, members[url_id]), f"{apart} · {label or 'no label'}"))
    return sample_grid(tiles, columns=min(6, len(tiles)))


def _ends(pairs: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"url_id": pl.concat([pairs["url_id"], pairs["other_url_id"]]).unique()})
