"""Catalogues: one row a medium with its source, taxon, licence, subset and captions; their files and differences."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from gbif_platform.curation.taxonomy import NAMES, TAXON_COLUMNS, trinomial
from gbif_platform.errors import PlatformError
from gbif_platform.exports.captions import with_captions, without_author
from gbif_platform.settings import fingerprint
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.tables import CATALOGUE, RANKS

VERSION = "1"
FORMATS = ("parquet", "csv")
COLUMNS = tuple(column.split()[0].strip('"') for column in CATALOGUE.split(", "))
TYPES = dict(zip(COLUMNS, (column.split()[1] for column in CATALOGUE.split(", ")), strict=True))
OF_OCCURRENCE = (
    *(*RANKS, *(f"{rank}_key" for rank in RANKS)),
    *("occurrence_id", "dataset_key", "event_date", "country_code", "decimal_latitude", "decimal_longitude"),
    *("taxon_key", "accepted_taxon_key", *NAMES, "taxon_rank", "references"),
)
"""Columns of an occurrence that a catalogue is made from; an archive may lack any of them."""
LAST_RANK = (
    {rank: rank for rank in RANKS}
    | {f"{rank}_key": rank for rank in RANKS}
    | {"superfamily": "order", "subfamily": "family", "tribe": "family", "subtribe": "family"}
    | {"subgenus": "genus", "subgenus_key": "genus"}
)
"""By label: the lowest rank that all its records have in common."""
FORMULA = r"^[=+\-@\t\r]"
"""How a text begins that a spreadsheet would take for a formula (OWASP, CSV injection)."""


class CatalogueError(PlatformError):
    """A catalogue cannot be copied to where it is wanted."""


def catalogue_rows(
    con: duckdb.DuckDBPyConnection,
    chosen: duckdb.DuckDBPyRelation,
    media: duckdb.DuckDBPyRelation,
    occurrences: duckdb.DuckDBPyRelation,
    taxa: duckdb.DuckDBPyRelation,
    *,
    label: str,
    licence: str,
) -> duckdb.DuckDBPyRelation:
    """One row for each medium chosen, with the columns of table `catalogue`, ordered by media_id, lazily.

    Where the label is a taxon, the row's taxon is the label's, as table taxa knows it, and ranks below the label's are
    null; where it is anything else (sex, …), or missing, it is the accepted taxon of the occurrence.

    Args:
        chosen: media_id, label, subset, nested, width, height (pixels of the stored picture; null before).
        media, occurrences, taxa: rows of those tables.
        label: the term that the dataset is labelled by, in snake case.
        licence: SQL over `m`, a media row: the licence that it counts as being under.
    """
    records = _records(con, occurrences)  # noqa: F841  read by name
    known = _named(con, taxa)  # noqa: F841
    called = con.sql("""
        SELECT taxon_key AS key, max(vernacular_name) AS vernacular_name FROM taxa
        WHERE taxon_key IS NOT NULL GROUP BY taxon_key""")  # noqa: F841
    cut = RANKS.index(LAST_RANK.get(label, RANKS[-1])) + 1
    lineage = ", ".join(
        f'r."{rank}"' if place < cut else f'NULL::VARCHAR AS "{rank}"' for place, rank in enumerate(RANKS)
    )
    taxon = _taxon_of_the_label(label) if label in TAXON_COLUMNS else OWN_TAXON
    rows = con.sql(f"""
        SELECT c.media_id, m.url_id, m.url, m.gbif_id, r.dataset_key, r.occurrence_id, c.label, {taxon}, {lineage},
               {licence} AS license, m.creator, m.rights_holder, m.publisher,
               coalesce(m."references", r."references") AS "references", r.event_date, r.country_code,
               r.decimal_latitude, r.decimal_longitude, c.subset, c.nested, c.width, c.height
        FROM chosen AS c JOIN media AS m USING (media_id)
        LEFT JOIN records AS r ON r.gbif_id = m.gbif_id
        LEFT JOIN called AS t ON t.key = r.taxon_key
        LEFT JOIN known AS k ON k.label = c.label AND k.kingdom IS NOT DISTINCT FROM nullif(trim(r.kingdom), '')
        """)
    rows = with_captions(con, rows)
    columns = ", ".join(f'try_cast("{name}" AS {kind}) AS "{name}"' for name, kind in TYPES.items())
    return rows.project(columns).order("media_id")


OWN_NAME = "coalesce(r.accepted_scientific_name, r.scientific_name)"
OWN_KEY = "coalesce(r.accepted_taxon_key, r.taxon_key)"
OWN_TAXON = f"{OWN_NAME} AS scientific_name, r.taxon_rank, {OWN_KEY} AS taxon_key, t.vernacular_name"


def _taxon_of_the_label(label: str) -> str:
    """SQL: scientific_name, taxon_rank, taxon_key, vernacular_name; where table taxa lacks the label, by the label."""
    name = OWN_NAME if label.endswith("_key") else f"coalesce(c.label, {OWN_NAME})"
    rank, key = "coalesce(k.taxon_rank, r.taxon_rank)", f"k.taxon_key, CASE WHEN c.label IS NULL THEN {OWN_KEY} END"
    if label in RANKS:  # a subspecies or synonym as label of a species is not of the lineage
        same = f'c.label = trim(r."{label}")'
        rank = f"CASE WHEN {same} THEN '{label.upper()}' ELSE {rank} END"
        key = f'CASE WHEN {same} THEN r."{label}_key" END, {key}'
    elif label in LAST_RANK:
        rank = f"'{label.removesuffix('_key').upper()}'"
    return f"""
        coalesce(k.scientific_name, {name}) AS scientific_name, {rank} AS taxon_rank,
        coalesce({key}) AS taxon_key,
        CASE WHEN c.label IS NULL THEN t.vernacular_name ELSE k.vernacular_name END AS vernacular_name"""


def _records(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """gbif_id and `OF_OCCURRENCE` as text; null where the archive has no such column."""
    there = set(occurrences.columns)
    fields = ", ".join(f'"{name}"::VARCHAR AS "{name}"' if name in there else f'NULL::VARCHAR AS "{name}"'
                       for name in OF_OCCURRENCE)  # fmt: skip
    return con.sql(f"SELECT gbif_id, {fields} FROM occurrences")


def _named(con: duckdb.DuckDBPyConnection, taxa: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """For each label and kingdom the taxon that has just this name or key: as accepted, else as identified."""
    return con.sql(f"""
        WITH names AS (
            SELECT label, kingdom, accepted_taxon_key AS taxon_key, accepted_scientific_name AS scientific_name,
                   taxon_rank, vernacular_name,
                   CASE WHEN scientific_name = accepted_scientific_name THEN 1
                        WHEN taxon_key <> accepted_taxon_key THEN 2 ELSE 3 END AS place
            FROM taxa
            UNION ALL
            SELECT label, kingdom, taxon_key, scientific_name, taxon_rank, vernacular_name, 4 AS place FROM taxa),
        fitting AS (
            SELECT * FROM names WHERE label IN (
                scientific_name, {without_author("scientific_name")}, {trinomial("scientific_name")}, taxon_key))
        SELECT label, kingdom, first(taxon_key ORDER BY place, taxon_key) AS taxon_key,
               first(scientific_name ORDER BY place, taxon_key) AS scientific_name,
               first(taxon_rank ORDER BY place, taxon_key) AS taxon_rank,
               first(vernacular_name ORDER BY vernacular_name IS NULL, place, taxon_key) AS vernacular_name
        FROM fitting GROUP BY label, kingdom""")


# Files


def catalogue_keys(dataset: str, snapshot: str, table: str) -> dict[str, str]:
    """Where a catalogue's files lie in the object store, by format.

    Args:
        table: catalogue or predicted_catalogue.
    """
    name = table.removesuffix("_catalogue")
    return {kind: f"catalogues/{dataset}/{fingerprint(snapshot)}/{name}.{kind}" for kind in FORMATS}


def write_files(rows: duckdb.DuckDBPyRelation, objects: ObjectStore, keys: Mapping[str, str], work: Path) -> Path:
    """Write a catalogue's files into the object store, streamed, each whole or not at all.

    In the CSV (UTF-8, with a header, null = empty) lists are joined by `|`, and a text that a spreadsheet would take
    for a formula has an apostrophe before it; the Parquet file has the texts as they are.

    Args:
        keys: key in the object store by format.
        work: a folder for the files as they grow.

    Returns:
        The Parquet file, in `work`.
    """
    files = {kind: work / f"catalogue.{kind}" for kind in keys}
    rows.write_parquet(str(files["parquet"]), compression="zstd")
    with duckdb.connect() as con:
        con.read_parquet(str(files["parquet"])).project(_for_spreadsheets()).write_csv(str(files["csv"]))
    for kind, key in keys.items():
        objects.put(key, files[kind])
    files["csv"].unlink()
    return files["parquet"]


def _for_spreadsheets() -> str:
    safe = {
        "VARCHAR": "CASE WHEN regexp_matches({0}, '" + FORMULA + "') THEN '''' || {0} ELSE {0} END",
        "VARCHAR[]": "array_to_string({0}, '|')",
    }
    return ", ".join(f'{safe.get(kind, "{0}")} AS "{name}"'.format(f'"{name}"') for name, kind in TYPES.items())


def copy_catalogue(objects: ObjectStore, keys: Mapping[str, str], file: Path) -> None:
    """Copy a catalogue out of the object store, in the format that the file's name ends with; replaces the file.

    Args:
        keys: key in the object store by format.

    Raises:
        CatalogueError: the name has another ending, or the object or the file's folder is not there.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in keys:
        raise CatalogueError(f"{file}: a catalogue is Parquet or CSV", "name the file ….parquet or ….csv")
    if file.is_dir() or not file.parent.is_dir():
        said = f"{file} is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise CatalogueError(said, "name a file in a folder that exists")
    with TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        part = Path(folder, file.name)
        try:
            objects.copy_to(keys[kind], part)
        except FileNotFoundError as error:
            raise CatalogueError(
                f"{objects.url_of(keys[kind])} is not there", "run the dataset again: that writes it anew"
            ) from error
        part.replace(file)


