"""Ways to end a training at a chosen moment without killing the test's own process."""

from collections.abc import Callable
from typing import Any

from gbif_platform.training.run import Progress


class Cut(Exception):
    """Stands in for a kill where a whole process would cost seconds."""


def cut_at(epoch: int, step: int) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        if (now.epoch, now.step) == (epoch, step):
            raise Cut

    return progress


class CutAfterEpoch:
    """A tracker that cuts once an epoch is on disk."""

    def __init__(self, epoch: int) -> None:
        self.warnings: list[str] = []
        self.epoch = epoch
        self.ended: list[str] = []

    def begin(self, params: dict[str, Any]) -> None: ...

    def log_epoch(self, row: dict[str, float]) -> None:
        if row["epoch"] == self.epoch:
            raise Cut

    def log_step(self, step: int, metrics: dict[str, float]) -> None: ...

    def end(self, status: str) -> None:
        self.ended.append(status)
