"""Splits without leakage: media that belong together stay together, and no picture changes sides while data grow.

Numbers and hashes decide, never the order of rows: the same media give the same subsets on any machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl

from gbif_platform.curation.filters import matches_sql
from gbif_platform.curation.floors import Contents, Filled, Ints, fill_floors
from gbif_platform.curation.groups import Media, components, key_values
from gbif_platform.curation.spec import Split
from gbif_platform.curation.urls import define_macros

VERSION = "2"
PREVIOUS: dict[str, pl.DataType | type[pl.DataType]] = {
    "media_id": pl.String,
    "subset": pl.String,
    "group_id": pl.String,
    "nested": pl.List(pl.String),
    "label": pl.String,
}
"""Columns of what earlier snapshots say; `label` is the one that the medium had then."""


@dataclass(frozen=True)
class Assignment:
    """Where every medium is, and why.

    Attributes:
        rows: `media_id`, `subset`, `group_id`, `nested`, by media_id.
        report: `label`, `subset`, `media`, `groups`, `wanted` (the floor, null where there is none), `reason`; a row
            for each label and subset.
        moves: `media_id`, `label`, `group_id`, `previous_subset`, `subset`, `reason` of pictures that moved.
        astray: `rule` (holdout, rare), `subset`, `belongs_in`, `media`: pictures that stay where their group was before
            new data made them part of a hold-out or of a rare label.
        void: the hold-outs that no picture has the terms of.
    """

    rows: pl.DataFrame
    report: pl.DataFrame
    moves: pl.DataFrame
    astray: pl.DataFrame
    void: list[str]


def assign_subsets(media: Media, split: Split, previous: pl.DataFrame | None = None) -> Assignment:
    """Assign each group of media to one subset.

    What decides about a group, in this order: where its members were in earlier snapshots; a rare label; a hold-out;
    the place of its hash, key64(identity(seed, group id)) / 2^64, among the subsets' shares. Then floors move groups.

    A group is named after its smallest occurrence, where occurrences stay together, else after its smallest medium; it
    keeps the name while data grow. Groups that merge become one. Their subset is the one that stands last in the file,
    and train only where none of them was elsewhere: a model is never trained on what earlier results were measured on,
    and to lose some training pictures costs little. An earlier model may have learnt from pictures that come out of
    train so; they are in `moves`, like all that moved.

    Args:
        previous: columns PREVIOUS of earlier snapshots under the same rule; media that are gone as well.

    Raises:
        UnknownTerm, PlatformError: group keys or hold-outs name a term that the source lacks.
    """
    previous = pl.DataFrame(schema=PREVIOUS) if previous is None else previous.select(*PREVIOUS)
    members = _members(media, split, previous)
    rare = _rare_labels(members, previous, split)
    groups = _groups(media.con, members, split, rare)
    labels = members["label"].unique().sort()
    contents = _contents(members, groups, labels)
    filled = _with_floors(groups, contents, split)
    groups = groups.with_columns(subset=_named(filled.subset, split.names))
    groups = groups.with_columns(nested=_nested(media.con, groups, split))
    placed = members.join(groups.select("component", "group_id", "subset", "nested"), on="component").sort("media_id")
    return Assignment(
        placed.select("media_id", "subset", "group_id", "nested"),
        _report(contents, filled, labels, split, rare),
        _moves(placed),
        _astray(placed, split, rare),
        [name for place, name in enumerate(split.holdout) if place not in members["holdout"]],
    )


def _members(media: Media, split: Split, previous: pl.DataFrame) -> pl.DataFrame:
    """The media with the number of their component, what they were before, and the number of their hold-out.

    A group of an earlier snapshot stays one, also where what tied it together is gone; and a medium whose own name a
    group bears belongs to it: names stay distinct so.
    """
    con = media.con
    define_macros(con)
    con.execute("CREATE OR REPLACE TEMP TABLE earlier_splits AS SELECT * FROM previous")
    held_out = " ".join(
        f"WHEN {_matches(media, name, terms)} THEN {place}" for place, (name, terms) in enumerate(split.holdout.items())
    )
    named = f"(SELECT row, identity(value) AS name FROM ({key_values(media, 'occurrence')}))"
    name = "coalesce(name, media_id)" if "occurrence" in split.group_by else "media_id"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE split_members AS
        SELECT row, media_id, m.label, {name} AS name, e.subset AS earlier_subset, e.group_id AS earlier_group,
               e.nested AS earlier_nested, {f"CASE {held_out} END" if held_out else "NULL"}::INTEGER AS holdout
        FROM {media.table} m LEFT JOIN {named} USING (row) LEFT JOIN earlier_splits e USING (media_id)""")
    values = [key_values(media, key) for key in split.group_by]
    values.append(
        "SELECT row, name AS value FROM split_members UNION ALL "
        "SELECT row, earlier_group FROM split_members WHERE earlier_group IS NOT NULL"
    )
    members = con.sql("FROM split_members ORDER BY row").pl()
    return members.with_columns(component=pl.Series(components(media, values), dtype=pl.Int32))


