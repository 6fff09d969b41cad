"""Fetching pictures into shards, against img2dataset at its best setting and gbif-dl.

A loopback host in a process of its own serves photo-like pictures; every URL is fetched, its picture made 256 px at the
smaller side, JPEG quality 95, and put into tar shards with metadata and a SHA-256 of the original: 9 000 URLs (--quick:
900) over 300 distinct pictures. Then the same where the host offers a rendition of 500 px.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from json import loads
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from harness import (
    DATA,
    HOME,
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
GBIF_DL = Peer("gbif-dl", "0.1.1")
RENDITIONS = f"{OURS}, renditions"
PICTURES = 300
URLS, QUICK_URLS = 9_000, 900


@contextmanager
def host(*arguments: Path | str) -> Iterator[str]:
    """A running image host; its base URL."""
    with subprocess.Popen(
        [sys.executable, PARTS / "image_host.py", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def pictures() -> Path:
    """The corpus, drawn once."""
    return make_once(DATA / f"photos-{PICTURES}", [sys.executable, PARTS / "fetch_data.py", str(PICTURES)])


def url_list(base: str, count: int, scratch: Path) -> Path:
    """A text file with distinct URLs."""
    names = sorted(path.name for path in pictures().glob("*.*"))
    file = scratch / "urls.txt"
    file.write_text("".join(f"{base}/{names[i % PICTURES]}?copy={i // PICTURES}\n" for i in range(count)))
    return file


def ours(base: str, count: int, scratch: Path, *more: str) -> Measured:
    """The platform's fetcher."""
    return checked(
        measure([sys.executable, PARTS / "fetch_ours.py", url_list(base, count, scratch), scratch, *more], scratch),
        count,
    )


