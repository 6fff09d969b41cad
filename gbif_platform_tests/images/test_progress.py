"""What a person reads of a run: pace, losses and the time left."""

from datetime import UTC, datetime
from typing import Literal

from gbif_platform.images.fetch import FetchResult
from gbif_platform.images.progress import FetchProgress

NOW = datetime.now(UTC)


def count(
    progress: FetchProgress,
    times: int,
    status: Literal["ok", "failed", "refused", "unchanged"] = "ok",
    reason: str = "",
    received: int = 0,
) -> None:
    for _ in range(times):
        progress.count(FetchResult("u", "http://host", status, NOW, reason=reason, source_bytes=received))


def test_one_line_says_it_all() -> None:
    progress = FetchProgress(50_000)
    progress.at(0.0)
    count(progress, 3810, received=315_000)
    count(progress, 96, "failed", "http_404")
    count(progress, 12, "failed", "timeout")
    count(progress, 5, "refused", "html_page")
    count(progress, 1, "failed", "tls_error")
    progress.at(10.0)
    assert str(progress) == (
        "3,924 of 50,000 · 381 pictures/s · 120 MB/s · 1:57 left · 96 http_404, 12 timeout, 5 html_page"
    )


def test_the_pace_is_that_of_late() -> None:
    progress = FetchProgress(10_000)
    for second in range(1, 31):
        count(progress, 10 if second <= 15 else 100)
        progress.at(float(second))
    assert progress.recent_images_per_second == 100
    assert progress.images_per_second == 1650 / 30
    assert progress.seconds_left == (10_000 - 1650) / 100


def test_nothing_yet_promises_nothing() -> None:
    progress = FetchProgress(10)
    progress.at(5.0)
    assert progress.seconds_left is None
    assert "left" not in str(progress)
    assert "seconds_left" not in progress.numbers


def test_unchanged_pictures_are_done_and_no_trouble() -> None:
    progress = FetchProgress(3)
    count(progress, 3, "unchanged")
    progress.at(1.0)
    assert (progress.done, progress.reasons.total()) == (3, 0)
    assert "3 unchanged" in progress.note


def test_why_a_run_waits_comes_first() -> None:
    progress = FetchProgress(3, trouble="waiting for the object store: cannot write it")
    assert progress.note.startswith("waiting for the object store")
