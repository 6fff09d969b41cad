"""What a snapshot still wants from the web, and the fetching of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from gbif_platform.cpus import cpus
from gbif_platform.images.candidates import GBIF_CACHE as CACHED
from gbif_platform.images.plan import Wanted
from gbif_platform.images.progress import FetchProgress, FetchSummary
from gbif_platform.images.reasons import NEVER, RULES
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import ORIGINAL, Row, fetch_images
from gbif_platform.sources.gbif_source import endpoint
from gbif_platform.steps.run import Run
from gbif_platform.storage import tables
from gbif_platform.storage.tables import TAKEN_DOWN

SMALL_PLAN = 200
"""Pictures that one process fetches sooner than several have started."""
GBIF_CACHE = "/v1/image/cache"
HOPELESS = tuple(reason for reason, rule in RULES.items() if rule == NEVER)
"""Reasons that no setting and no host can change: the address itself is none."""


def wanted(run: Run, *, retry_failed: bool = False) -> pl.DataFrame:
    """The pictures to ask for, one row a URL, with the columns of `Wanted`.

    These are the sampled ones that the ledger lacks or whose failure is due for another try, those whose original is to
    be kept and is not, and, past `refresh_days`, those to ask whether they have changed: only these have values
    in `etag`, `last_modified` and, where a rendition is stored, `rendition` and `rendition_url`.

    Args:
        retry_failed: everything that is not stored is due, but for what is HOPELESS.
    """
    keep = run.dataset.images.keep_original
    missing = _missing("stored", retry_failed) + (f" OR {_missing('originals', retry_failed)}" if keep else "")
    days = run.platform.settings.refresh_days
    old = f"coalesce(stored.checked_at, stored.fetched_at) < now() - INTERVAL {days} DAY" if days else "false"
    gbif_id = "min(gbif_id)" if run.dataset.source.gbif else "NULL::VARCHAR"
    with run.reader() as con:
        samples = run.rows(con, "balanced_samples", "DISTINCT url_id")  # noqa: F841  read by name
        media = run.rows(con, "media_urls", "url_id, url, gbif_id")  # noqa: F841
        stored = con.sql(f"FROM lake.images WHERE transform = '{run.dataset.images.key}'")  # noqa: F841
        originals = con.sql(f"FROM lake.images WHERE transform = '{ORIGINAL}'")  # noqa: F841
        return con.sql(
            # narrow columns first: of a million pictures, few are wanted most of the time
            f"WITH chosen AS (SELECT url_id, {', '.join(_of_stored(missing))} "
            f"FROM samples LEFT JOIN stored USING (url_id) {'LEFT JOIN originals USING (url_id)' if keep else ''} "
            f"WHERE ({missing} OR {old}) AND url_id NOT IN "
            f"(SELECT url_id FROM lake.images WHERE reason = '{TAKEN_DOWN}')) "
            "SELECT url_id, max(url) AS url, "  # of http and https twins: https
            f"any_value(etag) AS etag, any_value(last_modified) AS last_modified, {gbif_id} AS gbif_id, "
            "any_value(rendition) AS rendition, any_value(rendition_url) AS rendition_url "
            "FROM chosen JOIN media USING (url_id) GROUP BY url_id ORDER BY url_id"
        ).pl()


def _of_stored(missing: str) -> list[str]:
    """SQL: what is known of a stored picture that is only asked for changes; null for one that is missing."""
    offered = f"NOT ({missing}) AND stored.rendition <> '{CACHED}'"
    return [
        *(f"CASE WHEN NOT ({missing}) THEN stored.{name} END AS {name}" for name in ("etag", "last_modified")),
        f"CASE WHEN {offered} THEN stored.rendition END AS rendition",
        f"CASE WHEN {offered} THEN stored.fetched_url END AS rendition_url",
    ]


def _missing(rows: str, retry_failed: bool) -> str:
    """SQL: there is no row of a URL, or one of a failure that is due."""
    due = f"{rows}.reason NOT IN {HOPELESS}" if retry_failed else f"{rows}.retry_at <= now()"
    return f"({rows}.status IS NULL OR ({rows}.status <> 'ok' AND {due}))"


def fetch_options(run: Run, total: int) -> FetchOptions:
    """The fetcher's options for so many pictures, from the settings."""
    settings = run.platform.settings
    processes = settings.fetch_processes or cpus()
    cached = settings.fetch_gbif_cache and run.dataset.source.gbif
    return FetchOptions(
        processes=processes if total >= SMALL_PLAN else 1,
        concurrency=settings.fetch_concurrency,
        per_host=settings.fetch_per_host,
        deadline=settings.fetch_timeout,
        retries=settings.fetch_retries,
        max_bytes=settings.fetch_max_bytes,
        max_pixels=settings.fetch_max_pixels,
        robots=frozenset(word.strip().lower() for word in settings.fetch_robots.split(",") if word.strip()),
        gbif_cache=endpoint(run.platform, run.dataset).rstrip("/") + GBIF_CACHE if cached else None,
        user_agent=settings.user_agent,
        allow_private=settings.allow_private_hosts,
    )


def fetch_wanted(run: Run, stage: str, *, retry_failed: bool = False) -> FetchSummary:
    """Fetch what is `wanted` into shards and the ledger; a kill loses at most what was not yet committed."""
    plan = wanted(run, retry_failed=retry_failed)
    if plan.is_empty():
        return FetchSummary(0)
    tell = run.progress(stage)

    def show(progress: FetchProgress) -> None:
        tell(progress.done, progress.total, progress.note)
        run.observe(progress.numbers)

    def commit(rows: list[Row]) -> None:
        tables.add_images(run.platform.lake, rows, run_id=run.run_id)

    return _fetcher(run)(
        (Wanted(*row) for row in plan.select(Wanted._fields).iter_rows()),
        total=len(plan),
        objects=run.platform.objects,
        transform=run.dataset.images,
        options=fetch_options(run, len(plan)),
        commit=commit,
        progress=show,
        shard_images=run.platform.settings.shard_images,
    )


def _fetcher(run: Run) -> Callable[..., FetchSummary]:
    """`fetch_images`: from a folder of this machine, else from the web, here or on a cluster."""
    settings, local = run.platform.settings, run.dataset.source.image_folder
    if local:
        return partial(fetch_images, folder=Path(local.path))
    if settings.fetch_on == "machine":
        return fetch_images
    from gbif_platform.images.cluster import fetch_images_on_ray

    return partial(fetch_images_on_ray, address=settings.ray_address)
