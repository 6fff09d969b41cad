"""Media rows: from the lines of a multimedia extension to one row for each picture of each occurrence.

Nearly all lines are plain: a still image at one URL that is spelt canonically. They go through in one pass; the few
others are put aside, divided, spelt and judged first.
"""

from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation.urls import PARTS, PLAIN, SEVERAL, UNUSUAL, define_macros, encoded
from gbif_platform.gbif.licences import RESTRICTIONS, normalise
from gbif_platform.storage.lake import quoted
from gbif_platform.storage.tables import Outcome, refusals

VERSION = "2"

COLUMNS = {  # table column: column of the extension
    "media_type": "type",
    "format": "format",
    "license_text": "license",
    "creator": "creator",
    "rights_holder": "rights_holder",
    "publisher": "publisher",
    "title": "title",
    "description": "description",
    "references": "references",
    "created": "created",
}
ROW_GROUP = 40_000
"""Rows of a staged row group: a third of DuckDB's own, because it holds several in memory at a time."""
STILL_TYPE = r"(^|[/\s])(still\s*)?image$"
IMAGE_ENDING = r"\.(jpe?g|png|gif|webp|tiff?|bmp|avif|jp2|heic)(\?|$)"

PLAIN_LINE = f"""
coalesce(regexp_full_match(identifier, '{PLAIN}')
         AND (media_type = 'StillImage' OR media_type IS NULL AND starts_with(format, 'image/')), false)"""

OTHER_KIND = f"""
CASE
  WHEN media_type IS NOT NULL THEN NOT regexp_matches(media_type, '{STILL_TYPE}', 'i')
  ELSE coalesce(NOT format ILIKE 'image%', false)
END"""

# A wiki's page about a picture ends like the picture: /wiki/File:Rana.jpg
REFERENCES_PICTURE = f"""
regexp_matches("references", '{PARTS}', 'i') AND regexp_matches(url_path("references"), '{IMAGE_ENDING}', 'i')
AND NOT contains("references", '/wiki/')"""

REASON = f"""
CASE
  WHEN other_kind THEN 'not_still_image'
  WHEN identifier IS NULL THEN 'no_identifier'
  WHEN identifier LIKE '/%' OR identifier LIKE '.%' THEN 'relative_url'
  WHEN scheme = '' OR scheme LIKE '%.%' THEN 'no_scheme'
  WHEN scheme NOT IN ('http', 'https') THEN 'unsupported_scheme'
  WHEN host = '' THEN 'no_host'
  WHEN media_type IS NULL AND format IS NULL AND NOT regexp_matches(path, '{IMAGE_ENDING}', 'i')
    THEN 'unknown_media_type'
END"""

DETAIL = """
CASE reason
  WHEN 'orphan' THEN coalesce('no occurrence with id ' || core_id, 'the row names no occurrence')
  WHEN 'not_still_image' THEN concat_ws(' ', media_type, format)
  WHEN 'no_identifier' THEN coalesce('references ' || "references", 'no references either')
  ELSE identifier
END"""

# The place of a line in its file, and of a piece in its line: multimedia.txt:12#2
ROW_ORDER = (
    "regexp_extract(row_ref, '^(.*):', 1), try_cast(regexp_extract(row_ref, ':(\\d+)(#\\d+)?$', 1) AS BIGINT), "
    "length(row_ref), row_ref"
)


