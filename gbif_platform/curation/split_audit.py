"""The audit of a split: what subsets share, key by key, and what holds a group together."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import polars as pl

from gbif_platform.curation.groups import Media, key_values, present_keys
from gbif_platform.curation.spec import Split
from gbif_platform.curation.splits import Assignment

AUDIT = {
    "key": pl.String,
    "asked": pl.Boolean,
    "subset": pl.String,
    "other_subset": pl.String,
    "shared": pl.Int64,
}


def audit(media: Media, split: Split, found: Assignment) -> pl.DataFrame:
    """How many values of each key two subsets share: none of a key that was asked for, in a sound split.

    Returns:
        `key`, `asked`, `subset`, `other_subset`, `shared`, for every key that the media have and every pair of subsets;
        key `group` counts group ids, and keys `holdout` and `rare` the pictures of `subset` that belong in
        `other_subset`. Of a hold-out that no picture belongs in there is a row with itself and 0.
    """
    con = media.con
    names = pl.DataFrame({"subset": split.names, "number": range(len(split.names))})
    rows = found.rows.join(names, on="subset")  # noqa: F841  read by name
    con.execute(
        "CREATE OR REPLACE TEMP TABLE split_sides AS SELECT m.row, number::INTEGER AS number, group_id "
        f"FROM rows JOIN {media.table} m USING (media_id)"
    )
    queries = {"group": "SELECT row, group_id AS value FROM split_sides"}
    keys = {"group": True} | present_keys(media.columns, split.group_by)
    queries |= {key: key_values(media, key) for key in keys if key != "group"}
    lines: list[tuple[str, bool, str, str, int]] = []
    for key, query in queries.items():
        shared = _shared(media, query, len(split.names))
        lines += [
            (key, keys[key], split.names[one], split.names[other], shared[one, other])
            for one, other in combinations(range(len(split.names)), 2)
        ]
    lines += [(rule, False, subset, place, count) for rule, subset, place, count in found.astray.iter_rows()]
    lines += [("holdout", False, name, name, 0) for name in found.void]
    return pl.DataFrame(lines, schema=AUDIT, orient="row")


def most_shared(media: Media, keys: Sequence[str]) -> str:
    """What most of the media share, in words: the commonest value of any of the keys; empty where nothing is shared."""
    best, says = 1, ""
    for key in keys:
        row = media.con.sql(
            f"SELECT value, count(DISTINCT row) AS media FROM ({key_values(media, key)}) "
            "GROUP BY value ORDER BY media DESC, value LIMIT 1"
        ).fetchone()
        if row and row[1] > best:
            best, says = row[1], f"{row[1]:,} of them share {key} {row[0].replace(chr(31), ', ')!r}"
    return says


def _shared(media: Media, query: str, subsets: int) -> Counter[tuple[int, int]]:
    """Values with media in two subsets, by the numbers of the two."""
    # a bit for each subset, as lists of names are slow to collect
    found = media.con.sql(f"""
        SELECT subsets::VARCHAR, count(*) FROM (
            SELECT bitstring_agg(number, 0, {subsets - 1}) AS subsets FROM ({query}) JOIN split_sides USING (row)
            GROUP BY value HAVING min(number) <> max(number)
        ) GROUP BY subsets""").fetchall()
    counts: Counter[tuple[int, int]] = Counter()
    for bits, count in found:
        for pair in combinations([number for number, bit in enumerate(bits) if bit == "1"], 2):
            counts[pair] += count
    return counts
