"""Step `downloaded_images`: fetch what the ledger lacks, and nothing else."""

import time

import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.images.grid import sample_grid
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import FetchProgress, fetch_images
from gbif_platform.images.shards import ShardProblem, read_member, verify_shard
from gbif_platform.plots import bars
from gbif_platform.settings import Settings, fingerprint
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome

NAME = "downloaded_images"
GRID = 30
VERIFIED_SHARDS = 3


class NothingArrived(PlatformError):
    """Not one of the sampled pictures could be had."""


def _reasons(refused: pl.DataFrame) -> str:
    counts = refused.group_by("reason").len().sort("len", descending=True).head(4)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.iter_rows())
    return f"none of {len(refused):,} pictures arrived: {reasons}"


def fetch_options(settings: Settings) -> FetchOptions:
    """The fetcher's options from the settings."""
    return FetchOptions(
        concurrency=settings.fetch_concurrency,
        per_host=settings.fetch_per_host,
        deadline=settings.fetch_timeout,
        retries=settings.fetch_retries,
        max_bytes=settings.fetch_max_bytes,
        max_pixels=settings.fetch_max_pixels,
        user_agent=settings.user_agent,
        allow_private=settings.allow_private_hosts,
    )


def downloaded_images(run: Run) -> Report:
    """Fetch the sampled pictures that the ledger does not hold, or whose failure is due for another try.

    A kill loses at most the shard in work; running again goes on from there.
    """
    upstream, start = run.version_of("balanced_samples"), time.monotonic()
    requested = _fetch_missing(run)
    with run.reader() as con:
        pictures = run.pictures(con)  # noqa: F841  read by name
        state = con.sql(
            "SELECT md5(string_agg(concat_ws(' ', media_id, status, sha256), '\n' ORDER BY media_id)) FROM pictures"
        ).fetchone()
        refused = con.sql(
            "SELECT media_id AS row_ref, coalesce(reason, 'not_fetched') AS reason, "
            "concat_ws(' ', url, detail) AS detail FROM pictures WHERE status IS DISTINCT FROM 'ok' ORDER BY media_id"
        ).pl()
        arrived = con.sql("SELECT * FROM pictures WHERE status = 'ok' ORDER BY media_id").pl()
    rows_in = run.count("balanced_samples")
    if rows_in and arrived.is_empty():
        raise NothingArrived(
            _reasons(refused), f"check the network, then gbif-platform run {run.dataset.name} --retry-failed"
        )
    outcome = Outcome({}, rows_in, len(arrived), refused=refused, seconds=time.monotonic() - start)
    written = run.compute(NAME, fingerprint(NAME, upstream, state), lambda con, work: outcome)
    report = run.account(NAME, rows_in)
    report.written = written or requested > 0
    report.numbers["requested_now"] = requested
    report.columns = {name: str(kind) for name, kind in arrived.schema.items()}
    _describe(run, report, arrived)
    return report


def _fetch_missing(run: Run) -> int:
    """Fetch what is missing or due; returns how many URLs were asked for."""
    due = "status = 'failed'" if run.platform.settings.retry_failed else "status <> 'ok' AND retry_at <= now()"
    with run.reader() as con:
        pictures = run.pictures(con)  # noqa: F841  read by name
        plan = con.sql(
            "SELECT url_id, max(url) AS url FROM pictures "  # of http and https twins: https
            f"WHERE status IS NULL OR ({due}) GROUP BY url_id ORDER BY url_id"
        ).pl()
    if plan.is_empty():
        return 0
    report_progress = run.progress(NAME)
    settings = run.platform.settings

    def show(progress: FetchProgress) -> None:
        lost = progress.failed + progress.refused
        note = f"{progress.images_per_second:.0f} pictures/s, {lost} refused or failed"
        report_progress(progress.done, len(plan), note)

    fetch_images(
        plan.iter_rows(),
        total=len(plan),
        objects=run.platform.objects,
        transform=run.dataset.images,
        options=fetch_options(settings),
        commit=lambda rows: tables.add_images(run.platform.lake, rows, run_id=run.run_id),
        progress=show,
        shard_images=settings.shard_images,
    )
    return len(plan)


def _describe(run: Run, report: Report, arrived: pl.DataFrame) -> None:
    """Sizes, sample grid, reasons of failure, and the checks of the stored shards."""
    stored = arrived.unique("url_id")
    report.numbers |= {
        "pictures": len(stored),
        "shards": stored["shard"].n_unique(),
        "stored_bytes": int(stored["shard_size"].sum()),
        "source_bytes": int(stored["source_bytes"].sum()),
    }
    if "quarantined" in report.tables:
        reasons = report.tables["quarantined"]
        report.pictures["refused_by_reason"] = bars(reasons["reason"].to_list(), {"media": reasons["rows"].to_list()})
    # of each label a few in turn, so that a long tail does not crowd out the rare ones
    chosen = arrived.with_columns(turn=pl.int_range(pl.len()).over("label")).sort("turn", "label").head(GRID)
    tiles = [
        (
            read_member(run.platform.objects, row["shard"], row["shard_offset"], row["shard_size"]),
            row["label"] or "no label",
        )
        for row in chosen.sort("label", "media_id").iter_rows(named=True)
    ]
    if tiles:
        report.pictures["sample_grid"] = sample_grid(tiles)
    newest = stored.group_by("shard").agg(pl.col("fetched_at").max()).sort("fetched_at")["shard"].tail(VERIFIED_SHARDS)
    problems = [problem for shard in newest for problem in _verify(run, shard)]
    says = "; ".join(f"{one.shard}: {one.problem} {one.url_id} {one.detail}" for one in problems[:3])
    agreed = f"the newest {len(newest)} shards agree with the index"
    report.checks.append(Check("shards_sound", not problems, says or agreed))
    share = len(arrived) / max(1, report.numbers["rows_in"])
    report.checks.append(
        Check("most_arrived", share >= 0.5, f"{share:.1%} of the sampled media arrived", only_warn=True)
    )


def _verify(run: Run, shard: str) -> list[ShardProblem]:
    """Problems of a shard; a member that a later fetch replaced is none."""
    rows = run.platform.lake.frame("SELECT * FROM images WHERE shard = ? AND status = 'ok'", [shard])
    problems = verify_shard(run.platform.objects, shard, rows.to_dicts())
    return [problem for problem in problems if problem.problem != "not_in_index"]
