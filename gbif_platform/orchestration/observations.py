"""How a step goes on, as observations of its asset: they plot in the web UI while it works."""

import time
from collections.abc import Callable, Mapping

import dagster as dg

EVERY_SECONDS = 30.0
OFTEN = 30


class Observations:
    """Takes a step's numbers as often as it likes to give them, and keeps one set in half a minute.

    After `OFTEN` of them the pause grows with the time gone by: an hour leaves some 70, a week some 230.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, key: dg.AssetKey, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._key, self._clock = context, key, clock
        self._started = self._last = clock()

    def __call__(self, numbers: Mapping[str, float]) -> None:
        """Keep the numbers, if enough time has gone by since the last ones."""
        now = self._clock()
        if now - self._last < max(EVERY_SECONDS, (now - self._started) / OFTEN):
            return
        self._last = now
        self._context.log_event(
            dg.AssetObservation(
                self._key,
                partition=self._context.partition_key,
                metadata={name: dg.MetadataValue.float(float(value)) for name, value in numbers.items()},
            )
        )
