"""What keeps the lake quick: small files merged, deleted rows written out, and files that nobody needs removed.

Old versions stay readable: no snapshot is expired.
"""

from datetime import timedelta

from gbif_platform.storage.lake import Lake

FILE_AGE = timedelta(days=7)
"""Younger files may belong to a reader that is still open, or to a transaction that has not ended."""


def merge_files(lake: Lake, author: str) -> dict[str, int]:
    """Merge what many commits have scattered; returns files read and files written."""
    done = []
    # In a transaction each: a file that one has written is not yet there for the next.
    for call in ("flush_inlined_data", "merge_adjacent_files", "rewrite_data_files"):
        with lake.transaction(author, f"merge small files: {call}") as con:
            done.append(con.execute(f"CALL ducklake_{call}('lake')").pl())
    _, *merged = done
    return {
        "files_read": sum(int(frame["files_processed"].sum()) for frame in merged),
        "files_written": sum(int(frame["files_created"].sum()) for frame in merged),
    }


def delete_files(lake: Lake, author: str, *, dry_run: bool = False) -> int:
    """Remove files that merging replaced, or a killed process left, more than `FILE_AGE` ago; returns how many."""
    options = f"older_than => now() - INTERVAL {FILE_AGE.days} DAY, dry_run => {str(dry_run).lower()}"
    with lake.transaction(author, "remove files that nobody needs") as con:
        calls = ("ducklake_cleanup_old_files", "ducklake_delete_orphaned_files")
        return sum(len(con.execute(f"CALL {call}('lake', {options})").fetchall()) for call in calls)