# Differences


def catalogue_differences(
    con: duckdb.DuckDBPyConnection,
    predicted: duckdb.DuckDBPyRelation,
    actual: duckdb.DuckDBPyRelation,
    refused: duckdb.DuckDBPyRelation,
) -> duckdb.DuckDBPyRelation:
    """One row for each medium that only one catalogue has, or whose subset is not the predicted one.

    change: not_fetched (the picture did not arrive), excluded (it arrived and may not enter), subset_changed, or, where
    nothing explains it, unexplained. A null predicted subset predicts nothing. The reason of a changed subset is
    groups_merged where the pictures themselves joined media that were predicted to be in several subsets, else
    regrouped: members of its group did not arrive, labels were counted anew (floors, rare labels), or it stays where it
    was before.

    Args:
        predicted, actual: media_id, url, label, subset of both catalogues; actual also group_id.
        refused: row_ref (a media_id), stage, reason, detail: the quarantine of downloaded_images and splits.
    """
    return con.sql("""
        WITH told AS (
            SELECT row_ref AS media_id, min(stage) AS stage, arg_min(reason, stage) AS reason,
                   arg_min(detail, stage) AS detail
            FROM refused GROUP BY row_ref),
        compared AS (
            SELECT media_id, coalesce(p.url, a.url) AS url, coalesce(p.label, a.label) AS label,
                   p.media_id IS NULL AS added, a.media_id IS NULL AS missing, p.subset AS was, a.subset,
                   min(was) OVER grouped <> max(was) OVER grouped AS merged, t.stage, t.reason, t.detail
            FROM predicted AS p FULL JOIN actual AS a USING (media_id) LEFT JOIN told AS t USING (media_id)
            WINDOW grouped AS (PARTITION BY a.group_id))
        SELECT media_id, url, label,
               CASE WHEN added THEN 'unexplained'
                    WHEN missing AND stage = 'downloaded_images' THEN 'not_fetched'
                    WHEN missing AND stage = 'splits' THEN 'excluded'
                    WHEN missing THEN 'unexplained'
                    ELSE 'subset_changed' END AS change,
               CASE WHEN added THEN 'not_predicted' WHEN missing THEN reason
                    WHEN merged THEN 'groups_merged' ELSE 'regrouped' END AS reason,
               CASE WHEN added OR missing THEN detail ELSE was || ' → ' || subset END AS detail
        FROM compared
        WHERE added OR missing OR was <> subset
        ORDER BY media_id""")


