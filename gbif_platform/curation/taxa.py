"""The taxa that a snapshot's pictures are identified as, and what becomes of each: the rows of table `taxa`."""

from pathlib import Path

import duckdb
import polars as pl

from gbif_platform.curation.spec import Taxonomy
from gbif_platform.curation.taxonomy import TAXON_COLUMNS, Name, label_column, labelling
from gbif_platform.curation.vernacular_names import read_vernacular_names
from gbif_platform.storage.tables import RANKS

VERSION = "1"
IDENTITY = (
    "taxon_key",
    "scientific_name",
    "taxon_rank",
    "taxonomic_status",
    "accepted_taxon_key",
    "accepted_scientific_name",
    *RANKS,
)
"""What makes a taxon a row of its own."""
FURTHER = ("species_key", "infraspecific_epithet", "vernacular_name")
"""What label and decision depend on besides."""


def taxa(
    con: duckdb.DuckDBPyConnection,
    occurrences: duckdb.DuckDBPyRelation,
    media: duckdb.DuckDBPyRelation,
    *,
    label: str,
    taxonomy: Taxonomy,
    checklist_key: str,
) -> pl.DataFrame:
    """One row for each distinct taxon of occurrences with media, as in table `taxa`, most media first.

    `label` is what such a picture gets, null where it gets none, also because the taxon is left out; and everywhere
    where the label is no taxon. A vernacular name is the file's, else the one that most occurrences have.

    Raises:
        UnknownLabel, BadVernacularNames
        PlatformError: a policy needs a term that the archive does not have.
    """
    column = label_column(con, occurrences, label)
    is_taxon = column in TAXON_COLUMNS
    wanted = dict.fromkeys((*IDENTITY, *FURTHER, *((column,) if is_taxon else ())))
    columns = [name for name in wanted if name in occurrences.columns]
    listed = "".join(f'o."{name}", ' for name in columns)
    # plain values are grouped first: 100 million rows are read once, and names are taken apart once a taxon
    grouped = con.sql(f"""
        SELECT {listed} count(*) AS occurrences, sum(pictured.media)::BIGINT AS media
        FROM occurrences o JOIN (SELECT gbif_id, count(*) AS media FROM media GROUP BY gbif_id) pictured USING (gbif_id)
        GROUP BY ALL""").to_arrow_table()  # noqa: F841  read by name
    name = Name(columns, taxonomy)
    left_out = " OR ".join(condition.fails for condition in name.conditions) or "false"
    value = labelling(con, occurrences, label, taxonomy).sql if is_taxon else "NULL::VARCHAR"
    identity = ", ".join(f'{name.text(one)} AS "{one}"' for one in IDENTITY)
    described = con.sql(f"""
        SELECT {identity}, {name.hybrid} AS hybrid, CASE WHEN NOT ({left_out}) THEN {value} END AS label,
               {_decision(name, value if is_taxon else "''", column)} AS decision,
               {name.text("vernacular_name")} AS vernacular_name,
               sum(o.occurrences)::BIGINT AS occurrences, sum(o.media)::BIGINT AS media
        FROM grouped o GROUP BY ALL""")  # noqa: F841  read by name
    own_names = _own_names(taxonomy)  # noqa: F841  read by name
    by_file = ", ".join(_from_file(one) for one in ("scientific_name", "accepted_scientific_name", "label", "species"))
    most = "first(vernacular_name ORDER BY occurrences DESC, vernacular_name) FILTER (vernacular_name IS NOT NULL)"
    return con.sql(
        f"""
        WITH taxon AS (
            SELECT * EXCLUDE (vernacular_name, occurrences, media), {most} AS most_given,
                   sum(occurrences)::BIGINT AS occurrences, sum(media)::BIGINT AS media
            FROM described GROUP BY ALL)
        SELECT * EXCLUDE (most_given, occurrences, media), coalesce({by_file}, most_given) AS vernacular_name,
               $checklist_key AS checklist_key, occurrences, media
        FROM taxon ORDER BY media DESC, {", ".join(f'"{one}"' for one in IDENTITY)}, label""",
        params={"checklist_key": checklist_key},
    ).pl()


def _own_names(taxonomy: Taxonomy) -> pl.DataFrame:
    if taxonomy.vernacular_names is None:
        return pl.DataFrame(schema={"scientific_name": pl.String, "vernacular_name": pl.String})
    return read_vernacular_names(Path(taxonomy.vernacular_names))


def _from_file(column: str) -> str:
    return f"(SELECT n.vernacular_name FROM own_names n WHERE n.scientific_name = taxon.{column})"


def _decision(name: Name, value: str, column: str) -> str:
    """SQL: what becomes of the taxon, in plain words."""
    rank = name.text("taxon_rank")
    accepted = f"coalesce({name.accepted}, {name.species}, 'another name')"
    below = f"coalesce(lower(replace({rank}, '_', ' ')), 'subspecies') || ' of ' || {name.species}"
    term = column.removesuffix("_key")
    higher = RANKS[: RANKS.index(term)] if term in RANKS else ()
    above = f"{name.rank} IN ({', '.join(repr(one.upper()) for one in ('', *higher))})"
    left_out = "".join(
        f"WHEN {condition.fails} THEN 'left out: {condition.filter.partition('_')[0]}' "
        for condition in name.conditions
    )
    return f"""
        CASE {left_out}
             WHEN {value} IS NULL AND coalesce({name.own}, {name.key}, {name.species}) IS NULL THEN 'no name: no label'
             WHEN {value} IS NULL AND {above} THEN 'identified to ' || {rank} || ' only: no label'
             WHEN {value} IS NULL THEN 'no {term}: no label'
             WHEN {name.renamed} THEN 'synonym of ' || {accepted}
             WHEN {name.subspecies} AND {name.species} IS NOT NULL THEN {below}
             WHEN {name.rank} = 'UNRANKED' AND {name.species} IS NOT NULL THEN 'unranked, of ' || {name.species}
             WHEN {name.hybrid} THEN 'hybrid'
             ELSE 'as it is' END"""
