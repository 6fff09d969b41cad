"""One picture under several occurrences: a herbarium sheet with many specimens, a repost in another dataset.

Which of its media a dataset takes is the policy `filters.duplicates`; where the occurrences disagree on the label, all
its media are listed with what became of them.
"""

from pathlib import Path

import duckdb

from gbif_platform.curation.candidates import Candidates, parquet, stage

# Whether a medium stays, given `first` (the lowest sample key of the picture, labelled ones before others) and
# `conflict` (two labels at least; a medium without a label contradicts none).
KEPT = {
    "keep_if_labels_agree": "first = media_id AND NOT conflict",
    "keep_first": "first = media_id",
    "drop_all": "false",
    "keep_all": "true",
}
DECIDED_AT_ONCE = 500_000


def repeated_urls(
    con: duckdb.DuckDBPyConnection, candidates: Candidates, media: duckdb.DuckDBPyRelation, policy: str, work: Path
) -> list[Path]:
    """Decide on the media that share a URL with another one, of those that pass the filters.

    The order is that of the sample keys, so that the choice depends neither on the order of rows nor on the seed, and a
    growing dataset changes it only where a smaller key joins.

    Args:
        policy: one of KEPT.

    Returns:
        Parquet files with `media_id`, `url_id`, `url`, `gbif_id`, `label`, `conflict`, `kept`, `reason`
        (label_conflict or duplicate_url) and the candidate's `sample_key`, `mark`.
    """
    # by numbers and in a query of its own: what exceeds the memory for 100 million of them is written out
    suspects = con.sql(f"""
        SELECT url_bits FROM {parquet(candidates.file)} WHERE failed = 0
        GROUP BY url_bits HAVING count(*) > 1""").to_arrow_table()  # noqa: F841  read by name
    cells = candidates.cells  # noqa: F841  read by name
    shared = stage(
        con.sql(f"""SELECT sample_key, mark, url_bits, cell FROM {parquet(candidates.file)}
            SEMI JOIN suspects USING (url_bits) WHERE failed = 0"""),
        work / "shared.parquet",
    )
    named = stage(
        con.sql(f"""SELECT m.media_id, m.url_id, m.url, m.gbif_id, label, m.sample_key, mark, url_bits
            FROM media m JOIN {parquet(shared)} s ON m.sample_key = s.sample_key AND {candidates.mark} = mark
            JOIN cells USING (cell)"""),
        work / "named.parquet",
    )
    rows = con.read_parquet(str(named)).count("*").fetchone() or (0,)
    parts = max(1, -(-rows[0] // DECIDED_AT_ONCE))
    files = [
        _decided(con, named, policy, f"url_bits % {parts} = {part}", work / f"repeated-{part}.parquet")
        for part in range(parts)
    ]
    shared.unlink()
    named.unlink()
    return files


def _decided(con: duckdb.DuckDBPyConnection, named: Path, policy: str, part: str, file: Path) -> Path:
    reason = "CASE WHEN conflict THEN 'label_conflict' ELSE 'duplicate_url' END"
    return stage(
        con.sql(f"""WITH media AS (SELECT * FROM {parquet(named)} WHERE {part}),
                 pictures AS (
                     SELECT url_id, arg_min(media_id, (label IS NULL, sample_key, media_id)) AS first,
                            min(label) IS DISTINCT FROM max(label) AS conflict
                     FROM media GROUP BY url_id HAVING count(*) > 1)
            SELECT media_id, url_id, url, gbif_id, label, sample_key, mark, conflict, {KEPT[policy]} AS kept,
                   {reason if policy == "keep_if_labels_agree" else "'duplicate_url'"} AS reason
            FROM media JOIN pictures USING (url_id)"""),
        file,
    )


def label_conflicts(
    con: duckdb.DuckDBPyConnection, repeated: list[Path], occurrences: duckdb.DuckDBPyRelation, file: Path
) -> Path:
    """Rows of table `label_conflicts`: the media of every picture whose labels differ, and the decision on each.

    Args:
        repeated: the files of `repeated_urls`.
        occurrences: `gbif_id`, `dataset_key`.
    """
    return stage(
        con.sql(f"""SELECT r.url_id, r.url, r.media_id, gbif_id, dataset_key, r.label,
                   CASE WHEN r.kept THEN 'kept' ELSE 'left out' END AS decision
            FROM (SELECT gbif_id, dataset_key FROM occurrences)
            JOIN (SELECT * FROM {parquet(repeated)} WHERE conflict) r USING (gbif_id)
            ORDER BY r.url_id, r.media_id"""),
        file,
    )
