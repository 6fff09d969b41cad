"""The five captions of a picture for contrastive training, as BioCLIP's TreeOfLife has them.

Source: Imageomics/bioclip, `scripts/evobio10m/make_wds.py` (make_txt) and `src/imageomics/naming.py` (Taxon). These are
the bare texts; BioCLIP trains on them as "a photo of ….". Where there is no common name, BioCLIP puts the scientific
name in its place, and so do the two texts "… with common name …"; the common name by itself stays null here.
"""

import duckdb

from gbif_platform.storage.tables import RANKS

HIGHER = RANKS[: RANKS.index("genus")]
CAPTIONS = (
    "caption_scientific",
    "caption_taxonomic",
    "caption_common",
    "caption_scientific_common",
    "caption_taxonomic_common",
)
NAME = r"^(?:× )?\S+(?: [\p{Ll}×.\-]+)*"
"""Of a scientific name what stands before its author: the first word, and words in small letters after it."""
PARTICLES = r"(?: (?:d[aeiu]|del|della|den|der|l[ae]|ten|ter|van|von|zu))+$"
"""Small words with which an author begins: 'Rosa canina de Vries'."""


def tidy(text: str) -> str:
    """SQL: a text (SQL, too) without blanks around it or several in a row; null where nothing is left."""
    return rf"nullif(trim(regexp_replace({text}, '\s+', ' ', 'g')), '')"


def without_author(name: str) -> str:
    """SQL: a scientific name (SQL, too) without its author and year; null where nothing is left."""
    return f"nullif(regexp_replace(regexp_extract({tidy(name)}, '{NAME}'), '{PARTICLES}', ''), '')"


def with_captions(con: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Rows with the columns `CAPTIONS` added, lazily.

    The texts end with the row's own taxon: `scientific_name` without its author, else the lowest rank there is; of a
    family the scientific name is the family's. Missing ranks are passed over. All texts are null where the row has no
    taxon. Names all in capitals or all in small letters become 'Genus species'.

    Args:
        rows: with the seven ranks (null below the row's taxon), scientific_name and vernacular_name, as text.
    """
    lowest = ", ".join(tidy(f'"{rank}"') for rank in reversed(RANKS))
    ranks = ", ".join(_spelt(tidy(f'"{rank}"')) for rank in HIGHER)
    return con.sql(f"""
        WITH named AS (
            SELECT *, coalesce({without_author("scientific_name")}, {lowest}) AS taxon,
                   {tidy("vernacular_name")} AS caption_common
            FROM rows),
        spelt AS (SELECT *, {_spelt("taxon")} AS caption_scientific FROM named),
        placed AS (
            SELECT *, array_to_string(
                list_filter([{ranks}], lambda rank: rank <> caption_scientific) || [caption_scientific], ' '
            ) AS path, ' with common name ' || coalesce(caption_common, caption_scientific) AS called
            FROM spelt)
        SELECT * EXCLUDE (taxon, path, called, caption_scientific, caption_common),
               caption_scientific,
               CASE WHEN caption_scientific IS NOT NULL THEN path END AS caption_taxonomic,
               caption_common,
               caption_scientific || called AS caption_scientific_common,
               CASE WHEN caption_scientific IS NOT NULL THEN path || called END AS caption_taxonomic_common
        FROM placed""")


def _spelt(name: str) -> str:
    """SQL: 'Genus species' where all letters are of one size; other spellings are the author's own."""
    return (
        f"CASE WHEN {name} IN (upper({name}), lower({name})) "
        f"THEN upper(left({name}, 1)) || lower(substr({name}, 2)) ELSE {name} END"
    )