def media_rows(
    con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, occurrences: duckdb.DuckDBPyRelation, work: Path
) -> Outcome:
    """Clean the rows of a multimedia extension, in bulk.

    Args:
        con: any DuckDB connection; temporary macros are made on it.
        media: all lines, strings, with `_id` (the occurrence's id) and `_row_ref`; columns of the extension in snake
            case, any of which may be absent.
        occurrences: `gbif_id`, `dataset_key`, `occurrence_id` and, where there is one, `license` of the sound
            occurrences.
        work: folder for the staged result.

    Returns:
        `media_urls` rows as a Parquet file, and `licence_texts`; refused: orphan, not_still_image, no_identifier,
        relative_url, no_scheme, unsupported_scheme, no_host, unknown_media_type, duplicate_media. A line with several
        URLs counts as as many rows; those after the first have `#2`, `#3` … behind their row_ref.
    """
    define_macros(con)
    lines = _lines(con, media)
    judged = _judged(con, _odd_lines(con, lines, work / "odd.parquet"), work / "judged.parquet")
    usable = _usable(con, lines, judged)
    owners = _owners(con, occurrences)
    licences = _licences(con, media, owners)
    file = _write(con, usable, owners, licences, work / "media_urls.parquet")

    (line_count,) = _numbers(media.count("*"))
    odd_lines, pieces, sound = _numbers(
        con.sql("SELECT count(*) FILTER (piece = 1), count(*), count(*) FILTER (reason IS NULL) FROM judged")
    )
    (written,) = _numbers(con.read_parquet(str(file)).count("*"))
    refused = [_refused(con, judged, owners)]
    if written < line_count - odd_lines + sound:
        refused.append(_orphans(con, usable, owners))
    duplicates = _duplicates(con, file)
    if len(duplicates):
        file = _without(con, file, duplicates, work / "distinct.parquet")
    return Outcome(
        {"media_urls": file, "licence_texts": _licence_texts(con, file, owners, licences)},
        rows_in=line_count - odd_lines + pieces,
        rows_out=written - len(duplicates),
        refused=pl.concat([*refused, duplicates]),
    )


def _numbers(relation: duckdb.DuckDBPyRelation) -> tuple[int, ...]:
    return relation.fetchone() or ()


