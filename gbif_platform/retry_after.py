"""How long a server asks to wait: the header Retry-After, whatever stands in it."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A host that asks for longer names no time that means anything.
LONGEST_PAUSE = 365 * 24 * 3600.0


def retry_after(header: str | None) -> float | None:
    """Seconds to wait, from either form of Retry-After (RFC 9110, 10.2.3), at most LONGEST_PAUSE.

    None where there is none to be read.
    """
    if not header:
        return None
    if re.fullmatch(r"\s*\d+\s*", header):
        return min(float(header), LONGEST_PAUSE)
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), LONGEST_PAUSE)
