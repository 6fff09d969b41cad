"""What tests of fetching share: short patience, and the checks that hold for every result."""

import asyncio
from collections.abc import Coroutine, Iterable
from datetime import UTC
from hashlib import sha256
from typing import TypeVar

from gbif_platform.images.fetch import FetchOptions, FetchResult, fetch
from gbif_platform.images.plan import Wanted
from gbif_platform.images.transform import Transform

T = TypeVar("T")

OPTIONS = FetchOptions(
    connect_timeout=1, stall_timeout=0.8, deadline=1.5, retries=2, backoff=0.02, max_bytes=2**20, allow_private=True
)
TRANSFORM = Transform(size=32)


def run(work: Coroutine[object, object, T]) -> T:
    """Run to the end; asserts that no hang happens and no task is left behind."""

    async def watched() -> T:
        async with asyncio.timeout(60):
            value = await work
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)  # what was cancelled may need a moment to end
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return value

    return asyncio.run(watched())


def fetch_all(
    wanted: Iterable[str | Wanted], options: FetchOptions = OPTIONS, transform: Transform = TRANSFORM
) -> dict[str, FetchResult]:
    """Fetch and check what holds for every result; the results by url_id, which is the URL where only that is given."""
    plan = (Wanted(each, each) if isinstance(each, str) else each for each in wanted)

    async def collect() -> list[FetchResult]:
        return [result async for result in fetch(plan, options, transform)]

    listed = run(collect())
    results = {result.url_id: result for result in listed}
    assert len(results) == len(listed)
    for result in results.values():
        assert result.fetched_at.tzinfo == UTC
        assert len(result.detail) <= 300
        if result.status == "unchanged":
            assert result.data is None
        elif result.status == "ok":
            assert result.reason == ""
            assert result.data is not None
            assert result.sha256 == sha256(result.data).hexdigest()
            assert result.retry_at is None
        else:
            assert result.reason
            assert result.data is None
    return results
