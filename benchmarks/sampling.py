"""A balanced sample, 100 media a label of 10 000 long-tailed ones, of 1, 10 and 100 million media (--quick: up to 10).

The platform goes from media and occurrences as Parquet to the sample as Parquet, with everything that the step does:
filters, labels, repeated URLs, quotas, report, funnel, refused rows. Beside it what a script would do, where there is
the memory for it: join, filter and a quota, in Polars and by DuckDB's plain window.
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

MILLION = 1_000_000
SIZES, QUICK_SIZES = (MILLION, 10 * MILLION, 100 * MILLION), (MILLION, 10 * MILLION)
KEPT = 10 * MILLION
"""Media of the largest data that are kept for the next time; 100 million are 4.7 GB and three minutes of CPU."""
PEERS_UP_TO = 10 * MILLION  # Polars holds about 250 bytes a medium
QUOTA = 100
POLARS = f"polars {version('polars')}"
WINDOW = f"duckdb {version('duckdb')}, plain window"


def ours(data: Path, scratch: Path) -> Measured:
    """The platform's sample.

    Raises:
        RunFailed: a label has another number of media than the smaller of quota and what there is.
    """
    measured = measure([sys.executable, PARTS / "sampling_ours.py", data, str(QUOTA), scratch], scratch)
    if not measured.result.get("exact"):
        raise RunFailed(f"the quotas are not exact: {measured.result}")
    return measured


def peer(way: str, data: Path, scratch: Path) -> Measured:
    """A script's sample.

    Raises:
        RunFailed: it has no rows.
    """
    measured = measure([sys.executable, PARTS / "sampling_peer.py", way, data, str(QUOTA), scratch], scratch)
    if not measured.result.get("media"):
        raise RunFailed("the sample is empty")
    return measured


def runs_of(rows: int, rounds: int) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """The runs over one size of data, by title, and why others have none."""
    data = make_once(DATA / f"sampling-{rows}", [sys.executable, PARTS / "sampling_data.py", str(rows)])
    contenders = [Contender(OURS, functools.partial(ours, data))]
    if rows <= PEERS_UP_TO:
        contenders.append(Contender(POLARS, functools.partial(peer, "polars", data)))
        contenders.append(Contender(WINDOW, functools.partial(peer, "window", data)))
    try:
        return interleave(contenders, rounds)
    finally:
        if rows > KEPT:
            shutil.rmtree(data)


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=2)
    sizes = QUICK_SIZES if given.quick else SIZES
    table = []
    figures: dict[str, dict[str, float | None]] = {
        name: {} for name in ("cpu_s", "peak_mb", "cpu_ratio_polars", "cpu_ratio_window", "peak_mb_polars")
    }
    for rows in sizes:
        runs, troubles = runs_of(rows, given.rounds)
        cpu = {title: median(runs.get(title), "cpu_s") for title in (OURS, POLARS, WINDOW)}
        peak = {title: median(runs.get(title), "peak_mb") for title in (OURS, POLARS, WINDOW)}
        for title in (*runs, *troubles):
            per_million = ratio(cpu[title], rows / MILLION)
            table.append((f"{rows:,}", title, median(runs.get(title), "wall_s"), cpu[title], per_million,
                          ratio(cpu[title], cpu[OURS]), peak[title], troubles.get(title, "")))  # fmt: skip
        size = str(rows)
        figures["cpu_s"][size], figures["peak_mb"][size] = ratio(cpu[OURS], 1), ratio(peak[OURS], 1)
        if rows <= PEERS_UP_TO:
            figures["cpu_ratio_polars"][size] = ratio(cpu[POLARS], cpu[OURS])
            figures["cpu_ratio_window"][size] = ratio(cpu[WINDOW], cpu[OURS])
            figures["peak_mb_polars"][size] = ratio(peak[POLARS], 1)
    report(
        f"{QUOTA} media a label; medians of {given.rounds}",
        ("media", "", "wall s", "CPU s", "CPU s a million", "CPU ratio", "peak MB", ""),
        table,
        ["With starting up. The scripts neither look for repeated URLs nor keep an account."],
        {"benchmark": "sampling", "rounds": given.rounds, **figures},
    )


if __name__ == "__main__":
    start(main)