def _matches(media: Media, name: str, terms: Mapping[str, object]) -> str:
    """SQL: a medium (alias m) has all the terms of a hold-out."""
    setting = f"split.holdout.{name}"
    return " AND ".join(
        matches_sql(media.terms, term, wanted, "m", f"{setting}.{term}")  # type: ignore[arg-type]
        for term, wanted in terms.items()
    )


def _rare_labels(members: pl.DataFrame, previous: pl.DataFrame, split: Split) -> dict[str, str]:
    """The labels that are held out as rare, with the reason.

    A label that is known stays what it was, by the side that most of its earlier pictures were on.
    """
    if split.rare is None:
        return {}
    name, below = split.rare.subset, split.rare.below
    earlier = dict(
        previous.drop_nulls("label").group_by("label").agg((pl.col("subset") == name).mean() >= 0.5).iter_rows()
    )
    counts = members.group_by("label").len().sort("label")
    return {
        label: f"rare: {count} pictures, fewer than {below}"
        if count < below
        else f"rare since an earlier snapshot: {count} pictures"
        for label, count in counts.iter_rows()
        if earlier.get(label, count < below)
    }


def _groups(
    con: duckdb.DuckDBPyConnection, members: pl.DataFrame, split: Split, rare: Mapping[str, str]
) -> pl.DataFrame:
    """The groups in the order of their hashes: `component`, `group_id`, `number` of the subset, `free`.

    Floors may move what is free: new, and neither rare nor held out.
    """
    numbers = {name: number for number, name in enumerate(split.names)}
    before = (
        members.filter(pl.col("earlier_subset").is_not_null())
        .select(
            "component", "earlier_group", kept=pl.col("earlier_subset").replace_strict(numbers, return_dtype=pl.Int64)
        )
        .sort(pl.col("kept") == numbers["train"], -pl.col("kept"), "earlier_group")
        .unique("component", keep="first", maintain_order=True)
    )
    groups = (
        members.group_by("component")
        .agg(
            pl.col("name").min(),
            pl.col("holdout").min(),
            rare=pl.col("label").is_in(list(rare)).any(),
        )
        .join(before, on="component", how="left")
        .with_columns(group_id=pl.coalesce("earlier_group", "name"))
    )
    groups = groups.with_columns(share=_shares(con, groups["group_id"], str(split.seed)))
    bounds = np.cumsum(list(split.shares.values()))[:-1]
    drawn = np.searchsorted(bounds, groups["share"].to_numpy(), side="right")
    held_out = [numbers[name] for name in split.holdout]
    return (
        groups.with_columns(
            number=pl.coalesce(
                "kept",
                pl.when("rare").then(numbers[split.rare.subset] if split.rare else None),
                pl.col("holdout").replace_strict(dict(enumerate(held_out)), default=None).cast(pl.Int64),
                pl.Series(drawn, dtype=pl.Int64),  # the shares stand first among the names
            ),
            free=pl.col("kept").is_null() & ~pl.col("rare") & pl.col("holdout").is_null(),
        )
        .sort("share", "group_id")
        .select("component", "group_id", "number", "free")
    )


def _shares(con: duckdb.DuckDBPyConnection, group_ids: pl.Series, *salt: str) -> pl.Series:
    """For each group a number in [0, 1) from the hash of salt and id."""
    ids = pl.DataFrame({"place": np.arange(len(group_ids)), "id": group_ids})  # noqa: F841  read by name
    keys = con.execute(
        "SELECT key64(identity(? || id)) AS key FROM ids ORDER BY place", ["".join(f"{word}\x1f" for word in salt)]
    ).pl()["key"]
    return pl.Series(keys.to_numpy() / 2.0**64, dtype=pl.Float64)


def _contents(members: pl.DataFrame, groups: pl.DataFrame, labels: pl.Series) -> Contents:
    """Pictures of each label in each group; groups by their place in `groups`, labels by theirs in `labels`."""
    counts = (
        members.group_by("component", "label")
        .len()
        .join(groups.with_row_index("group").select("component", "group"), on="component")
        .join(pl.DataFrame({"label": labels}).with_row_index("label_number"), on="label")
        .sort("group", "label_number")
    )
    group, label, pictures = (counts[name].cast(pl.Int64).to_numpy() for name in ("group", "label_number", "len"))
    return Contents(group, label, pictures, len(groups), len(labels))


