"""Media rows: from the lines of a multimedia extension to one row for each picture of each occurrence."""

from collections.abc import Iterable
from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation.urls import PARTS, SEVERAL, UNUSUAL, define_macros, encoded
from gbif_platform.gbif.licences import normalise
from gbif_platform.storage.tables import Outcome

VERSION = "1"

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
STILL_TYPE = r"(^|[/\s])(still\s*)?image$"
IMAGE_ENDING = r"\.(jpe?g|png|gif|webp|tiff?|bmp|avif|jp2|heic)(\?|$)"

REASON = f"""
CASE
  WHEN o.gbif_id IS NULL THEN 'orphan'
  WHEN m.media_type IS NOT NULL AND NOT regexp_matches(m.media_type, '{STILL_TYPE}', 'i') THEN 'not_still_image'
  WHEN m.media_type IS NULL AND m.format IS NOT NULL AND NOT m.format ILIKE 'image%' THEN 'not_still_image'
  WHEN m.identifier IS NULL THEN 'no_identifier'
  WHEN contains(m.identifier[9:], '://') AND regexp_matches(m.identifier, '{SEVERAL}', 'i')
    THEN 'several_urls_in_identifier'
  WHEN m.identifier LIKE '/%' OR m.identifier LIKE '.%' THEN 'relative_url'
  WHEN m.scheme = '' OR m.scheme LIKE '%.%' THEN 'no_scheme'
  WHEN m.scheme NOT IN ('http', 'https') THEN 'unsupported_scheme'
  WHEN host = '' THEN 'no_host'
  WHEN m.media_type IS NULL AND m.format IS NULL AND NOT regexp_matches(path, '{IMAGE_ENDING}', 'i')
    THEN 'unknown_media_type'
END"""

DETAIL = """
CASE reason
  WHEN 'orphan' THEN coalesce('no occurrence with id ' || core_id, 'the row names no occurrence')
  WHEN 'not_still_image' THEN concat_ws(' ', media_type, format)
  WHEN 'no_identifier' THEN coalesce('references ' || "references", 'no references either')
  ELSE identifier
END"""


def media_rows(
    con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, occurrences: duckdb.DuckDBPyRelation, work: Path
) -> Outcome:
    """Clean the rows of a multimedia extension, in bulk.

    Args:
        con: any DuckDB connection; temporary objects are made on it.
        media: all lines, strings, with `_id` (the occurrence's id) and `_row_ref`; columns of the extension in snake
            case, any of which may be absent.
        occurrences: `gbif_id`, `dataset_key`, `occurrence_id` of the sound occurrences.
        work: folder for the staged result.

    Returns:
        `media_urls` rows as a Parquet file; refused: orphan, not_still_image, no_identifier,
        several_urls_in_identifier, relative_url, no_scheme, unsupported_scheme, no_host, unknown_media_type,
        duplicate_media.
    """
    define_macros(con)
    present = set(media.columns)
    fields = {
        name: f'"{source}" AS "{name}"' if source in present else f'NULL::VARCHAR AS "{name}"'
        for name, source in COLUMNS.items()
    }
    identifier = "nullif(trim(identifier), '')" if "identifier" in present else "NULL::VARCHAR"
    judged_by = ("media_type", "format", "references")
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE media_lines AS
        SELECT row_number() OVER () AS line, _row_ref AS row_ref, nullif(trim(_id), '') AS core_id,
               {identifier} AS identifier, {", ".join(fields[name] for name in judged_by)}
        FROM media""")
    _percent_encode(con)
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE media_judged AS
        SELECT m.*, o.gbif_id, {REASON} AS reason, host || path AS url_key,
               identity(concat_ws('\x1f', coalesce(o.dataset_key, ''), coalesce(o.occurrence_id, o.gbif_id),
                                  host || path)) AS media_id
        FROM (SELECT *, lower(regexp_extract(identifier, '^([A-Za-z][A-Za-z0-9+.-]*):', 1)) AS scheme,
                     url_host(identifier) AS host, url_path(identifier) AS path
              FROM media_lines) m
        LEFT JOIN occurrences o ON o.gbif_id = m.core_id""")
    con.execute("""
        UPDATE media_judged SET reason = 'duplicate_media' FROM (
            SELECT media_id, min(line) AS first FROM media_judged
            WHERE reason IS NULL GROUP BY media_id HAVING count(*) > 1) twice
        WHERE media_judged.media_id = twice.media_id AND media_judged.reason IS NULL AND line > first""")
    file = work / "media_urls.parquet"
    licences = _licences(con, media) if "license" in present else _licence_table([])  # noqa: F841  read by name
    con.sql(f"""
        SELECT media_id, identity(url_key) AS url_id, gbif_id, scheme || '://' || url_key AS url, {_quoted(COLUMNS)},
               coalesce(licences.license, 'unknown') AS license, j.row_ref, key64(media_id) AS sample_key
        FROM (SELECT row_ref, gbif_id, media_id, scheme, url_key FROM media_judged WHERE reason IS NULL) j
        JOIN (SELECT _row_ref AS row_ref, {", ".join(fields.values())} FROM media) m ON j.row_ref = m.row_ref
        LEFT JOIN licences USING (license_text)
        """).write_parquet(str(file), compression="zstd")
    refused = con.sql(f"SELECT row_ref, reason, {DETAIL} AS detail FROM media_judged WHERE reason IS NOT NULL").pl()
    counts = con.sql("SELECT count(*), count(*) FILTER (reason IS NULL) FROM media_judged").fetchone() or (0, 0)
    return Outcome({"media_urls": file}, rows_in=counts[0], rows_out=counts[1], refused=refused)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _percent_encode(con: duckdb.DuckDBPyConnection) -> None:
    """Percent-encode the identifiers that hold blanks or letters outside ASCII."""
    unusual = con.sql(
        f"SELECT identifier FROM media_lines WHERE regexp_matches(identifier, '{UNUSUAL}') "
        f"AND regexp_matches(identifier, '{PARTS}', 'i') AND NOT regexp_matches(identifier, '{SEVERAL}', 'i')"
    ).pl()
    spellings = encoded(unusual["identifier"])
    if len(spellings):
        con.execute(
            "UPDATE media_lines SET identifier = spellings.encoded FROM spellings WHERE identifier = spellings.raw"
        )


def _licences(con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """SPDX id for each distinct licence text."""
    return _licence_table([row[0] for row in con.sql("SELECT DISTINCT license FROM media").fetchall() if row[0]])


def _licence_table(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"license_text": texts, "license": [normalise(text).spdx for text in texts]},
        schema={"license_text": pl.String, "license": pl.String},
    )
