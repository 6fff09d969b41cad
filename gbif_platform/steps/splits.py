"""Step `splits`: which side of the evaluation every picture is on."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation import splits as curation
from gbif_platform.curation.filters import column_types, literal, term_column
from gbif_platform.curation.groups import OCCURRENCE_COLUMNS, OWN_COLUMNS, SETTING, numbered
from gbif_platform.curation.spec import KEYS
from gbif_platform.curation.split_audit import audit, most_shared
from gbif_platform.part import stated
from gbif_platform.plots import subset_balance
from gbif_platform.settings import fingerprint
from gbif_platform.steps.credit import credit_report
from gbif_platform.steps.run import Check, Report, Run
from gbif_platform.storage.tables import Outcome

NAME = "splits"
SHOWN_MOVES = 100
LARGE = 0.1
"""Share of the pictures from which on one group is remarked upon."""


def splits(run: Run) -> Report:
    """Assign every picture that arrived, has a label, is large enough and no duplicate too many, to a subset.

    Raises:
        PlatformError: the source lacks a term that group keys or hold-outs name.
    """
    spec = run.dataset
    version = fingerprint(
        NAME,
        curation.VERSION,
        run.version_of("downloaded_images"),
        run.version_of("duplicate_images"),
        stated(spec.split),
        spec.filters.min_side,
    )

    def make(con: duckdb.DuckDBPyConnection, work: Path) -> Outcome:
        judged = _judged(run, con)
        refused = con.sql(
            "SELECT media_id AS row_ref, reason, detail FROM judged WHERE reason IS NOT NULL ORDER BY media_id"
        ).pl()
        media = numbered(con, judged.filter("reason IS NULL").project("* EXCLUDE (reason, detail)"))
        found = curation.assign_subsets(media, spec.split, _previous(run, con))
        rows = {
            "splits": found.rows.with_columns(rule=pl.lit(rule(run))),
            "split_report": found.report,
            "split_audit": audit(media, spec.split, found),
            "split_moves": found.moves,
        }
        return Outcome(rows, media.size + len(refused), media.size, refused=refused)

    written = run.compute(NAME, version, make)
    report = run.account(NAME)
    report.written = written
    report.columns = run.columns("splits")
    _describe(run, report)
    return report


def rule(run: Run) -> str:
    """Fingerprint of what decides about subsets; what was assigned under another rule does not count any more."""
    return fingerprint("rule", stated(run.dataset.split), run.dataset.label)


def expected_subsets(run: Run, con: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Where the sampled media would be, by what is known before any picture arrives: no bytes, pixels or sizes.

    Returns:
        `media_id`, `subset`, `nested` of each sampled medium that has a label.

    Raises:
        PlatformError: as `splits`.
    """
    samples = run.rows(con, "balanced_samples", "media_id, url_id, label")  # noqa: F841  read by name
    sources = run.rows(con, "media_urls", "media_id, gbif_id")  # noqa: F841
    unknown = ", ".join(f"NULL::VARCHAR AS {name}" for name in ("source_sha256", "sha256", "near_duplicate"))
    sampled = con.sql(
        f"SELECT media_id, url_id, label, gbif_id, {unknown} FROM samples JOIN sources USING (media_id) "
        "WHERE label IS NOT NULL"
    )
    media = numbered(con, _with_occurrences(run, con, sampled))
    found = curation.assign_subsets(media, run.dataset.split, _previous(run, con, own=False))
    return found.rows.select("media_id", "subset", "nested")


