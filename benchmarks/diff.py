"""The changes between two snapshots of 2 000 000 media each (--quick: a tenth), against pandas and Polars.

All read the same two Parquet files and write the changes as Parquet: added, removed, relabelled, another licence,
another gbifID, and the media whose identity alone changed, found again by URL and data set. The platform runs once more
from its lake, as `gbif-platform snapshot diff` does: labels joined from the occurrences, the changes committed as rows.
"""

import functools
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from harness import (
    DATA,
    OURS,
    PARTS,
    Contender,
    Measured,
    Peer,
    RunFailed,
    interleave,
    make_once,
    measure,
    median,
    options,
    ratio,
    report,
    start,
)

PANDAS = Peer("pandas", "3.1.1")
POLARS = f"polars {version('polars')}"
LAKE = f"{OURS}, in the lake"
ROWS, QUICK_ROWS = 2_000_000, 200_000
SHARES = {"added": 20, "removed": 20, "relabelled": 10, "licence_changed": 5, "gbif_id_changed": 6}
"""Changes of each kind in a thousand media, as `parts/diff_data.py` makes them."""


def snapshots_of(rows: int) -> Path:
    """The folder with the two generated snapshots."""
    return make_once(DATA / f"diff-{rows}", [sys.executable, PARTS / "diff_data.py", str(rows)])


def from_files(part: str, peer: Peer | None, data: Path, rows: int, scratch: Path) -> Measured:
    """A comparison of the two files."""
    python = peer.program("python") if peer else sys.executable
    command = [python, PARTS / part, data / "old.parquet", data / "new.parquet", scratch]
    return checked(measure(command, scratch), rows)


def from_lake(data: Path, rows: int, scratch: Path) -> Measured:
    """The platform's comparison, in a copy of the lake."""
    home = Path(shutil.copytree(data / "home", scratch / "home"))
    return checked(measure([sys.executable, PARTS / "diff_lake.py", home], scratch), rows)


def checked(measured: Measured, rows: int) -> Measured:
    """A run that found the changes that were made.

    Raises:
        RunFailed: it did not.
    """
    counts = measured.result.get("counts", {})
    for change, share in SHARES.items():
        if abs(counts.get(change, 0) - share * rows // 1000) > rows // 2000:
            raise RunFailed(f"found {counts}, not {share} {change} in a thousand")
    return measured


def seconds(runs: list[Measured] | None) -> float | None:
    """Median of the seconds without starting up."""
    inner = [Measured(run.result["seconds"], 0, 0, {}) for run in runs or []]
    return median(inner, "wall_s")


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=3)
    rows = QUICK_ROWS if given.quick else ROWS
    data = snapshots_of(rows)
    contenders = [
        Contender(OURS, functools.partial(from_files, "diff_ours.py", None, data, rows)),
        Contender(LAKE, functools.partial(from_lake, data, rows)),
        Contender(PANDAS.title, functools.partial(from_files, "diff_pandas.py", PANDAS, data, rows)),
        Contender(POLARS, functools.partial(from_files, "diff_polars.py", None, data, rows)),
    ]
    runs, troubles = interleave(contenders, given.rounds)
    titles = [contender.title for contender in contenders]
    inner = {title: seconds(runs.get(title)) for title in titles}
    wall = {title: median(runs.get(title), "wall_s") for title in titles}
    cpu = {title: median(runs.get(title), "cpu_s") for title in titles}
    peak = {title: median(runs.get(title), "peak_mb") for title in titles}
    changes = {str(sorted(run.result["counts"].items())) for title in titles for run in runs.get(title, [])[:1]}
    table = [
        (
            title,
            inner[title],
            wall[title],
            cpu[title],
            ratio(cpu[title], cpu[OURS]),
            peak[title],
            troubles.get(title, ""),
        )
        for title in titles
    ]
    figures = {
        "benchmark": "diff",
        "troubles": troubles,
        "media": rows,
        "rounds": given.rounds,
        "seconds": ratio(inner[OURS], 1),
        "seconds_lake": ratio(inner[LAKE], 1),
        "cpu_s": ratio(cpu[OURS], 1),
        "peak_mb": ratio(peak[OURS], 1),
        "peak_mb_lake": ratio(peak[LAKE], 1),
        "ratio_pandas": ratio(wall[PANDAS.title], wall[OURS]),
        "ratio_polars": ratio(wall[POLARS], wall[OURS]),
        "cpu_ratio_pandas": ratio(cpu[PANDAS.title], cpu[OURS]),
        "cpu_ratio_polars": ratio(cpu[POLARS], cpu[OURS]),
    }
    report(
        f"two snapshots of {rows:,} media; medians of {given.rounds}",
        ("", "diff s", "wall s", "CPU s", "CPU ratio", "peak MB", ""),
        table,
        [f"Wall, CPU and memory with starting up. Found: {'; or '.join(sorted(changes))}"],
        figures,
    )


if __name__ == "__main__":
    start(main)
