"""The one error users see: what went wrong and what to do next."""

import errno


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
    if isinstance(error, PlatformError):
        return error
    if getattr(error, "errno", None) == errno.ENOSPC or "no space left on device" in str(error).lower():
        return PlatformError(
            f"no space left on the device: {str(error).splitlines()[0]}",
            "free some space and run again: what was written before is whole, the rest is made then",
        )
    return None
