"""Step `downloaded_images`: fetch what the ledger lacks and nothing else, and mend what was damaged since."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.images.compaction import problems_of
from gbif_platform.images.grid import sample_grid
from gbif_platform.images.progress import FetchSummary
from gbif_platform.images.run import ORIGINAL
from gbif_platform.images.shards import ShardProblem, read_member
from gbif_platform.plots import bars
from gbif_platform.settings import fingerprint
from gbif_platform.steps.fetch_plan import HOPELESS, fetch_wanted
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage import tables
from gbif_platform.storage.lake import quoted
from gbif_platform.storage.tables import TAKEN_DOWN, Outcome

NAME = "downloaded_images"
GRID = 30
VERIFIED_SHARDS = 3
ROWS_TOLD = 50

SEEN = (
    "SELECT media_id, url_id, gbif_id, lower(split_part(url, '/', 3)) AS host, label, status, reason, sha256, "
    "CASE WHEN status IS DISTINCT FROM 'ok' THEN concat_ws(' ', url, detail) END AS told, source_bytes, "
    "shard, shard_offset, shard_size, fetched_at FROM pictures"
)
OUTCOMES = (
    "count(*) AS media, count(*) FILTER (WHERE status = 'ok') AS ok, count(*) FILTER (WHERE status = 'failed') AS "
    "failed, count(*) FILTER (WHERE status = 'refused') AS refused, mode(reason) FILTER (WHERE status <> 'ok') AS "
    "main_reason, coalesce(sum(source_bytes), 0)::BIGINT AS bytes_received"
)
CURES = {
    "forbidden_address": "set GBIF_PLATFORM_ALLOW_PRIVATE_HOSTS=1 if hosts inside your own network may be asked",
    "robots": "take from GBIF_PLATFORM_FETCH_ROBOTS what need not be heeded",
    "too_many_bytes": "raise GBIF_PLATFORM_FETCH_MAX_BYTES",
    "too_many_pixels": "raise GBIF_PLATFORM_FETCH_MAX_PIXELS",
}
"""What lets pictures come that were refused for a reason."""


class NothingArrived(PlatformError):
    """Not one of the sampled pictures could be had."""


def downloaded_images(run: Run) -> Report:
    """Fetch the sampled pictures that the ledger does not hold, or whose failure is due for another try.

    A kill loses at most what was not yet committed; running again goes on from there.
    """
    upstream, start = run.version_of("balanced_samples"), time.monotonic()
    rounds = [fetch_wanted(run, NAME, retry_failed=run.platform.settings.retry_failed)]
    with run.reader() as con:
        columns = _look(run, con)
        sound, damaged = _verified(run, con, rounds)
        rows_in = run.count("balanced_samples")
        arrived = _count(con, "SELECT count(*) FROM seen WHERE status = 'ok'")
        if rows_in and not arrived:
            raise _nothing_arrived(con, run.dataset.name)
        seconds = time.monotonic() - start
        written = run.compute(
            NAME, fingerprint(NAME, upstream, _state(con)), lambda _, work: _outcome(con, work, rows_in, seconds)
        )
        report = run.account(NAME, rows_in)
        report.columns = columns
        report.numbers |= _numbers(rounds) | {"damaged": damaged}
        report.written = written or report.numbers["requested_now"] > 0
        report.checks.append(sound)
        _describe(run, con, report)
    return report


def _look(run: Run, con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Read what the ledger knows of the sampled media into the table `seen`; returns the columns that there are."""
    pictures = run.pictures(con)
    con.execute(f"CREATE OR REPLACE TEMP TABLE seen AS {SEEN}")
    return dict(zip(pictures.columns, map(str, pictures.types), strict=True))


def _state(con: duckdb.DuckDBPyConnection) -> object:
    """What the rows depend on, whatever their order."""
    return con.execute(
        "SELECT count(*), sum(md5_number_lower(told)), sum(md5_number_upper(told)) "
        "FROM (SELECT concat_ws(' ', media_id, status, sha256) AS told FROM seen)"
    ).fetchone()


def _outcome(con: duckdb.DuckDBPyConnection, work: Path, rows_in: int, seconds: float) -> Outcome:
    """The account; pictures that did not arrive are its refused rows."""
    refused = work / "refused.parquet"
    con.execute(
        "COPY (SELECT media_id AS row_ref, coalesce(reason, 'not_fetched') AS reason, told AS detail "
        f"FROM seen WHERE status IS DISTINCT FROM 'ok' ORDER BY media_id) TO {quoted(str(refused))}"
    )
    return Outcome({}, rows_in, rows_in - tables.row_count(refused), refused=refused, seconds=seconds)


def _nothing_arrived(con: duckdb.DuckDBPyConnection, dataset: str) -> NothingArrived:
    total = _count(con, "SELECT count(*) FROM seen")
    counts = con.execute(
        "SELECT coalesce(reason, 'not_fetched'), count(*) AS n FROM seen GROUP BY 1 ORDER BY n DESC, 1 LIMIT 4"
    ).fetchall()
    cause = f"none of {total:,} pictures arrived: " + ", ".join(f"{count:,} {reason}" for reason, count in counts)
    main = counts[0][0]
    if main in (*HOPELESS, TAKEN_DOWN):
        return NothingArrived(cause, f"choose other pictures for {dataset}: these are never asked for again")
    cure = CURES.get(main, "check the network, and some of the addresses")
    return NothingArrived(cause, f"{cure}, then gbif-platform run {dataset} --retry-failed")


