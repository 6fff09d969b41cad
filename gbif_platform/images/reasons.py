"""Why a picture did not come, and what follows: whose fault, whether to ask again at once, and when to ask next.

A reason is a short word that tables, reports and tests rely on. HTTP statuses are spelt `http_404`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Rule:
    """What follows from a reason.

    Attributes:
        status: `failed` = the world's fault (network, HTTP), `refused` = our decision (address, size, not a picture).
        tries_again: how often to ask again within the same run, at most; options may allow fewer.
        later: how long until a later run may ask again; None = never by itself.
    """

    status: Literal["failed", "refused"]
    tries_again: int
    later: timedelta | None


TRANSIENT = Rule("failed", 10, HOUR)
# A time-out is the dearest failure: one more try, the rest is for a later run.
SLOW = Rule("failed", 1, HOUR)
LASTING = Rule("failed", 0, MONTH)
FINAL = Rule("failed", 0, None)
REFUSED = Rule("refused", 0, MONTH)
NEVER = Rule("refused", 0, None)

RULES: dict[str, Rule] = {
    "timeout": SLOW,
    "host_not_found": TRANSIENT,
    "connection_refused": TRANSIENT,
    "connection_reset": TRANSIENT,
    "network_error": TRANSIENT,
    "truncated_transfer": TRANSIENT,
    "bad_response": TRANSIENT,
    "bad_encoding": TRANSIENT,
    "host_busy": Rule("failed", 0, HOUR),
    "host_down": Rule("failed", 0, HOUR),
    "worker_lost": Rule("failed", 1, HOUR),
    "damaged": Rule("failed", 0, HOUR),
    "internal_error": Rule("failed", 0, HOUR),
    "file_unreadable": Rule("failed", 0, HOUR),
    "file_changed": FINAL,
    "tls_error": LASTING,
    "bad_redirect": LASTING,
    "redirect_loop": LASTING,
    "too_many_redirects": LASTING,
    "http_408": TRANSIENT,
    "http_410": FINAL,
    "http_425": TRANSIENT,
    "http_429": TRANSIENT,
    "unsupported_scheme": NEVER,
    "invalid_url": NEVER,
    "forbidden_address": REFUSED,
    "robots": REFUSED,
    "too_many_bytes": REFUSED,
    "too_many_pixels": REFUSED,
    "too_many_scans": REFUSED,
    "extreme_aspect": REFUSED,
    "out_of_memory": REFUSED,
    "empty_body": REFUSED,
    "html_page": REFUSED,
    "not_an_image": REFUSED,
    "unsupported_format": REFUSED,
    "truncated_image": REFUSED,
    "corrupt_image": REFUSED,
    "not_encodable": REFUSED,
}

# The picture was withdrawn or is kept from us, or the fault is ours: GBIF's copy of it is not asked for either.
NOT_FROM_THE_CACHE = {"http_401", "http_402", "http_403", "http_410", "http_451", "worker_lost", "internal_error"}


def rule_of(reason: str) -> Rule:
    """The rule for a reason; HTTP statuses without an entry follow their class. An unknown reason raises KeyError."""
    if reason in RULES:
        return RULES[reason]
    if reason.startswith("http_5"):
        return TRANSIENT
    if reason.startswith("http_"):
        return LASTING
    raise KeyError(reason)
