"""Near duplicates among a million pictures (--quick: 100 000): all pairs of 64-bit hashes at most 4 bits apart.

Random hashes, planted pairs that differ in 1 to 4 bits, and a tenth of all that are copies of ten placeholders. The
platform, whole: pairs with their kinds, groups and decisions of the pictures; and its search of pairs alone against the
same search as joins over five bands in DuckDB, and against comparing all with all in NumPy, of which 50 000 are
measured and the rest is reckoned (it grows with the square).
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from harness import (
    OURS,
    Contender,
    Measured,
    RunFailed,
    interleave,
    measure,
    median,
    options,
    ratio,
    report,
    start,
)

from gbif_platform.curation.near_duplicates import duplicate_media, duplicate_pairs, near_pairs

ROWS, QUICK_ROWS, NAIVE_ROWS = 1_000_000, 100_000, 50_000
BITS = 4
PLACEHOLDERS = 10
BLOCK = 500
SEARCH = f"{OURS}, pairs alone"
DUCKDB = f"DuckDB {version('duckdb')}, five joins"
NUMPY = f"NumPy {version('numpy')}, all with all"


def make(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, uint64 (rows,), shuffled; and the planted pairs of hashes, uint64 (rows / 100, 2)."""
    random = np.random.default_rng(17)
    planted, copies = rows // 100, rows // 10
    hashes = random.integers(0, 2**64, rows - copies, dtype=np.uint64)
    for number in range(planted):
        places = random.choice(64, number % BITS + 1, replace=False).astype(np.uint64)
        hashes[planted + number] = hashes[number] ^ np.bitwise_or.reduce(np.uint64(1) << places)
    pairs = np.sort(np.stack([hashes[:planted], hashes[planted : 2 * planted]], axis=1), axis=1)
    placeholders = np.repeat(random.integers(0, 2**64, PLACEHOLDERS, dtype=np.uint64), copies // PLACEHOLDERS)
    return random.permutation(np.concatenate([hashes, placeholders])), pairs


def whole(hashes: np.ndarray) -> np.ndarray:
    """The platform: pictures in, decisions out; returns the near pairs by their hashes."""
    names = pl.Series("url_id", [f"{number * 0x9E3779B97F4A7C15 % 2**64:032x}" for number in range(len(hashes))])
    pictures = pl.DataFrame({"url_id": names, "source_sha256": names, "sha256": names, "phash": hashes})
    media = pictures.select(
        "url_id", media_id="url_id", label=pl.lit("a"), sample_key=pl.int_range(pl.len(), dtype=pl.UInt64)
    )
    pairs = duplicate_pairs(pictures, BITS)
    duplicate_media(media, pairs, "keep_if_labels_agree")
    hash_of = pictures.select("url_id", "phash")
    near = pairs.filter(pl.col("distance") > 0).join(hash_of, on="url_id")
    return near.join(hash_of, left_on="other_url_id", right_on="url_id").select("phash", "phash_right").to_numpy()


def search(hashes: np.ndarray) -> np.ndarray:
    """The platform's search."""
    distinct = np.unique(hashes)
    pairs = near_pairs(distinct, BITS)
    return np.stack([distinct[pairs.first], distinct[pairs.second]], axis=1)


def joins(hashes: np.ndarray) -> np.ndarray:
    """One equal of five bands, as joins."""
    con = duckdb.connect()
    con.register("given", pl.DataFrame({"hash": hashes}).to_arrow())
    con.execute("CREATE TABLE hashes AS SELECT DISTINCT hash FROM given")
    edges = [64 * number // (BITS + 1) for number in range(BITS + 2)]
    found = " UNION ".join(
        f"SELECT one.hash AS one, two.hash AS two FROM hashes one JOIN hashes two "
        f"ON (one.hash >> {low}) & {2 ** (high - low) - 1} = (two.hash >> {low}) & {2 ** (high - low) - 1} "
        f"AND one.hash < two.hash AND bit_count(xor(one.hash, two.hash)) <= {BITS}"
        for low, high in pairwise(edges)
    )
    return con.sql(found).pl().to_numpy()


def all_with_all(hashes: np.ndarray) -> np.ndarray:
    """Every pair of the distinct hashes, a block of rows at a time."""
    distinct = np.unique(hashes)
    found = []
    for first in range(0, len(distinct), BLOCK):
        rows, others = distinct[first : first + BLOCK], distinct[first:]
        one, two = np.nonzero(np.bitwise_count(rows[:, None] ^ others) <= BITS)
        found.append(np.stack([rows[one], others[two]], axis=1)[one < two])
    return np.concatenate(found)


SIDES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    OURS: whole,
    SEARCH: search,
    DUCKDB: joins,
    NUMPY: all_with_all,
}


def one_side(title: str, file: Path) -> None:
    """In a child process: do the work and say how long it took and what was found."""
    with np.load(file) as data:
        hashes, planted = data["hashes"], data["planted"]
    began, used = time.monotonic(), time.process_time()
    pairs = SIDES[title](hashes)
    result = {"seconds": time.monotonic() - began, "cpu_s": time.process_time() - used, "pairs": len(pairs)}
    known = {(min(pair), max(pair)) for pair in map(tuple, pairs.tolist())}
    print(json.dumps(result | {"found": sum(tuple(pair) in known for pair in planted.tolist())}))


def side(title: str, file: Path, scratch: Path) -> Measured:
    """A measured run that found every planted pair.

    Raises:
        RunFailed: it did not.
    """
    run = measure([sys.executable, __file__, "--side", title, file], scratch)
    with np.load(file) as made:
        planted = len(made["planted"])
    if run.result.get("found") != planted:
        raise RunFailed(f"{title} found {run.result.get('found')} of {planted} planted pairs")
    return run


def inner(runs: list[Measured] | None, figure: str, times: float = 1.0) -> float | None:
    """Median of a figure that the child itself reports, without starting up."""
    values = [Measured(run.result[figure] * times, 0, 0, {}) for run in runs or []]
    return median(values, "wall_s")


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=3)
    rows = QUICK_ROWS if given.quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        files = {count: Path(folder) / f"{count}.npz" for count in {rows, NAIVE_ROWS}}
        for count, file in files.items():  # in a process of its own, so that this one stays small
            subprocess.run([sys.executable, __file__, "--make", str(count), str(file)], check=True)
        data = {title: files[NAIVE_ROWS if title == NUMPY else rows] for title in SIDES}
        contenders = [Contender(title, partial(side, title, data[title])) for title in SIDES]
        runs, troubles = interleave(contenders, given.rounds)
    times = {title: (rows / NAIVE_ROWS) ** 2 if title == NUMPY else 1.0 for title in SIDES}
    seconds = {title: inner(runs.get(title), "seconds", times[title]) for title in SIDES}
    cpu = {title: inner(runs.get(title), "cpu_s", times[title]) for title in SIDES}
    peak = {title: median(runs.get(title), "peak_mb") for title in SIDES}
    table = [
        (title, seconds[title], cpu[title], peak[title], troubles.get(title, "reckoned" if title == NUMPY else ""))
        for title in SIDES
    ]
    figures = {
        "benchmark": "duplicates",
        "troubles": troubles,
        "pictures": rows,
        "rounds": given.rounds,
        "seconds": ratio(seconds[OURS], 1),
        "peak_mb": ratio(peak[OURS], 1),
        "found": runs[OURS][0].result["found"],
        "seconds_search": ratio(seconds[SEARCH], 1),
        "cpu_s_search": ratio(cpu[SEARCH], 1),
        "cpu_ratio_duckdb": ratio(cpu[DUCKDB], cpu[SEARCH]),
        "cpu_ratio_numpy": ratio(cpu[NUMPY], cpu[SEARCH]),
    }
    report(
        f"near duplicates among {rows:,} pictures, {BITS} bits; medians of {given.rounds}",
        ("", "s", "CPU s", "peak MB", ""),
        table,
        [
            f"Seconds without starting up; memory with. Pairs found: {runs[SEARCH][0].result['pairs']:,}.",
            f"{NUMPY}: {NAIVE_ROWS:,} hashes measured, times {times[NUMPY]:g}.",
        ],
        figures,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        hashes, planted = make(int(sys.argv[2]))
        np.savez(sys.argv[3], hashes=hashes, planted=planted)
    elif sys.argv[1:2] == ["--side"]:
        one_side(sys.argv[2], Path(sys.argv[3]))
    else:
        start(main)
