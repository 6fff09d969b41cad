"""Which of GBIF's answers pass by themselves, how long to wait, and when to give up."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

T = TypeVar("T")

# 420 is what GBIF's code answers to too many requests at once, where its documentation says 429.
TRANSIENT_STATUS = (408, 420, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_S = 120.0


class Transient(Exception):
    """A trouble that passes; `wait_s` is how long the server asks to wait."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


PASSING = (Transient, aiohttp.ClientError, TimeoutError, ConnectionError)
"""What is tried again."""


Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Patience:
    """How often to try, and how long to wait before the first repetition; the wait doubles each time, unless the
    server says how long; `notice` is told of each wait."""

    attempts: int = 6
    first_wait_s: float = 1.0
    notice: Callable[[str], None] | None = None

    async def run(
        self, action: Callable[[], Awaitable[T]], give_up: Callable[[str], Exception], size: Callable[[], int] = int
    ) -> T:
        """The action's result, after as many tries as it takes.

        Args:
            give_up: makes the error that is raised after the last try, from the last cause.
            size: how much of the result is there already; a try that made it grow is no failure.
        """
        failures = 0
        while True:
            before = size()
            try:
                return await action()
            except PASSING as error:
                failures = 1 if size() > before else failures + 1
                if failures >= self.attempts:
                    raise give_up(str(error) or type(error).__name__) from error
                if self.notice:
                    self.notice(f"waiting for GBIF, try {failures + 1} of {self.attempts}")
                await asyncio.sleep(min(self._wait_s(failures, error), LONGEST_WAIT_S))

    def _wait_s(self, failures: int, error: BaseException) -> float:
        if isinstance(error, Transient) and error.wait_s is not None:
            return error.wait_s
        return self.first_wait_s * 2.0 ** (failures - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret


def telling(progress: Progress | None, attempts: int = Patience.attempts) -> Patience:
    """Patience that says where progress is shown that GBIF is waited for."""
    return Patience(attempts, notice=(lambda says: progress(0, None, says)) if progress else None)
