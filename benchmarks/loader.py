"""Pictures a second into the model, against torchvision's ImageFolder and webdataset.

Photo-like JPEGs of 256 px and of 1024 px become random crops of 224 px, mirrored at random, in normalised batches; two
worker threads (ours) or processes (the peers), everything in the page cache. `parts/loader_run.py` says the rest.
"""

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from harness import (
    DATA,
    OURS,
    PARTS,
    Command,
    Contender,
    Measured,
    interleave,
    make_once,
    measure,
    options,
    ratio,
    report,
    start,
)

IMAGEFOLDER, WEBDATASET = "torchvision ImageFolder", "webdataset"
SIDES = {OURS: "ours", IMAGEFOLDER: "imagefolder", WEBDATASET: "webdataset"}
DISTINCT, QUICK_DISTINCT = 100, 24
PICTURES = {256: 6_400, 1024: 1_200}
QUICK_PICTURES = {256: 1_000, 1024: 200}
COPIES = {256: 16, 1024: 4}


def pictures(size: int, distinct: int) -> Path:
    """The pictures, drawn once."""
    make: Command = [sys.executable, PARTS / "loader_data.py", str(size), str(distinct), str(COPIES[size])]
    return make_once(DATA / f"loader-{size}-{distinct}", make)


def load(side: str, folder: Path, count: int, scratch: Path) -> Measured:
    """One side over `count` pictures."""
    return measure([sys.executable, PARTS / "loader_run.py", side, folder, str(count)], scratch)


def compare(size: int, rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """Medians of each side."""
    folder = pictures(size, QUICK_DISTINCT if quick else DISTINCT)
    count = (QUICK_PICTURES if quick else PICTURES)[size]
    runs, _ = interleave([Contender(name, partial(load, side, folder, count)) for name, side in SIDES.items()], rounds)
    return {
        name: {
            **{key: statistics.median(run.result[key] for run in measured) for key in measured[0].result},
            "peak_mb": statistics.median(run.peak_sum_mb for run in measured),
        }
        for name, measured in runs.items()
    }


def main() -> None:
    given = options(__doc__, rounds=3)
    found = {size: compare(size, given.rounds, given.quick) for size in PICTURES}
    figures: dict[str, Any] = {"benchmark": "loader", "quick": given.quick, "rounds": given.rounds}
    for size, sides in found.items():
        mine = sides[OURS]
        for peer in (IMAGEFOLDER, WEBDATASET):
            name, theirs = SIDES[peer], sides.get(peer, {})
            figures[f"ratio_{name}_{size}"] = ratio(mine["per_second"], theirs.get("per_second"))
            figures[f"cpu_ratio_{name}_{size}"] = ratio(theirs.get("cpu_s_per_1000"), mine["cpu_s_per_1000"])
    report(
        "Pictures into the model, 224 px, batches of 32, two workers",
        ["", "pictures/s", "CPU s / 1000", "peak MB, all processes"],
        [
            [f"{size} px  {name}", values["per_second"], values["cpu_s_per_1000"], values["peak_mb"]]
            for size, sides in found.items()
            for name, values in sides.items()
        ],
        ["Medians of the rounds; the first epoch of each run is not counted."],
        figures,
    )


if __name__ == "__main__":
    start(main)