def _numbers(rounds: list[FetchSummary]) -> dict[str, int | float]:
    """What was asked of the web now."""
    seconds = sum(one.seconds for one in rounds)
    numbers: dict[str, int | float] = {
        "requested_now": sum(one.total for one in rounds),
        "unchanged": sum(one.unchanged for one in rounds),
        "bytes_received_now": sum(one.bytes_received for one in rounds),
    }
    if seconds:
        numbers["images_per_second"] = sum(one.ok for one in rounds) / seconds
    return numbers


def _describe(run: Run, con: duckdb.DuckDBPyConnection, report: Report) -> None:
    """Sizes, who served what, reasons of failure, a sample grid."""
    totals = con.execute(
        "SELECT count(*) AS pictures, count(DISTINCT shard) AS shards, coalesce(sum(shard_size), 0)::BIGINT AS "
        "stored_bytes, coalesce(sum(source_bytes), 0)::BIGINT AS source_bytes "
        "FROM (SELECT DISTINCT url_id, shard, shard_size, source_bytes FROM seen WHERE status = 'ok')"
    ).pl()
    report.numbers |= totals.row(0, named=True)
    report.tables |= _served(run, con)
    if "quarantined" in report.tables:
        reasons = report.tables["quarantined"]
        report.pictures["refused_by_reason"] = bars(reasons["reason"].to_list(), {"media": reasons["rows"].to_list()})
    # of each label a few in turn, so that a long tail does not crowd out the rare ones
    chosen = con.execute(
        "WITH few AS (SELECT label, min(media_id, $1) AS ids FROM seen WHERE status = 'ok' GROUP BY label), "
        "turns AS (SELECT label, unnest(ids) AS media_id, generate_subscripts(ids, 1) AS turn FROM few "
        "ORDER BY turn, label LIMIT $1) "
        "SELECT seen.label, shard, shard_offset, shard_size FROM seen JOIN turns USING (media_id) "
        "ORDER BY seen.label, media_id",
        [GRID],
    ).fetchall()
    tiles = [
        (read_member(run.platform.objects, shard, offset, size), label or "no label")
        for label, shard, offset, size in chosen
    ]
    if tiles:
        report.pictures["sample_grid"] = sample_grid(tiles)
    share = report.numbers["rows"] / max(1, report.numbers["rows_in"])
    report.checks.append(
        Check("most_arrived", share >= 0.5, f"{share:.1%} of the sampled media arrived", only_warn=True)
    )


def _served(run: Run, con: duckdb.DuckDBPyConnection) -> dict[str, pl.DataFrame]:
    """What came of the media, by host and by the GBIF dataset that publishes them; the largest ones."""
    publishers = run.rows(con, "occurrences", "gbif_id, dataset_key")  # noqa: F841  read by name
    select = f"SELECT {{}}, {OUTCOMES} FROM {{}} GROUP BY 1 ORDER BY media DESC, 1 LIMIT {ROWS_TOLD}"
    hosts = con.sql(select.format("host", "seen")).pl()
    published = "seen JOIN publishers USING (gbif_id) WHERE dataset_key <> ''"
    datasets = con.sql(select.format("dataset_key", published)).pl()
    return {name: frame for name, frame in (("hosts", hosts), ("datasets", datasets)) if len(frame)}


def _newest_shards(run: Run, con: duckdb.DuckDBPyConnection) -> list[str]:
    """The last few shards that hold sampled pictures, and the last few of their originals."""
    newest = f"GROUP BY shard ORDER BY max(fetched_at) DESC, shard LIMIT {VERIFIED_SHARDS}"
    rows = con.execute(f"SELECT shard FROM seen WHERE status = 'ok' {newest}").fetchall()
    if run.dataset.images.keep_original:
        rows += con.execute(
            "SELECT shard FROM lake.images SEMI JOIN seen USING (url_id) "
            f"WHERE transform = '{ORIGINAL}' AND status = 'ok' {newest}"
        ).fetchall()
    return [shard for (shard,) in rows]


def _verified(run: Run, con: duckdb.DuckDBPyConnection, rounds: list[FetchSummary]) -> tuple[Check, int]:
    """Whether the newest shards agree with the ledger, and how many damaged pictures were fetched again for that."""
    shards = _newest_shards(run, con)
    problems, damaged = _problems(run, shards), 0
    if problems:
        damaged = tables.mark_damaged(run.platform.lake, [one.place for one in problems], run_id=run.run_id)
        rounds.append(fetch_wanted(run, NAME))
        _look(run, con)
        shards = sorted({*shards, *_newest_shards(run, con)})
        problems = _problems(run, shards)
    says = "; ".join(f"{one.shard}: {one.problem} {one.url_id} {one.detail}" for one in problems[:3])
    agreed = f"the newest {len(shards)} shards agree with the index"
    agreed += f"; {damaged:,} damaged pictures were asked for again" if damaged else ""
    return Check("shards_sound", not problems, says or agreed), damaged


def _problems(run: Run, shards: list[str]) -> list[ShardProblem]:
    """Pictures that the ledger says are stored, and that cannot be had from these shards."""

    def problems(shard: str) -> list[ShardProblem]:
        return problems_of(run.platform.lake, run.platform.objects, shard)

    with ThreadPoolExecutor(max(1, len(shards)), thread_name_prefix="verify") as threads:
        return [one for found in threads.map(problems, shards) for one in found if one.loses_picture]


def _count(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int((con.execute(sql).fetchone() or (0,))[0])
