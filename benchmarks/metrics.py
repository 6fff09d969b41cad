"""Every metric of a model from its stored logits: 1 million predictions × 3 000 classes (--quick: 50 000).

The platform's whole evaluation (intervals, ranks, slices, baselines, tables) of the large file; and on 50 000 rows the
metrics that torchmetrics and scikit-learn have too, beside them. The files are made, 6 GB of them, and removed again.
"""

import functools
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from harness import (
    HOME,
    OURS,
    PARTS,
    Contender,
    Measured,
    RunFailed,
    in_scratch,
    interleave,
    measure,
    median,
    options,
    ratio,
    report,
    start,
)

MILLION, QUICK, CLASSES = 1_000_000, 50_000, 3000
TORCHMETRICS = f"torchmetrics {version('torchmetrics')}"
SKLEARN = f"scikit-learn {version('scikit-learn')}"
WHOLE = f"{OURS}, everything"
SPARE_BYTES = 2 * 2**30


def ours(way: str, data: Path, scratch: Path) -> Measured:
    """The platform's figures."""
    return checked(measure([sys.executable, PARTS / "metrics_ours.py", way, data], scratch))


def peer(way: str, data: Path, scratch: Path) -> Measured:
    """A script's figures."""
    return checked(measure([sys.executable, PARTS / "metrics_peer.py", way, data], scratch))


def checked(measured: Measured) -> Measured:
    """The run, where it has figures.

    Raises:
        RunFailed: it has none.
    """
    if not 0 < measured.result.get("top1", 0) <= 1:
        raise RunFailed(f"no top-1: {measured.result}")
    return measured


def agree(runs: dict[str, list[Measured]]) -> None:
    """Hold the peers' figures against ours.

    Raises:
        RunFailed: one differs. macro figures of torchmetrics average over other labels, so they are left out.
    """
    mine = runs[OURS][0].result
    for title, measured in runs.items():
        names = ("top1", "top5", "log_loss", "ece") + (() if title == TORCHMETRICS else ("macro_accuracy",))
        for name in names:
            if abs(measured[0].result[name] - mine[name]) > 1e-3 * max(1.0, abs(mine[name])):
                raise RunFailed(f"{title} says {name} {measured[0].result[name]}, ours {mine[name]}")


def of_ours(runs: dict[str, list[Measured]], title: str, figure: str) -> float | None:
    """How many times our figure a side's is."""
    return ratio(median(runs.get(title), figure), median(runs[OURS], figure))


def made(rows: int, folder: Path) -> Path:
    """The file of answers.

    Raises:
        RunFailed: there is no space for it.
    """
    needed = 2 * rows * CLASSES
    if shutil.disk_usage(folder).free < needed + SPARE_BYTES:
        raise RunFailed(f"{folder} has no {needed / 2**30:.0f} GB free: take --quick")
    data = folder / f"{rows}"
    subprocess.run([sys.executable, PARTS / "metrics_data.py", str(rows), str(CLASSES), data], check=True)
    return data


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=1)
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME, prefix="metrics-") as folder:
        small = made(QUICK, Path(folder))
        in_scratch(functools.partial(ours, "whole", small))  # compiles the kernel, once on a machine
        runs, troubles = interleave(
            [
                Contender(OURS, functools.partial(ours, "core", small)),
                Contender(TORCHMETRICS, functools.partial(peer, "torchmetrics", small)),
                Contender(SKLEARN, functools.partial(peer, "sklearn", small)),
                Contender(WHOLE, functools.partial(ours, "whole", small)),
            ],
            given.rounds,
        )
        agree(runs)
        if given.quick:
            large, rows = runs[WHOLE][0], QUICK
        else:
            shutil.rmtree(small)
            large, rows = in_scratch(functools.partial(ours, "whole", made(MILLION, Path(folder)))), MILLION
    table = [
        (f"{QUICK:,}", title, median(runs.get(title), "wall_s"), median(runs.get(title), "cpu_s"),
         of_ours(runs, title, "cpu_s"), median(runs.get(title), "peak_mb"),
         troubles.get(title, ""))
        for title in (*runs, *troubles)
    ]  # fmt: skip
    if not given.quick:
        table.append((f"{MILLION:,}", WHOLE, large.wall_s, large.cpu_s, None, large.peak_mb, ""))
    report(
        f"predictions × {CLASSES:,} classes, from a file of float16 logits",
        ("predictions", "", "wall s", "CPU s", "CPU ratio to ours", "peak MB", ""),
        table,
        [
            f"Of the last: logits {large.result['score_s']:.1f} s, the rest {large.result['evaluate_s']:.1f} s.",
            "With starting up (imports some 2 s; torch 5 s). The peers give no intervals, ranks, slices or baselines.",
        ],
        {
            "benchmark": "metrics",
            "rows": rows,
            "classes": CLASSES,
            "seconds": ratio(large.result["seconds"], 1),
            "score_s": ratio(large.result["score_s"], 1),
            "evaluate_s": ratio(large.result["evaluate_s"], 1),
            "cpu_s": ratio(large.cpu_s, 1),
            "peak_mb": ratio(large.peak_mb, 1),
            **{
                f"{figure}_ratio_{name}": of_ours(runs, title, f"{figure}_s")
                for name, title in (("torchmetrics", TORCHMETRICS), ("sklearn", SKLEARN))
                for figure in ("wall", "cpu")
            },
        },
    )


if __name__ == "__main__":
    start(main)