def _columns(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _lines(con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The lines under the table's names, not judged: row_ref, core_id, identifier and COLUMNS."""
    present = set(media.columns)
    fields = [
        f'"{source}"::VARCHAR AS "{name}"' if source in present else f'NULL::VARCHAR AS "{name}"'
        for name, source in {"identifier": "identifier", **COLUMNS}.items()
    ]
    blank = "starts_with(_id, ' ') OR ends_with(_id, ' ')"  # to trim every id would take longer than all else here
    return con.sql(f"""
        SELECT _row_ref AS row_ref, nullif(CASE WHEN {blank} THEN trim(_id) ELSE _id END, '') AS core_id,
               {", ".join(fields)}
        FROM media""")


def _odd_lines(con: duckdb.DuckDBPyConnection, lines: duckdb.DuckDBPyRelation, file: Path) -> duckdb.DuckDBPyRelation:
    """The lines that are not plain, one row for each URL (`piece` 1, 2 …) in `identifier`."""
    con.sql(f"""
        SELECT * EXCLUDE (pieces, row_ref), unnest(pieces) AS identifier, generate_subscripts(pieces, 1) AS piece,
               CASE WHEN piece > 1 THEN row_ref || '#' || piece ELSE row_ref END AS row_ref
        FROM (
            SELECT * EXCLUDE (written, referenced), written IS NULL AND referenced IS NOT NULL AS from_references,
                   coalesce(written, referenced) AS one,
                   CASE WHEN NOT other_kind AND regexp_matches(one, '{SEVERAL}', 'i')
                        THEN list_filter(string_split(regexp_replace(one, '{SEVERAL}', '\x1f\\1', 'gi'), '\x1f'),
                                         lambda piece: piece <> '')
                        ELSE [one] END AS pieces
            FROM (
                SELECT * EXCLUDE (identifier), {OTHER_KIND} AS other_kind, nullif(trim(identifier), '') AS written,
                       CASE WHEN written IS NULL AND {REFERENCES_PICTURE} THEN trim("references") END AS referenced
                FROM lines WHERE NOT {PLAIN_LINE}))
        """).write_parquet(str(file), compression="lz4", row_group_size=ROW_GROUP)
    return con.read_parquet(str(file))


def _judged(con: duckdb.DuckDBPyConnection, odd: duckdb.DuckDBPyRelation, file: Path) -> duckdb.DuckDBPyRelation:
    """The odd lines with their URL spelt and the reason why not, where there is one."""
    unusual = con.sql(f"""
        SELECT DISTINCT identifier FROM odd
        WHERE regexp_matches(identifier, '{UNUSUAL}') AND regexp_matches(identifier, '{PARTS}', 'i')""").pl()
    spellings = encoded(unusual["identifier"])  # noqa: F841  read by name
    con.sql(f"""
        SELECT *, {REASON} AS reason, scheme || '://' || host || path AS url, host || path AS url_key
        FROM (SELECT *, lower(regexp_extract(identifier, '^([A-Za-z][A-Za-z0-9+.-]*):', 1)) AS scheme,
                     url_host(identifier) AS host, url_path(identifier) AS path
              FROM (SELECT odd.* REPLACE (coalesce(encoded, identifier) AS identifier)
                    FROM odd LEFT JOIN spellings ON identifier = raw))
        """).write_parquet(str(file), compression="lz4", row_group_size=ROW_GROUP)
    return con.read_parquet(str(file))


def _usable(
    con: duckdb.DuckDBPyConnection, lines: duckdb.DuckDBPyRelation, judged: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    """All lines that are a picture, if their occurrence exists."""
    return con.sql(f"""
        SELECT row_ref, core_id, identifier AS url,
               substring(identifier, CASE WHEN starts_with(identifier, 'https') THEN 9 ELSE 8 END) AS url_key,
               {_columns(COLUMNS)}, false AS from_references
        FROM lines WHERE {PLAIN_LINE}
        UNION ALL
        SELECT row_ref, core_id, url, url_key, {_columns(COLUMNS)}, from_references FROM judged WHERE reason IS NULL""")


def _owners(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The occurrences: gbif_id, stable identity, licence text."""
    text = "license" if "license" in occurrences.columns else "NULL::VARCHAR"
    return con.sql(f"""
        SELECT gbif_id, coalesce(dataset_key, '') AS dataset, coalesce(occurrence_id, gbif_id) AS record,
               {text} AS occurrence_text
        FROM occurrences""")


def _licences(
    con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, owners: duckdb.DuckDBPyRelation
) -> pl.DataFrame:
    """Every distinct licence text of media and occurrences with its SPDX id and RESTRICTIONS (null where unknown)."""
    texts = {row[0] for row in con.sql("SELECT DISTINCT occurrence_text FROM owners").fetchall()}
    if "license" in media.columns:
        texts |= {row[0] for row in con.sql("SELECT DISTINCT license FROM media").fetchall()}
    read = [(text, normalise(text)) for text in sorted(texts - {None})]
    rows = [
        (text, licence.spdx, *(None if licence.unknown else getattr(licence, name) for name in RESTRICTIONS))
        for text, licence in read
    ]
    schema = {"text": pl.String, "license": pl.String} | dict.fromkeys(RESTRICTIONS, pl.Boolean)
    return pl.DataFrame(rows, schema=schema, orient="row")


def _write(
    con: duckdb.DuckDBPyConnection,
    usable: duckdb.DuckDBPyRelation,
    owners: duckdb.DuckDBPyRelation,
    licences: pl.DataFrame,
    file: Path,
) -> Path:
    """Join pictures and occurrences, hash the identities, write.

    The occurrences are held in memory for the join, some 100 bytes each: what repeats is an ENUM there.
    """
    con.execute("""
        CREATE OR REPLACE TEMP TYPE dataset_enum AS ENUM (SELECT '' UNION SELECT dataset FROM owners);
        CREATE OR REPLACE TEMP TYPE licence_enum AS ENUM (SELECT 'unknown' UNION SELECT license FROM licences)""")
    con.execute(f"""
        COPY (SELECT media_id, url_id, gbif_id, url, {_columns(COLUMNS)}, coalesce(license, 'unknown') AS license,
               occurrence_license::VARCHAR AS occurrence_license, {_columns(RESTRICTIONS)}, from_references,
               row_ref, key64(media_id) AS sample_key
        FROM (SELECT * EXCLUDE (picture, dataset, record), identity(picture) AS url_id,
                     identity(dataset::VARCHAR || '\x1f' || record || '\x1f' || picture) AS media_id
              FROM (SELECT *, picture_key(url_key) AS picture FROM usable)
              JOIN (SELECT gbif_id, dataset::dataset_enum AS dataset, record,
                           coalesce(license, 'unknown')::licence_enum AS occurrence_license
                    FROM owners LEFT JOIN licences ON occurrence_text = text) ON gbif_id = core_id)
        LEFT JOIN licences ON license_text = text)
        TO {quoted(str(file))}
        (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP})""")
    return file


def _refused(
    con: duckdb.DuckDBPyConnection, judged: duckdb.DuckDBPyRelation, owners: duckdb.DuckDBPyRelation
) -> pl.DataFrame:
    """What is no picture; of whom there is no occurrence is refused for that."""
    return con.sql(f"""
        SELECT row_ref, reason, {DETAIL} AS detail
        FROM (SELECT judged.* REPLACE (CASE WHEN gbif_id IS NULL THEN 'orphan' ELSE reason END AS reason)
              FROM judged LEFT JOIN owners ON gbif_id = core_id WHERE reason IS NOT NULL)""").pl()


def _orphans(
    con: duckdb.DuckDBPyConnection, usable: duckdb.DuckDBPyRelation, owners: duckdb.DuckDBPyRelation
) -> pl.DataFrame:
    return con.sql(f"""
        SELECT row_ref, reason, {DETAIL} AS detail
        FROM (SELECT *, 'orphan' AS reason, '' AS identifier FROM usable ANTI JOIN owners ON gbif_id = core_id)""").pl()


def _duplicates(con: duckdb.DuckDBPyConnection, file: Path) -> pl.DataFrame:
    """The same picture of the same occurrence again; the first line stays.

    Sought by the sample key, 64 bits of the media id, and in two steps: one query would hold all rows in memory.
    """
    rows = con.read_parquet(str(file))  # noqa: F841  read by name
    keys = con.sql("SELECT sample_key FROM rows GROUP BY sample_key HAVING count(*) > 1").pl()
    if keys.is_empty():
        return refusals([])
    return con.sql(f"""
        SELECT row_ref, 'duplicate_media' AS reason, url || ' is the picture of ' || first AS detail
        FROM (SELECT row_ref, url, first_value(row_ref) OVER (PARTITION BY media_id ORDER BY {ROW_ORDER}) AS first
              FROM rows SEMI JOIN keys USING (sample_key))
        WHERE row_ref <> first""").pl()


def _without(con: duckdb.DuckDBPyConnection, file: Path, duplicates: pl.DataFrame, target: Path) -> Path:
    rows = con.read_parquet(str(file))  # noqa: F841  read by name
    con.sql("FROM rows ANTI JOIN duplicates USING (row_ref)").write_parquet(
        str(target), compression="zstd", row_group_size=ROW_GROUP
    )
    return target


def _licence_texts(
    con: duckdb.DuckDBPyConnection, file: Path, owners: duckdb.DuckDBPyRelation, licences: pl.DataFrame
) -> pl.DataFrame:
    """What was written where a licence belongs, how it was read, and how many media say so; text null: nothing."""
    rows = con.read_parquet(str(file))  # noqa: F841  read by name
    return con.sql("""
        SELECT field, text, coalesce(license, 'unknown') AS license, media
        FROM (SELECT 'medium' AS field, license_text AS text, count(*) AS media FROM rows GROUP BY ALL
              UNION ALL
              SELECT 'occurrence', occurrence_text, count(*) FROM rows JOIN owners USING (gbif_id) GROUP BY ALL)
        LEFT JOIN licences USING (text)
        ORDER BY field, media DESC, text""").pl()
