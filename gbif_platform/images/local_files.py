"""Pictures of an image folder, read from the disk as `fetch` would get them from the web."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from gbif_platform.cpus import cpus
from gbif_platform.images.fetch import FetchResult
from gbif_platform.images.local_urls import place_of
from gbif_platform.images.plan import Wanted
from gbif_platform.images.reasons import rule_of
from gbif_platform.images.transform import ImageRefused, Transform, transform_image


def read_pictures(
    plan: Iterable[Wanted], folder: Path, transform: Transform, *, max_bytes: int, max_pixels: int
) -> Iterator[FetchResult]:
    """The pictures of the plan, in its order; decoded by one thread for each CPU.

    Args:
        plan: URLs of `local_urls`; read lazily.
        folder: that the places in the URLs are below.
        max_bytes, max_pixels: of a file; larger ones are refused.
    """

    def read(wanted: Wanted) -> FetchResult:
        try:
            return _read(wanted, folder, transform, max_bytes, max_pixels)
        except ImageRefused as refusal:
            rule = rule_of(refusal.reason)
            now = datetime.now(UTC)
            later = now + rule.later if rule.later else None
            return FetchResult(
                wanted.url_id, wanted.url, rule.status, now, refusal.reason, refusal.detail, attempts=1, retry_at=later
            )

    threads = cpus()
    ahead: deque[Future[FetchResult]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for wanted in plan:
                ahead.append(pool.submit(read, wanted))
                if len(ahead) > 4 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


def _read(wanted: Wanted, folder: Path, transform: Transform, max_bytes: int, max_pixels: int) -> FetchResult:
    place, expected = place_of(wanted.url)
    path = folder / place
    try:
        if path.stat().st_size > max_bytes:
            raise ImageRefused("too_many_bytes", f"{path.stat().st_size} bytes")
        body = path.read_bytes()
    except OSError as error:
        raise ImageRefused("file_unreadable", f"{path}: {error.strerror}") from error
    found = sha256(body).hexdigest()
    if found != expected:
        raise ImageRefused("file_changed", f"{path} has other bytes than when its snapshot was added")
    picture = transform_image(body, transform, max_pixels=max_pixels)
    return FetchResult(
        wanted.url_id,
        wanted.url,
        "ok",
        datetime.now(UTC),
        source_sha256=found,
        source_bytes=len(body),
        data=picture.data,
        sha256=sha256(picture.data).hexdigest(),
        width=picture.width,
        height=picture.height,
        source_width=picture.source_width,
        source_height=picture.source_height,
        source_format=picture.source_format,
        frames=picture.frames,
        attempts=1,
        fetched_url=str(path),
        original=body if transform.keep_original else None,
    )