def _judged(run: Run, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """The pictures that arrived, as `Media` has them, with the `reason` and `detail` of those that are refused."""
    pictures = run.pictures(con)  # noqa: F841  read by name
    duplicates = run.rows(con, "duplicate_images", "media_id, group_id, kind, labels_agree, decision")  # noqa: F841
    filters = run.dataset.filters
    agree = "labels_agree" if filters.duplicate_images == "keep_if_labels_agree" else "true"
    arrived = con.sql(  # noqa: F841  read by name
        "SELECT media_id, url_id, label, gbif_id, source_sha256, sha256, group_id AS near_duplicate, "
        "least(source_width, source_height) AS side, kind, labels_agree, decision "
        "FROM pictures LEFT JOIN duplicates USING (media_id) WHERE status = 'ok'"
    )
    judged = con.sql(f"""
        SELECT * EXCLUDE (side, kind, labels_agree, decision),
               CASE WHEN label IS NULL THEN 'no_label'
                    WHEN side < {filters.min_side} THEN 'below_min_side'
                    WHEN decision = 'left out' AND NOT {agree} THEN 'label_conflict'
                    WHEN decision = 'left out' THEN 'duplicate_image' END AS reason,
               CASE reason WHEN 'no_label' THEN '' WHEN 'below_min_side' THEN side || ' px at the smaller side'
                           ELSE 'group ' || near_duplicate || ', ' || kind END AS detail
        FROM arrived""")
    return _with_occurrences(run, con, judged)


def _with_occurrences(
    run: Run,
    con: duckdb.DuckDBPyConnection,
    pictures: duckdb.DuckDBPyRelation,
) -> duckdb.DuckDBPyRelation:
    """The pictures with those columns of their occurrences that the split needs, and that say anything."""
    occurrences = run.rows(con, "occurrences")
    columns = column_types(occurrences)
    split = run.dataset.split
    asked = [term_column(columns, key, SETTING) for key in split.group_by if key not in KEYS]
    for name, terms in split.holdout.items():
        asked += [term_column(columns, term, f"split.holdout.{name}.{term}") for term in terms]
    wanted = [name for name in dict.fromkeys([*OCCURRENCE_COLUMNS, *asked]) if name in columns]
    wanted = [name for name in wanted if name not in OWN_COLUMNS]
    counts = occurrences.aggregate(", ".join(f'count("{name}")' for name in wanted)).fetchone() or ()
    filled = [f'o."{name}"' for name, count in zip(wanted, counts, strict=True) if count]
    return con.sql(f"SELECT {', '.join(['p.*', *filled])} FROM pictures p JOIN occurrences o USING (gbif_id)")


def _previous(run: Run, con: duckdb.DuckDBPyConnection, *, own: bool = True) -> pl.DataFrame:
    """Where media were in earlier snapshots, under the same rule: the latest counts.

    Args:
        own: media that no earlier snapshot has stay where this snapshot's own rows have them, so that pictures that
            arrive late move none.
    """
    return con.execute(
        f"""
        WITH known AS (
            SELECT snapshot, added_at, snapshot = $snapshot AS own FROM lake.snapshots
            WHERE dataset = $dataset AND (added_at <
                (SELECT added_at FROM lake.snapshots WHERE dataset = $dataset AND snapshot = $snapshot)
                OR ({literal(own)} AND snapshot = $snapshot)))
        SELECT media_id, subset, group_id, nested, label
        FROM (SELECT * FROM lake.splits WHERE dataset = $dataset AND rule = $rule) JOIN known USING (snapshot)
        LEFT JOIN (SELECT snapshot, media_id, label FROM lake.balanced_samples WHERE dataset = $dataset)
        USING (snapshot, media_id)
        QUALIFY row_number() OVER (PARTITION BY media_id ORDER BY own, added_at DESC, snapshot) = 1""",
        {"dataset": run.dataset.name, "snapshot": run.snapshot, "rule": rule(run)},
    ).pl()


def _describe(run: Run, report: Report) -> None:
    credit = credit_report(run)
    report.numbers |= credit.numbers
    report.texts |= credit.texts
    report.tables |= credit.tables
    split = run.dataset.split
    sizes = _sizes(run)
    report.numbers |= {f"rows_{name}": sizes.get(name, 0) for name in [*split.names, *split.nested]}
    _describe_labels(run, report)
    void = _describe_audit(run, report)
    _describe_groups(run, report)
    _describe_moves(run, report)
    empty = [name for name in [*split.names, *split.nested] if not sizes.get(name)]
    says = f"empty: {', '.join(empty) or 'none'}"
    if void:
        says += f"; no picture has the terms of split.holdout.{', split.holdout.'.join(void)}"
    report.checks.append(Check("no_empty_subset", not empty and not void, says, only_warn=True))


def _sizes(run: Run) -> dict[str, int]:
    """Pictures of each subset, and of each nested one."""
    with run.reader() as con:
        rows = run.rows(con, NAME, "subset, nested")  # noqa: F841  read by name
        found = con.sql("""
            SELECT name, count(*) FROM (SELECT unnest([subset] || coalesce(nested, [])) AS name FROM rows)
            GROUP BY name""").fetchall()
    return dict(found)


def _describe_labels(run: Run, report: Report) -> None:
    """Pictures by label and subset, and the labels about which there is something to say."""
    names = run.dataset.split.names
    with run.reader() as con:
        rows = run.rows(con, "split_report", "label, subset, media, groups, wanted, reason").pl()
    table = labels_by_subset(rows, names)
    report.tables["labels_by_subset"] = table
    report.tables["split_report"] = rows.filter(pl.col("reason") != "").sort("label", "subset")
    report.pictures["labels_by_subset"] = balance(table)
    short = rows.filter(pl.col("media") < pl.col("wanted"))
    report.numbers["labels_train_only"] = rows.filter(pl.col("reason").str.starts_with("train only")).height
    report.numbers["labels_below_floor"] = short["label"].n_unique()


def labels_by_subset(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """One row a label, with its pictures in each subset, from rows `label`, `subset`, `media`."""
    table = rows.pivot("subset", index="label", values="media", aggregate_function="sum")
    table = table.with_columns(pl.lit(0, pl.Int64).alias(name) for name in names if name not in table.columns)
    return table.select("label", *names).fill_null(0).sort(names[0], "label", descending=[True, False])


def balance(table: pl.DataFrame) -> bytes:
    """The picture of `labels_by_subset`."""
    series = {name: table[name].to_list() for name in table.columns[1:]}
    return subset_balance(table["label"].to_list(), series)


def _describe_audit(run: Run, report: Report) -> list[str]:
    """What subsets share; returns the hold-outs that no picture has the terms of."""
    with run.reader() as con:
        rows = run.rows(con, "split_audit", "key, asked, subset, other_subset, shared").pl()
    report.tables["split_audit"] = rows.sort("asked", "shared", descending=True, maintain_order=True)
    asked = rows.filter("asked").group_by("key", maintain_order=True).agg(pl.col("shared").sum())
    says = ", ".join(f"{count} {key}" for key, count in asked.iter_rows())
    report.checks.append(Check("no_leakage", not asked["shared"].sum(), f"in more than one subset: {says}"))
    astray = rows.filter(pl.col("key").is_in(["holdout", "rare"]))["shared"].sum()
    says = f"{astray} pictures stay where their group was before its hold-out or rare label was known"
    report.checks.append(Check("holdouts_pure", not astray, says, only_warn=True))
    return rows.filter(pl.col("subset") == pl.col("other_subset"))["subset"].to_list()


def _describe_groups(run: Run, report: Report) -> None:
    """How many groups there are, and what makes the largest one large."""
    with run.reader() as con:
        rows = run.rows(con, NAME, "media_id, group_id")
        sizes = rows.aggregate("group_id, count(*) AS media", "group_id").order("media DESC, group_id")
        largest = sizes.fetchone()
        groups, media = sizes.aggregate("count(*), coalesce(sum(media), 0)").fetchone() or (0, 0)
        size, says = largest[1] if largest else 0, ""
        if large := largest is not None and size > max(1, LARGE * media):
            members = rows.filter(f"group_id = {literal(largest[0])}")  # noqa: F841  read by name
            pictures = _judged(run, con)  # noqa: F841
            says = most_shared(
                numbered(con, con.sql("FROM pictures SEMI JOIN members USING (media_id)")), run.dataset.split.group_by
            )
    report.numbers |= {"groups": groups, "largest_group": size}
    says = f"the largest of {groups:,} groups holds {size:,} of {media:,} pictures" + (f"; {says}" if says else "")
    report.checks.append(Check("groups_small", not large, says, only_warn=True))


def _describe_moves(run: Run, report: Report) -> None:
    with run.reader() as con:
        moves = run.rows(con, "split_moves", "media_id, label, group_id, previous_subset, subset, reason").pl()
    report.numbers["rows_moved"] = len(moves)
    if len(moves):
        report.tables["split_moves"] = moves.sort("media_id").head(SHOWN_MOVES)
