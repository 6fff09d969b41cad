"""Reading a whole Darwin Core Archive, against gbif-dl's generator and python-dwca-reader's row loop.

Archive: GBIF's layout of 2024, 1 000 000 occurrences x 223 columns, 1 500 000 media rows and the verbatim member
(--quick: a tenth). The platform keeps every column of every occurrence and every media row, cleaned, as Parquet; the
peers only hand out Python objects, and nothing is kept of them. All three must see the same rows.
"""

import functools
import sys
from pathlib import Path

from harness import (
    DATA,
    OURS,
    PARTS,
    Command,
    Contender,
    Measured,
    Peer,
    RunFailed,
    in_scratch,
    interleave,
    make_once,
    measure,
    median,
    options,
    ratio,
    report,
    start,
)

GBIF_DL = Peer("gbif-dl", "0.1.1")
DWCA_READER = Peer("python-dwca-reader", "0.17.1")
ROWS, QUICK_ROWS = 1_000_000, 100_000


def archive_of(rows: int) -> Path:
    """The generated archive with so many occurrences."""
    maker: Command = [sys.executable, PARTS / "archive_data.py", str(rows)]
    return make_once(DATA / f"archive-{rows}", maker) / "archive.zip"


def ours(archive: Path, rows: int, scratch: Path) -> Measured:
    """Occurrences and media rows as Parquet."""
    return checked(measure([sys.executable, PARTS / "archive_ours.py", archive, scratch], scratch), rows)


def peers(peer: Peer, part: str, archive: Path, rows: int, scratch: Path) -> Measured:
    """A peer's loop over all rows."""
    return checked(measure([peer.program("python"), PARTS / part, archive], scratch), rows)


def checked(measured: Measured, rows: int) -> Measured:
    """A run that saw every row.

    Raises:
        RunFailed: it did not.
    """
    wanted = {"occurrences": rows, "media": rows + rows // 2, "refused": 0}
    wrong = {key: value for key, value in measured.result.items() if wanted.get(key, value) != value}
    if wrong or "media" not in measured.result:
        raise RunFailed(f"saw {measured.result}, not {wanted}")
    return measured


def rounded(figure: float | None) -> float | None:
    """A figure with two decimals."""
    return None if figure is None else round(figure, 2)


def main() -> None:
    given = options((__doc__ or "").strip(), rounds=2)
    rows = QUICK_ROWS if given.quick else ROWS
    archive, double = archive_of(rows), archive_of(2 * rows)
    contenders = [
        Contender(OURS, functools.partial(ours, archive, rows)),
        Contender(GBIF_DL.title, functools.partial(peers, GBIF_DL, "archive_gbif_dl.py", archive, rows)),
        Contender(DWCA_READER.title, functools.partial(peers, DWCA_READER, "archive_dwca_reader.py", archive, rows)),
    ]
    runs, troubles = interleave(contenders, given.rounds)
    doubled = in_scratch(functools.partial(ours, double, 2 * rows))

    cpu = {contender.title: median(runs.get(contender.title), "cpu_s") for contender in contenders}
    peak = {contender.title: median(runs.get(contender.title), "peak_mb") for contender in contenders}
    table = [
        (
            title,
            median(runs.get(title), "wall_s"),
            cpu[title],
            ratio(cpu[title], cpu[OURS]),
            peak[title],
            troubles.get(title, f"{rows * 3 // 2:,} media"),
        )
        for title in cpu
    ]
    table.append(
        (f"{OURS}, twice the rows", doubled.wall_s, doubled.cpu_s, None, doubled.peak_mb, f"{rows * 3:,} media")
    )
    figures = {
        "benchmark": "archive",
        "troubles": troubles,
        "occurrences": rows,
        "rounds": given.rounds,
        "cpu_ratio_gbif_dl": ratio(cpu[GBIF_DL.title], cpu[OURS]),
        "cpu_ratio_dwca_reader": ratio(cpu[DWCA_READER.title], cpu[OURS]),
        "peak_mb": rounded(peak[OURS]),
        "peak_mb_double": rounded(doubled.peak_mb),
        "cpu_s": rounded(cpu[OURS]),
        "cpu_s_double": rounded(doubled.cpu_s),
        "cpu_s_gbif_dl": rounded(cpu[GBIF_DL.title]),
        "cpu_s_dwca_reader": rounded(cpu[DWCA_READER.title]),
    }
    report(
        f"{rows:,} occurrences x 223 columns, {rows * 3 // 2:,} media rows, from the zip; medians of {given.rounds}",
        ("", "wall s", "CPU s", "CPU ratio", "peak MB", "result"),
        table,
        [f"{OURS} keeps all columns as Parquet; the peers keep nothing. Unpacking and start-up are counted for all."],
        figures,
    )


if __name__ == "__main__":
    start(main)
