"""What differs between two snapshots: media added and removed, records relabelled or under another id or licence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from gbif_platform.gbif.licences import allowed
from gbif_platform.storage.lake import quoted

VERSION = "1"

CHANGES = ("added", "removed", "relabelled", "licence_changed", "licence_revoked", "gbif_id_changed")

_PRINT = "hash(media_id) AS key, hash(media_id, gbif_id, label, license) AS print"


@dataclass(frozen=True)
class SnapshotDiff:
    """The media of two snapshots, compared.

    Attributes:
        rows: Parquet file with one row a change: `change` (one of CHANGES); `media_id`, `url_id`, `url` of the newer
            medium, of a removed one its last; `previous_media_id`; `gbif_id`, `label`, `license`, null where removed;
            `previous_gbif_id`, `previous_label`, `previous_license`, null where added. All VARCHAR.
        old, new: media of each snapshot.
        added, removed: media of one snapshot alone.
        changed: media of both with one change or several.
    """

    rows: Path
    old: int
    new: int
    added: int
    removed: int
    changed: int

    @property
    def unchanged(self) -> int:
        """Media of the newer snapshot that were exactly so before."""
        return self.new - self.added - self.changed


def compare_snapshots(
    con: duckdb.DuckDBPyConnection,
    old_media: duckdb.DuckDBPyRelation,
    new_media: duckdb.DuckDBPyRelation,
    work: Path,
    *,
    licences: str | Sequence[str] = "any",
) -> SnapshotDiff:
    """Compare the media of two snapshots by their stable identity.

    - `added`, `removed`: a medium of one snapshot alone. A row `removed` is the tombstone of that medium: no picture is
      deleted with it, the shards keep the pixels until compaction.
    - `relabelled`, `licence_changed`: another label, another licence. A medium may have several changes.
    - `licence_revoked`: besides `licence_changed`, where the policy allowed the licence before and does not now; the
      shards keep these pixels too.
    - `gbif_id_changed`: the same record under another id. The media id does not hang on gbifID where there is an
      occurrenceID, so a change of gbifID is seen there directly. A record without occurrenceID whose gbifID changed,
      and one whose publisher changed occurrenceID (http to https is enough, GBIF portal-feedback #2401), have a new
      media id: a removed and an added medium of one URL and one datasetKey are one record where there is just one of
      each. So the change stands also where the media id alone is new.

    Rows equal on both sides are found by 64-bit hashes, and only the others are read in full: memory grows by some
    100 bytes a medium, and by the rows that differ.

    Args:
        con: any DuckDB connection; temporary tables are made on it.
        old_media, new_media: `media_id` (unique), `url_id`, `url`, `gbif_id`, `dataset_key`, `label`, `license`, all
            VARCHAR. Null is a value like any other. Row order does not matter.
        work: folder for the result and for the rows that differ.
        licences: the policy, as `gbif.licences.allowed` takes it.
    """
    old, new = _prints(con, old_media, "prints_old"), _prints(con, new_media, "prints_new")
    con.execute("""
        CREATE OR REPLACE TEMP TABLE differing AS
        SELECT coalesce(o.key, n.key) AS key FROM prints_old o FULL JOIN prints_new n ON o.key = n.key
        WHERE o.print IS DISTINCT FROM n.print""")
    con.execute("DROP TABLE prints_old; DROP TABLE prints_new")
    _stage_differing(con, old_media, "differing_old", work)
    _stage_differing(con, new_media, "differing_new", work)
    _pair(con)
    rows = work / "snapshot_changes.parquet"
    _changes(con, licences).write_parquet(str(rows), compression="zstd")
    kinds = """count(*) FILTER (change = 'added'), count(*) FILTER (change = 'removed'),
               count(DISTINCT media_id) FILTER (change NOT IN ('added', 'removed'))"""
    counts = con.read_parquet(str(rows)).aggregate(kinds).fetchone()
    return SnapshotDiff(rows, old, new, *(counts or (0, 0, 0)))


def _prints(con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, name: str) -> int:
    """Two hashes of each medium, of its identity and of all that is compared; returns how many there are."""
    row = con.execute(f"""
        CREATE OR REPLACE TEMP TABLE {name} AS
        SELECT hash(media_id) AS key, hash(media_id, gbif_id, label, license) AS print FROM media""").fetchone()
    return int(row[0]) if row else 0


def _stage_differing(con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, name: str, work: Path) -> None:
    """Stage the media whose hashes the other side does not have in a file, and a temporary view of it."""
    file = str(work / f"{name}.parquet")
    con.sql("FROM media WHERE hash(media_id) IN (SELECT key FROM differing)").write_parquet(file)
    con.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM read_parquet({quoted(file)})")


def _pair(con: duckdb.DuckDBPyConnection) -> None:
    """Records whose media id changed: `media_id`, `previous_media_id`, one to one."""
    con.execute("""
        CREATE OR REPLACE TEMP TABLE renamed AS
        WITH lone_old AS (
            SELECT url_id, coalesce(dataset_key, '') AS dataset_key, any_value(media_id) AS previous_media_id
            FROM differing_old ANTI JOIN differing_new USING (media_id) GROUP BY 1, 2 HAVING count(*) = 1
        ), lone_new AS (
            SELECT url_id, coalesce(dataset_key, '') AS dataset_key, any_value(media_id) AS media_id
            FROM differing_new ANTI JOIN differing_old USING (media_id) GROUP BY 1, 2 HAVING count(*) = 1
        )
        SELECT media_id, previous_media_id FROM lone_old JOIN lone_new USING (url_id, dataset_key)""")


def _changes(con: duckdb.DuckDBPyConnection, policy: str | Sequence[str]) -> duckdb.DuckDBPyRelation:
    """The changes of all differing media; those that only shared a hash have none."""
    found = con.sql("SELECT license FROM differing_old UNION SELECT license FROM differing_new").fetchall()
    good = [licence for (licence,) in found if licence is not None and allowed(licence, policy)]
    allows = f"IN ({', '.join(['NULL', *map(quoted, good)])})"  # never an empty list, which SQL does not have
    return con.sql(f"""
        SELECT unnest([
                 CASE WHEN o.media_id IS NULL THEN 'added' WHEN n.media_id IS NULL THEN 'removed' END,
                 CASE WHEN o.now_id = n.media_id AND o.label IS DISTINCT FROM n.label THEN 'relabelled' END,
                 CASE WHEN o.now_id = n.media_id AND o.license IS DISTINCT FROM n.license THEN 'licence_changed' END,
                 CASE WHEN o.now_id = n.media_id AND o.license {allows} AND NOT coalesce(n.license {allows}, false)
                      THEN 'licence_revoked' END,
                 CASE WHEN o.now_id = n.media_id AND (o.gbif_id IS DISTINCT FROM n.gbif_id OR o.media_id <> n.media_id)
                      THEN 'gbif_id_changed' END
               ]) AS change,
               coalesce(n.media_id, o.media_id) AS media_id, o.media_id AS previous_media_id,
               coalesce(n.url_id, o.url_id) AS url_id, coalesce(n.url, o.url) AS url,
               n.gbif_id, o.gbif_id AS previous_gbif_id, n.label, o.label AS previous_label,
               n.license, o.license AS previous_license
        FROM (SELECT was.*, coalesce(renamed.media_id, was.media_id) AS now_id
              FROM differing_old was LEFT JOIN renamed ON renamed.previous_media_id = was.media_id) o
        FULL JOIN differing_new n ON n.media_id = o.now_id""").filter("change IS NOT NULL")
