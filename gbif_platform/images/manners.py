"""What the end of a request says about its host."""

from datetime import UTC, datetime, timedelta

from gbif_platform.images.hosts import Host
from gbif_platform.images.reasons import HOUR

# Refused so often with nothing let through: the host does not want us now.
REFUSALS_IN_A_ROW = 8
# No answer came from the host, or none of its making.
UNREACHABLE = {"host_not_found", "connection_refused", "connection_reset", "network_error"}
# These say nothing about the host: it was not asked, or the fault is ours.
SILENT = {"worker_lost", "internal_error", "forbidden_address", "host_down", "host_busy"}


def learn(
    host: Host,
    reason: str,
    detail: str,
    *,
    url_id: str,
    pause: float | None,
    sent_at: float,
    now: float,
    backoff: float,
    max_pause: float,
) -> None:
    """Tell a host what came of a request that left at `sent_at`; see `hosts`.

    Args:
        reason: empty or one of `images.reasons`.
        pause: what it asked for (Retry-After), in seconds; longer than `max_pause` = it is left alone.
        backoff: the pause after a first refusal that names none, in seconds; doubles with each further one.
    """
    if reason in SILENT:
        return
    if reason == "http_429" or (reason == "http_503" and (pause is not None or host.unavailable(now))):
        host.refused(now, sent_at)
        if pause is None:
            pause = backoff * 2 ** (host.refusals - 1)
    elif reason == "timeout":
        # While others are answered, a time-out is the URL's own.
        if not host.answers_since(sent_at):
            host.timed_out()
            host.unreachable(now, sent_at, url_id, detail)
    elif reason in UNREACHABLE or (reason.startswith("http_5") and reason != "http_503"):
        host.unreachable(now, sent_at, url_id, f"{reason}: {detail}")
    elif reason != "http_503":
        host.answered(now, sent_at)
    if pause is not None:
        host.pause(now, min(pause, max_pause))
    if (pause or 0) > max_pause:
        host.closed_until = datetime.now(UTC) + timedelta(seconds=pause or 0)
    elif host.refusals >= REFUSALS_IN_A_ROW:
        host.closed_until = datetime.now(UTC) + HOUR
