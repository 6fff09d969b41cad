"""A run over a million known URLs (--quick: 100 000): nothing to fetch, nothing to write, and how long that takes.

The step as Dagster and `gbif-platform run` call it: what is missing or due is looked for, the newest shards are
verified, the report is made. The home is made once; the first run over it writes the account and is not counted.
"""

import statistics
import sys
from functools import partial
from pathlib import Path

from harness import DATA, OURS, PARTS, Contender, Measured, RunFailed, interleave, make_once, measure, options, report
from harness import start as begin


def step(home: Path, scratch: Path) -> Measured:
    """One run.

    Raises:
        RunFailed: it asked for something, or found something amiss.
    """
    measured = measure([sys.executable, PARTS / "noop_ours.py", home], scratch)
    if measured.result.get("requested") != 0 or not measured.result.get("sound"):
        raise RunFailed(f"not a run without news: {measured.result}")
    return measured


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=3)
    count = 100_000 if given.quick else 1_000_000
    home = make_once(DATA / f"known-{count}", [sys.executable, PARTS / "noop_data.py", str(count)])
    runs, _ = interleave([Contender(OURS, partial(step, home))], given.rounds + 1)
    counted = runs[OURS][1:]
    if any(run.result["written"] for run in counted):
        raise RunFailed("a run without news has written something")
    wall, cpu, peak = (
        statistics.median(getattr(run, name) for run in counted) for name in ("wall_s", "cpu_s", "peak_mb")
    )
    report(
        f"{count:,} known URLs; medians of {given.rounds}",
        ("", "wall s", "of it the step", "CPU s", "peak MB"),
        [(OURS, wall, statistics.median(run.result["step_s"] for run in counted), cpu, peak)],
        ["wall s: with the start of Python."],
        {"benchmark": "noop", "urls": count, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mb": round(peak)},
    )


if __name__ == "__main__":
    begin(main)
