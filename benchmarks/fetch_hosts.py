"""Fetching from hosts that are rough, limited or dead, and how memory grows with the URLs.

Rough: of 3 000 addresses 2 % are gone, 1.1 % hang, 1.1 % take 3 s, 1 % reset, 0.5 % fail. Limited: 1 000 pictures from
a host that allows 50 requests a second and answers others with 429 and Retry-After: 2. Dead: one host of ten never
answers. Memory: 10 000 and 1 000 000 URLs of small pictures (--quick: no dead host, 2 000 and 20 000 URLs).
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from json import loads
from pathlib import Path
from urllib.request import urlopen

from fetch import IMG2DATASET, QUIET, host, img2dataset_command, img2dataset_result, pictures, url_list
from harness import (
    DATA,
    OURS,
    PARTS,
    Contender,
    Measured,
    in_scratch,
    interleave,
    make_once,
    measure,
    options,
    ratio,
    report,
    start,
)

ROUGH, LIMITED, A_HOST = 3_000, 1_000, 600
BEST, DEFAULT = f"{IMG2DATASET.title}, best", f"{IMG2DATASET.title}, shards of 250"
ALIVE, WITH_DEAD = "nine hosts", "and a dead one"


def ours(urls: Path, scratch: Path) -> Measured:
    """The platform's fetcher."""
    return measure([sys.executable, PARTS / "fetch_ours.py", urls, scratch], scratch)


def img2dataset(base: str, count: int, shard: int, threads: int, scratch: Path) -> Measured:
    """img2dataset; what it could not store is its own affair."""
    command = img2dataset_command(url_list(base, count, scratch), scratch, shard, threads)
    return img2dataset_result(measure(command, scratch, QUIET), scratch)


def rough(rounds: int) -> tuple[list[tuple[object, ...]], dict[str, object]]:
    """Seconds of each side over the rough web."""
    with host(pictures(), "--rough") as base:
        sides = {
            OURS: lambda scratch: ours(url_list(base, ROUGH, scratch), scratch),
            BEST: partial(img2dataset, base, ROUGH, ROUGH // 2, 256),
            DEFAULT: partial(img2dataset, base, ROUGH, 250, 64),
        }
        runs, troubles = interleave([Contender(title, run) for title, run in sides.items()], rounds)
    seconds = {title: statistics.median(run.result["fetch_s"] for run in them) for title, them in runs.items()}
    stored = {title: them[0].result["pictures"] for title, them in runs.items()}
    rows = [("rough", title, seconds.get(title), stored.get(title), troubles.get(title, "")) for title in sides]
    return rows, {
        "ratio_rough_best": ratio(seconds.get(BEST), seconds[OURS]),
        "ratio_rough_default": ratio(seconds.get(DEFAULT), seconds[OURS]),
    }


def limited() -> tuple[list[tuple[object, ...]], dict[str, object]]:
    """Seconds, and what the host had to refuse."""
    rows: list[tuple[object, ...]] = []
    figures: dict[str, object] = {}
    for title in (OURS, BEST):
        with host(pictures(), "--rate", "50") as base:
            if title == OURS:
                run = in_scratch(lambda scratch: ours(url_list(base, LIMITED, scratch), scratch))
            else:
                run = in_scratch(partial(img2dataset, base, LIMITED, LIMITED // 2, 16))
            with urlopen(f"{base}/answers.json") as answer:
                refused = loads(answer.read()).get("429", 0)
        rows.append(("limited", title, run.result["fetch_s"], run.result["pictures"], f"{refused} x 429"))
        if title == OURS:
            figures = {"limited_s": round(run.result["fetch_s"], 1), "limited_429": refused}
    return rows, figures


@contextmanager
def ten_hosts() -> Iterator[tuple[list[str], str]]:
    """Base URLs of nine hosts and of one that takes requests and never answers."""
    with host(pictures(), "--addresses", "9") as base, host(pictures(), "--dead") as dead:
        yield [base.replace("127.0.0.1", f"127.0.0.{number}") for number in range(1, 10)], dead


def dead(rounds: int) -> tuple[list[tuple[object, ...]], dict[str, object]]:
    """Until the last picture of the nine, without and with the dead one."""
    with ten_hosts() as (alive, dead):

        def run(bases: list[str], scratch: Path) -> Measured:
            lists = [url_list(base, A_HOST, scratch).read_text().split() for base in bases]
            urls = scratch / "all.txt"
            urls.write_text("".join(f"{url}\n" for turn in zip(*lists, strict=True) for url in turn))
            return ours(urls, scratch)

        runs, _ = interleave(
            [Contender(ALIVE, partial(run, alive)), Contender(WITH_DEAD, partial(run, [*alive, dead]))], rounds
        )
    seconds = {title: statistics.median(one.result["last_picture_s"] for one in them) for title, them in runs.items()}
    whole = {title: statistics.median(one.result["fetch_s"] for one in them) for title, them in runs.items()}
    rows = [
        ("dead host", title, seconds[title], them[0].result["pictures"], f"{whole[title]:.1f} s to the end")
        for title, them in runs.items()
    ]
    return rows, {"dead_host_cost": round(seconds[WITH_DEAD] / seconds[ALIVE] - 1, 3)}


def memory(counts: tuple[int, int]) -> tuple[list[tuple[object, ...]], dict[str, object]]:
    """Peak of all processes together."""
    small = make_once(DATA / "small-100", [sys.executable, PARTS / "small_pictures.py", "100"])
    rows, peaks = [], []
    with host(small) as base:

        def run(count: int, scratch: Path) -> Measured:
            urls = scratch / "urls.txt"
            with urls.open("w") as file:
                file.writelines(f"{base}/{i % 100:05}.jpg?copy={i // 100}\n" for i in range(count))
            return ours(urls, scratch)

        for count in counts:
            measured = in_scratch(partial(run, count))
            peaks.append(round(measured.peak_sum_mb))
            says = f"{peaks[-1]} MB, {measured.cpu_s / count * 1e3:.2f} CPU ms each"
            rows.append(("memory", f"{count:,} URLs", measured.result["fetch_s"], measured.result["pictures"], says))
    return rows, {"peak_mb_few": peaks[0], "peak_mb_many": peaks[1]}


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=1)
    parts = [rough(given.rounds), limited()]
    if not given.quick:
        parts.append(dead(given.rounds))
    parts.append(memory((2_000, 20_000) if given.quick else (10_000, 1_000_000)))
    report(
        "Hosts as they are",
        ("", "", "s", "pictures", ""),
        [row for rows, _ in parts for row in rows],
        ["s: of the fetching alone, as each side says; dead host: until the last picture of the nine had come."],
        {"benchmark": "fetch_hosts"} | {name: value for _, figures in parts for name, value in figures.items()},
    )


if __name__ == "__main__":
    start(main)
