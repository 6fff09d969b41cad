"""One picture under several occurrences: a herbarium sheet with many specimens, a repost in another dataset.

Which of its media a dataset takes is the policy `filters.duplicates`; where the occurrences disagree on the label, all
its media are listed with what became of them.
"""

import duckdb
import polars as pl

# Whether a medium stays, given `first` (the lowest sample key of the picture, labelled ones before others) and
# `conflict` (two labels at least; a medium without a label contradicts none).
KEPT = {
    "keep_if_labels_agree": "first = media_id AND NOT conflict",
    "keep_first": "first = media_id",
    "drop_all": "false",
    "keep_all": "true",
}


def settle_repeated_urls(con: duckdb.DuckDBPyConnection, policy: str) -> None:
    """Decide on the media that share a URL with another one, by bulk SQL over temporary tables.

    The order is that of the sample keys, so that the choice depends neither on the order of rows nor on the seed, and a
    growing dataset changes it only where a smaller key joins.

    Args:
        con: has the table `candidates` with `media_id`, `url_id`, `label`, `sample_key`, and `reason`, `detail`, which
            are null for what passes the filters and are set here: label_conflict, duplicate_url.
        policy: one of KEPT.

    Makes the table `repeated`: media_id, url_id, label, conflict, kept.
    """
    # 64 bits of the url id leave out nearly all; in a query of its own, so that the rest is not held in memory
    suspects = con.sql("""
        SELECT hash(url_id) AS bits FROM candidates WHERE reason IS NULL GROUP BY bits HAVING count(*) > 1""").pl()  # noqa: F841
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE repeated AS
        WITH shared AS MATERIALIZED (
            SELECT media_id, url_id, label, sample_key
            FROM candidates SEMI JOIN suspects ON hash(url_id) = bits WHERE reason IS NULL),
        pictures AS (
            SELECT url_id, arg_min(media_id, (label IS NULL, sample_key, media_id)) AS first,
                   min(label) IS DISTINCT FROM max(label) AS conflict
            FROM shared GROUP BY url_id HAVING count(*) > 1)
        SELECT media_id, url_id, label, conflict, {KEPT[policy]} AS kept FROM shared JOIN pictures USING (url_id)""")
    con.execute(
        """
        UPDATE candidates SET
            reason = CASE WHEN dropped.conflict AND ? THEN 'label_conflict' ELSE 'duplicate_url' END,
            detail = 'url_id ' || dropped.url_id
        FROM (FROM repeated WHERE NOT kept) dropped WHERE candidates.media_id = dropped.media_id""",
        [policy == "keep_if_labels_agree"],
    )


def label_conflicts(
    con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, occurrences: duckdb.DuckDBPyRelation
) -> pl.DataFrame:
    """Rows of table `label_conflicts`: the media of every picture whose labels differ, and the decision on each.

    Args:
        con: has the table `repeated`.
        media: `media_id`, `url`, `gbif_id`.
        occurrences: `gbif_id`, `dataset_key`.
    """
    return con.sql("""
        SELECT r.url_id, url, media_id, gbif_id, dataset_key, label,
               CASE WHEN kept THEN 'kept' ELSE 'left out' END AS decision
        FROM (FROM repeated WHERE conflict) r
        JOIN (SELECT media_id, url, gbif_id FROM media) USING (media_id)
        JOIN (SELECT gbif_id, dataset_key FROM occurrences) USING (gbif_id)
        ORDER BY r.url_id, media_id""").pl()