def _with_floors(groups: pl.DataFrame, contents: Contents, split: Split) -> Filled:
    subset = groups["number"].to_numpy()
    if not split.min_per_label:
        return Filled(subset, frozenset())
    names = split.names
    wanted = {names.index(name): floor for name, floor in split.min_per_label.items()}
    return fill_floors(contents, subset, groups["free"].to_numpy(), wanted, names.index("train"), len(names))


def _named(numbers: Ints, names: list[str]) -> pl.Series:
    return pl.Series(numbers, dtype=pl.Int64).replace_strict(dict(enumerate(names)), return_dtype=pl.String)


def _nested(con: duckdb.DuckDBPyConnection, groups: pl.DataFrame, split: Split) -> pl.Series:
    """Names of the nested subsets that each group is in, in the order of the file.

    The hash is salted with the outer subset's name: the smaller of two parts of one subset lies in the larger.
    """
    inside = {name: (groups["subset"] == name).to_numpy() for name in split.names}
    for name in split.outside_in:
        part = split.nested[name]
        share = _shares(con, groups["group_id"], str(split.seed), "nested", part.of).to_numpy()
        inside[name] = inside[part.of] & (share < part.fraction)
    if not split.nested:
        return pl.Series([[]] * len(groups), dtype=pl.List(pl.String))
    named = (pl.when(pl.lit(pl.Series(inside[name]))).then(pl.lit(name)) for name in split.nested)
    return groups.select(pl.concat_list(*named).list.drop_nulls())["literal"]


def _report(
    contents: Contents, filled: Filled, labels: pl.Series, split: Split, rare: Mapping[str, str]
) -> pl.DataFrame:
    names = split.names
    pictures, groups = contents.in_subsets(filled.subset, len(names))
    rows = []
    for number, label in enumerate(labels):
        for place, name in enumerate(names):
            wanted = None if label in rare else split.min_per_label.get(name)
            if split.rare and name == split.rare.subset:
                reason = rare.get(label, "")
            elif label in rare:
                reason = ""
            else:
                reason = _why(name, pictures[number], groups[number], place, wanted, number in filled.train_only)
            rows.append((label, name, int(pictures[number, place]), int(groups[number, place]), wanted, reason))
    schema = {
        "label": pl.String,
        "subset": pl.String,
        "media": pl.Int64,
        "groups": pl.Int64,
        "wanted": pl.Int64,
        "reason": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _why(name: str, pictures: Ints, groups: Ints, place: int, wanted: int | None, too_small: bool) -> str:
    """Why a label that is not rare has what it has in a subset; empty where there is nothing to explain."""
    count, total = int(pictures[place]), int(pictures.sum())
    if name == "train" and too_small:
        only = count == total
        return (
            f"train only: {total} pictures in {groups.sum()} groups" if only else "too small: its new groups are here"
        )
    if name == "train" and not count:
        return f"none in train: {total} pictures in {groups.sum()} groups"
    if wanted is not None and count < wanted:
        return f"{count} of {wanted}: " + ("train only" if too_small else "no more groups could be moved")
    return ""


def _moves(placed: pl.DataFrame) -> pl.DataFrame:
    """Pictures that were elsewhere before; of a nested subset as well."""
    was, now = (pl.col(name).list.join(" ").fill_null("") for name in ("earlier_nested", "nested"))
    return placed.filter(
        pl.col("earlier_subset").is_not_null() & ((pl.col("earlier_subset") != pl.col("subset")) | (was != now))
    ).select(
        "media_id",
        "label",
        "group_id",
        pl.col("earlier_subset").alias("previous_subset"),
        "subset",
        reason=pl.when(was == now)
        .then(pl.lit("groups merged"))
        .otherwise(
            pl.format(
                "groups merged; nested subsets: {}, before: {}",
                *(pl.when(names == "").then(pl.lit("none")).otherwise(names) for names in (now, was)),
            )
        ),
    )


def _astray(placed: pl.DataFrame, split: Split, rare: Mapping[str, str]) -> pl.DataFrame:
    held_out = dict(enumerate(split.holdout))
    drawn = [name for name in split.shares if name not in split.holdout]
    by_terms = placed.filter(pl.col("holdout").is_not_null() & pl.col("subset").is_in(drawn)).select(
        pl.lit("holdout").alias("rule"),
        "subset",
        pl.col("holdout").replace_strict(held_out, default=None).cast(pl.String).alias("belongs_in"),
    )
    place = split.rare.subset if split.rare else ""
    by_label = placed.filter(pl.col("label").is_in(list(rare)) & (pl.col("subset") != place)).select(
        pl.lit("rare").alias("rule"), "subset", pl.lit(place).alias("belongs_in")
    )
    counts = pl.concat([by_terms, by_label]).group_by("rule", "subset", "belongs_in").agg(pl.len().alias("media"))
    return counts.cast({"media": pl.Int64}).sort("rule", "subset", "belongs_in")