def unexplained(
    con: duckdb.DuckDBPyConnection,
    predicted: duckdb.DuckDBPyRelation,
    actual: duckdb.DuckDBPyRelation,
    differences: duckdb.DuckDBPyRelation,
) -> list[str]:
    """The media_ids of which the differences do not tell exactly once, with a known reason, what became of them.

    Args:
        predicted, actual: media_id, subset.
        differences: media_id, change, reason: what `catalogue_differences` gave.
    """
    rows = con.sql("""
        WITH told AS (
            SELECT media_id, count(*) AS times, any_value(change) AS change, any_value(reason) AS reason
            FROM differences GROUP BY media_id),
        due AS (
            SELECT media_id,
                   CASE WHEN p.media_id IS NULL THEN 'added' WHEN a.media_id IS NULL THEN 'missing'
                        WHEN p.subset <> a.subset THEN 'subset_changed' END AS what
            FROM predicted AS p FULL JOIN actual AS a USING (media_id))
        SELECT media_id FROM due FULL JOIN told USING (media_id)
        WHERE (what IS NOT NULL OR times IS NOT NULL) AND NOT coalesce(times = 1 AND reason IS NOT NULL AND (
            (what = 'missing' AND change IN ('not_fetched', 'excluded'))
            OR (what = 'subset_changed' AND change = what)), false)
        ORDER BY media_id""")
    return [row[0] for row in rows.fetchall()]
