"""Fetching pictures into shards, against img2dataset at its best setting.

A loopback host in a process of its own serves photo-like JPEGs (382 kB on average); every URL is fetched, its picture
made 256 px at the smaller side, JPEG quality 95, and put into tar shards with metadata and a SHA-256 of the original:
3 000 URLs (--quick: 600) over 300 distinct pictures.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from json import loads
from pathlib import Path
from typing import NamedTuple

from harness import (
    DATA,
    OURS,
    PARTS,
    Command,
    Contender,
    Measured,
    Peer,
    RunFailed,
    interleave,
    make_once,
    measure,
    options,
    ratio,
    report,
    start,
)

IMG2DATASET = Peer("img2dataset", "1.47.0")
PICTURES = 300
URLS, QUICK_URLS, START_URLS = 3_000, 600, 4


@contextmanager
def host(folder: Path) -> Iterator[str]:
    """A running image host; its base URL."""
    with subprocess.Popen(
        [sys.executable, PARTS / "image_host.py", folder], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def url_list(base: str, count: int, scratch: Path) -> Path:
    """A text file with distinct URLs."""
    file = scratch / "urls.txt"
    file.write_text("".join(f"{base}/{i % PICTURES:05}.jpg?copy={i // PICTURES}\n" for i in range(count)))
    return file


def ours(base: str, count: int, scratch: Path) -> Measured:
    """The platform's fetcher."""
    command: Command = [sys.executable, PARTS / "fetch_ours.py", url_list(base, count, scratch), scratch]
    return checked(measure(command, scratch), count)


def img2dataset(base: str, count: int, scratch: Path) -> Measured:
    """img2dataset, with the settings that an earlier sweep on two cores found fastest; threads hardly matter."""
    command: Command = [
        IMG2DATASET.program("img2dataset"),
        f"--url_list={url_list(base, count, scratch)}",
        f"--output_folder={scratch / 'out'}",
        "--output_format=webdataset",
        "--image_size=256",
        "--resize_mode=keep_ratio",
        "--encode_quality=95",
        "--processes_count=2",
        "--thread_count=16",
        # As many shards as processes: a further one would wait for the first two.
        f"--number_sample_per_shard={-(-count // 2)}",
    ]
    # A library of its asks the registry for news otherwise, which takes time.
    measured = measure(command, scratch, {"NO_ALBUMENTATIONS_UPDATE": "1"})
    shards = [loads(file.read_text()) for file in (scratch / "out").glob("*_stats.json")]
    result = {
        "pictures": sum(shard["successes"] for shard in shards),
        "fetch_s": max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards),
    }
    return checked(replace(measured, result=result), count)


def checked(measured: Measured, count: int) -> Measured:
    """A run that stored every picture.

    Raises:
        RunFailed: it did not.
    """
    if measured.result.get("pictures") != count:
        raise RunFailed(f"stored {measured.result.get('pictures')} of {count} pictures")
    return measured


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=3)
    count = QUICK_URLS if given.quick else URLS
    maker: Command = [sys.executable, PARTS / "fetch_data.py", str(PICTURES)]
    pictures = make_once(DATA / f"pictures-{PICTURES}", maker)
    with host(pictures) as base:
        sides = {OURS: ours, IMG2DATASET.title: img2dataset}
        print(f"start-up, {START_URLS} URLs:")
        few, troubles = interleave(
            [Contender(title, partial(run, base, START_URLS)) for title, run in sides.items()], 1
        )
        fit = [Contender(title, partial(run, base, count)) for title, run in sides.items() if title in few]
        runs, later_troubles = interleave(fit, given.rounds)
    troubles |= later_troubles
    figures = {title: figures_of(runs[title], few[title][0].cpu_s, count) for title in runs}
    table = [(title, *figures.get(title, [None] * 7), troubles.get(title, "all stored")) for title in sides]
    report(
        f"{count:,} URLs, 256 px keep_ratio JPEG into tar shards; medians of {given.rounds}",
        ("", "wall s", "CPU s", "start CPU s", "fetch s", "images/s", "images/CPU s", "peak MB", "result"),
        table,
        [
            f"images/s: of the fetching alone (fetch s). images/CPU s: less the CPU of a start with {START_URLS} URLs.",
            "Peak is that of the largest single process; img2dataset has two at work, the platform one.",
        ],
        compared(figures[OURS], figures.get(IMG2DATASET.title), troubles) | {"urls": count, "rounds": given.rounds},
    )


class Figures(NamedTuple):
    """One side, medians of its runs; `fetch_s` is from the first request to the last shard, as the side itself says."""

    wall_s: float
    cpu_s: float
    start_cpu_s: float
    fetch_s: float
    images_per_s: float
    images_per_cpu_s: float
    peak_mb: float


def figures_of(runs: list[Measured], start_cpu: float, count: int) -> Figures:
    """Figures of the runs over `count` URLs."""
    wall, cpu, peak = (statistics.median(getattr(run, name) for run in runs) for name in ("wall_s", "cpu_s", "peak_mb"))
    fetching = statistics.median(run.result["fetch_s"] for run in runs)
    return Figures(wall, cpu, start_cpu, fetching, count / fetching, (count - START_URLS) / (cpu - start_cpu), peak)


def compared(own: Figures, peer: Figures | None, troubles: dict[str, str]) -> dict[str, object]:
    """The figures of the JSON line."""
    return {
        "benchmark": "fetch",
        "ratio_img2dataset": ratio(own.images_per_s, peer and peer.images_per_s),
        "cpu_ratio_img2dataset": ratio(own.images_per_cpu_s, peer and peer.images_per_cpu_s),
        "images_per_s": round(own.images_per_s, 1),
        "images_per_cpu_s": round(own.images_per_cpu_s, 1),
        "peak_mb": round(own.peak_mb),
        "wall_s": round(own.wall_s, 2),
        "wall_s_img2dataset": peer and round(peer.wall_s, 2),
        "troubles": troubles,
    }


if __name__ == "__main__":
    start(main)
