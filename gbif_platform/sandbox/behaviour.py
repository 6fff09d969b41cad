"""What a test may set on a running sandbox, each with GBIF's own value or a quick one as default."""

from dataclasses import dataclass, field


@dataclass(eq=False, repr=False)
class Behaviour:
    """Settings that are read at every request, so that they may change between two of them.

    Attributes:
        users: names and passwords for HTTP Basic authentication.
        search_limit: the largest `offset + limit` of a search.
        prepare_polls, run_polls: how often a new download is seen PREPARING, then RUNNING, when asked for.
        prepare_seconds, run_seconds: how long these two last at least.
        reuse: whether the same request within 48 hours is answered with the existing download's key.
        down: answer 503 to everything.
        network_lost: drop every connection without an answer.
    """

    users: dict[str, str] = field(default_factory=lambda: {"frog": "secret"})
    search_limit: int = 100_000
    prepare_polls: int = 1
    run_polls: int = 1
    prepare_seconds: float = 0.0
    run_seconds: float = 0.0
    reuse: bool = True
    down: bool = False
    network_lost: bool = False
