"""How many CPUs this process may use."""

import os


def cpus() -> int:
    """Those that it is bound to, where the system says so, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
