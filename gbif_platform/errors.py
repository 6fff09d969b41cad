"""The one error users see: what went wrong and what to do next."""

import errno

FULL = ("no space left on device", "database or disk is full", "disk i/o error")
"""How the system and SQLite say that the disk is full; SQLite says the last also of a disk that fails."""


class PlatformError(Exception):
    """A mistake or a trouble that the user can act on.

    Args:
        cause: one line that names the row, file or setting at fault.
        next_step: one line that says what to do; may be empty.

    The command line prints both lines and exits with 1, without a traceback unless `--debug` is given.
    """

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause}\n{next_step}" if next_step else cause)
        self.cause = cause
        self.next_step = next_step


def explained(error: BaseException) -> PlatformError | None:
    """What a user can do about an error of the machine, None where we do not know it."""
    if getattr(error, "errno", None) == errno.ENOSPC or is_full(str(error)):
        return no_space(str(error))
    return error if isinstance(error, PlatformError) else None


def is_full(message: str) -> bool:
    """Whether a message tells of a full disk."""
    return any(phrase in message.lower() for phrase in FULL)


def no_space(message: str) -> PlatformError:
    """What a user can do about a full disk."""
    return PlatformError(
        f"the disk is full, or fails: {first_line(message)}",
        "free space where GBIF_PLATFORM_HOME and TMPDIR are, and run again: what was written before is whole",
    )


def first_line(message: str) -> str:
    """A message on one line: databases and object stores append statements and dumps to theirs."""
    return message.strip().partition("\n")[0]