def img2dataset(base: str, count: int, scratch: Path) -> Measured:
    """img2dataset, with the settings that an earlier sweep on two cores found fastest; threads hardly matter."""
    measured = measure(img2dataset_command(url_list(base, count, scratch), scratch, -(-count // 2), 16), scratch, QUIET)
    return checked(img2dataset_result(measured, scratch), count)


# A library of its asks the registry for news otherwise, which takes time.
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1"}


def img2dataset_command(urls: Path, scratch: Path, shard: int, threads: int) -> Command:
    """Its command line, but for what a shard holds and the threads of a process."""
    return [
        IMG2DATASET.program("img2dataset"),
        f"--url_list={urls}",
        f"--output_folder={scratch / 'out'}",
        "--output_format=webdataset",
        "--image_size=256",
        "--resize_mode=keep_ratio",
        "--encode_quality=95",
        "--processes_count=2",
        f"--thread_count={threads}",
        f"--number_sample_per_shard={shard}",
    ]


def img2dataset_result(measured: Measured, scratch: Path) -> Measured:
    """What its shards say of themselves."""
    shards = [loads(file.read_text()) for file in (scratch / "out").glob("*_stats.json")]
    result = {
        "pictures": sum(shard["successes"] for shard in shards),
        "fetch_s": max(shard["end_time"] for shard in shards) - min(shard["start_time"] for shard in shards),
    }
    return replace(measured, result=result)


def gbif_dl(base: str, count: int, scratch: Path) -> Measured:
    """gbif-dl's downloader with its defaults: it stores originals, and decodes nothing."""
    command: Command = [GBIF_DL.program("python"), PARTS / "fetch_gbif_dl.py", url_list(base, count, scratch), scratch]
    return checked(measure(command, scratch), count)


def checked(measured: Measured, count: int) -> Measured:
    """A run that stored every picture.

    Raises:
        RunFailed: it did not.
    """
    if measured.result.get("pictures") != count:
        raise RunFailed(f"stored {measured.result.get('pictures')} of {count} pictures")
    return measured


def quality(base: str) -> dict[str, float]:
    """Both sides' pictures against the originals and against each other; {} without img2dataset."""
    with (
        TemporaryDirectory(dir=HOME, prefix="scratch-") as own,
        TemporaryDirectory(dir=HOME, prefix="scratch-") as peer,
    ):
        ours(base, PICTURES, Path(own))
        img2dataset(base, PICTURES, Path(peer))
        compared = subprocess.run(
            [sys.executable, PARTS / "fetch_quality.py", pictures(), own, peer],
            check=True,
            capture_output=True,
            text=True,
        )
    found: dict[str, float] = loads(compared.stdout.splitlines()[-1])
    return found


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=3)
    count = QUICK_URLS if given.quick else URLS
    with host(pictures()) as base:
        sides: dict[str, Callable[[str, int, Path], Measured]] = {
            OURS: ours,
            IMG2DATASET.title: img2dataset,
            RENDITIONS: lambda base, count, scratch: ours(base, count, scratch, "--renditions"),
            GBIF_DL.title: gbif_dl,
        }
        runs, troubles = interleave(
            [Contender(title, partial(run, base, count)) for title, run in sides.items()], given.rounds
        )
        seen = quality(base) if IMG2DATASET.title in runs else {}
    figures = {title: figures_of(runs[title], count) for title in runs}
    table = [(title, *figures.get(title, [None] * 6), troubles.get(title, "all stored")) for title in sides]
    report(
        f"{count:,} URLs, 256 px keep_ratio JPEG into tar shards; medians of {given.rounds}",
        ("", "wall s", "CPU s", "fetch s", "images/s", "images/CPU s", "peak MB", "result"),
        table,
        [
            "images/s and images/CPU s: of the whole run, as a user waits for it; fetch s: of the fetching alone.",
            "Peak MB: of all processes of a side together. gbif-dl stores originals and decodes nothing.",
            f"{seen.get('pictures')} pictures against the originals' exact means: {seen.get('db')} dB, img2dataset "
            f"{seen.get('db_peer')} dB; SSIM between the two {seen.get('ssim')}, lowest {seen.get('ssim_lowest')}.",
        ],
        compared(figures, troubles) | summed(seen) | {"urls": count, "rounds": given.rounds},
    )


class Figures(NamedTuple):
    """One side, medians of its runs; `fetch_s` is from the first request to the last shard, as the side itself says."""

    wall_s: float
    cpu_s: float
    fetch_s: float
    images_per_s: float
    images_per_cpu_s: float
    peak_mb: float


def figures_of(runs: list[Measured], count: int) -> Figures:
    """Figures of the runs over `count` URLs."""
    wall, cpu, peak = (
        statistics.median(getattr(run, name) for run in runs) for name in ("wall_s", "cpu_s", "peak_sum_mb")
    )
    fetching = statistics.median(run.result["fetch_s"] for run in runs)
    return Figures(wall, cpu, fetching, count / wall, count / cpu, peak)


def compared(figures: dict[str, Figures], troubles: dict[str, str]) -> dict[str, object]:
    """The figures of the JSON line."""
    own, peer, small, plain = (figures.get(title) for title in (OURS, IMG2DATASET.title, RENDITIONS, GBIF_DL.title))
    assert own is not None
    return {
        "benchmark": "fetch",
        "ratio_img2dataset": ratio(own.images_per_s, peer and peer.images_per_s),
        "cpu_ratio_img2dataset": ratio(own.images_per_cpu_s, peer and peer.images_per_cpu_s),
        "ratio_img2dataset_fetching_alone": ratio(peer and peer.fetch_s, own.fetch_s),
        "ratio_renditions": ratio(small and small.images_per_s, peer and peer.images_per_s),
        "ratio_gbif_dl": ratio(own.images_per_s, plain and plain.images_per_s),
        "ratio_gbif_dl_renditions": ratio(small and small.images_per_s, plain and plain.images_per_s),
        "images_per_s": round(own.images_per_s, 1),
        "images_per_cpu_s": round(own.images_per_cpu_s, 1),
        "peak_mb": round(own.peak_mb),
        "peak_mb_img2dataset": peer and round(peer.peak_mb),
        "wall_s": round(own.wall_s, 2),
        "wall_s_img2dataset": peer and round(peer.wall_s, 2),
        "troubles": troubles,
    }


def summed(seen: dict[str, float]) -> dict[str, object]:
    """Quality, as the JSON line has it."""
    behind = round(seen["db_peer"] - seen["db"], 2) if seen else None
    return {"ssim": seen.get("ssim"), "db_behind": behind}


if __name__ == "__main__":
    start(main)
