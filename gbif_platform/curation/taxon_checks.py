"""Checks of the names and lineages in a catalogue, before pictures are fetched and after."""

from collections.abc import Callable

import duckdb
import polars as pl

from gbif_platform.curation.spec import Taxonomy
from gbif_platform.curation.taxonomy import BELOW_SPECIES, NAMES, TAXON_COLUMNS, Name, binomial, trinomial
from gbif_platform.gbif.terms import snake_case
from gbif_platform.storage.tables import RANKS

DESCRIPTIONS = {
    "ranks_present": "labels whose lineage lacks a rank that other labels have",
    "one_lineage_per_name": "labels with a name, their own or a higher taxon's, that lies in two lineages: homonyms",
    "names_tidy": "labels with stray blanks, control characters, wrong case, '?', 'sp.' or 'cf.' in their names",
    "no_synonyms_left": "labels that the snapshot's taxa know as a synonym of another label",
    "one_rank": "labels of another rank than most",
}
"""What each check looks for; it passes where no row is at fault."""
UNCERTAIN = r"\?|(^|\s)(sp|spp|cf|aff|nr|indet)\.?(\s|$)"
NOTHING = "SELECT label, NULL::VARCHAR AS problem FROM names WHERE false"
_COLUMNS = ", ".join(f'nullif(trim("{rank}"), \'\') AS "{rank}"' for rank in RANKS)


def taxon_problems(
    con: duckdb.DuckDBPyConnection,
    catalogue: duckdb.DuckDBPyRelation,
    *,
    label: str,
    taxa: duckdb.DuckDBPyRelation | None = None,
) -> dict[str, pl.DataFrame]:
    """The rows at fault by check, for each of `DESCRIPTIONS`: `label`, `problem`, `media`, most media first.

    Args:
        catalogue: `label`, `scientific_name`, `taxon_rank`, `taxon_key` and the lineage, one row a medium; rows without
            a label are left alone.
        label: the dataset's label. Where it is no taxon, the scientific names are checked in its place.
        taxa: rows of table `taxa` of the same snapshot; without them no synonym is known.
    """
    column = snake_case(label)
    subject = "label" if column in TAXON_COLUMNS else "scientific_name"
    names = con.sql(f"""
        SELECT {subject} AS label, scientific_name, upper(taxon_rank) AS taxon_rank, taxon_key, {_COLUMNS},
               count(*) AS media
        FROM catalogue WHERE label IS NOT NULL AND {subject} IS NOT NULL GROUP BY ALL""").to_arrow_table()
    term = column if subject == "label" else "scientific_name"
    checks: dict[str, Callable[[], str]] = {
        "ranks_present": lambda: _ranks_present(con, names),
        "one_lineage_per_name": lambda: _one_lineage(term),
        "names_tidy": lambda: _names_tidy(term),
        "no_synonyms_left": lambda: _no_synonyms(taxa is not None),
        "one_rank": lambda: _one_rank(term),
    }
    return {name: _frame(con, checks[name](), names, taxa) for name in DESCRIPTIONS}


def _frame(
    con: duckdb.DuckDBPyConnection, problems: str, names: object, taxa: duckdb.DuckDBPyRelation | None
) -> pl.DataFrame:
    """Rows of a query over `names` and `taxa`, found by these names: several problems of a label become one row."""
    return con.sql(f"""
        WITH faults AS (
            SELECT label, string_agg(DISTINCT problem, '; ' ORDER BY problem) AS problem
            FROM ({problems}) WHERE problem IS NOT NULL GROUP BY label),
        labels AS (SELECT label, sum(media)::BIGINT AS media FROM names GROUP BY label)
        SELECT label, problem, media FROM faults JOIN labels USING (label) ORDER BY media DESC, label""").pl()


def _position(rank: str) -> str:
    """SQL: how far down a rank is, 0 = kingdom; what lies below the species counts as 7, an unknown rank as null."""
    order = " ".join(f"WHEN '{name.upper()}' THEN {place}" for place, name in enumerate(RANKS))
    below = ", ".join(f"'{name}'" for name in sorted(BELOW_SPECIES))
    return f"CASE {rank} {order} ELSE CASE WHEN {rank} IN ({below}) THEN {len(RANKS)} END END"


def _ranks_present(con: duckdb.DuckDBPyConnection, names: object) -> str:
    counts = con.sql("SELECT " + ", ".join(f'count("{rank}")' for rank in RANKS) + " FROM names").fetchone() or ()
    used = [(place, rank) for place, (rank, count) in enumerate(zip(RANKS, counts, strict=True)) if count]
    filled = [f'CASE WHEN "{rank}" IS NOT NULL THEN {place} END' for place, rank in enumerate(RANKS)]
    lowest = f"greatest({_position('taxon_rank')}, {', '.join(filled)})"  # the lowest place that the row is known to
    gaps = ", ".join(f"""CASE WHEN "{rank}" IS NULL AND {place} < lowest THEN '{rank}' END""" for place, rank in used)
    return f"""
        SELECT label, 'no ' || nullif(concat_ws(', ', {gaps or "NULL"}), '') AS problem
        FROM (SELECT *, {lowest} AS lowest FROM names)"""


def _one_lineage(term: str) -> str:
    """Each name is compared by its nearest higher rank, so that one wrong family is told once, not for each species."""
    below = RANKS.index(term) if term in RANKS else len(RANKS)
    pairs = [*_pairs("label", below), *(pair for place in range(1, below) for pair in _pairs(RANKS[place], place))]
    if not pairs:  # a kingdom lies in nothing
        return NOTHING
    return f"""
        WITH pairs AS (SELECT label, unnest([{", ".join(pairs)}], recursive := true) FROM names),
        parents AS (
            SELECT name, place, rank, list_sort(list(DISTINCT parent)) AS found, list(DISTINCT label) AS labels
            FROM pairs WHERE name IS NOT NULL AND parent IS NOT NULL GROUP BY name, place, rank, higher
            QUALIFY row_number() OVER (PARTITION BY name, place ORDER BY higher DESC) = 1)
        SELECT unnest(labels) AS label, name || ' lies in ' || rank || ' ' || array_to_string(found, ' and ') AS problem
        FROM parents WHERE len(found) > 1"""


def _pairs(column: str, place: int) -> list[str]:
    """SQL structs: a name beside each rank above it."""
    return [
        f"""{{name: "{column}", place: {place}, higher: {higher}, rank: '{rank}', parent: "{rank}"}}"""
        for higher, rank in enumerate(RANKS[:place])
    ]


def _names_tidy(term: str) -> str:
    """The label and the higher taxa of its lineage; a label that is a key is no name."""
    above = RANKS[: RANKS.index(term)] if term in RANKS else RANKS
    named = [f"""{{rank: '{rank}', name: "{rank}"}}""" for rank in above]
    if not term.endswith("_key"):
        named.append(f"{{rank: '{term}', name: label}}")
    return f"""
        WITH every AS (SELECT DISTINCT label, unnest([{", ".join(named)}], recursive := true) FROM names),
        named AS (
            SELECT *, lower(regexp_replace(trim(name), '\\s+', ' ', 'g')) AS same FROM every WHERE name IS NOT NULL),
        spelt AS (
            SELECT rank, same, string_agg(DISTINCT name, ', ' ORDER BY name) AS spellings
            FROM named GROUP BY ALL HAVING count(DISTINCT name) > 1)
        SELECT label, name || ': ' || unnest([
            CASE WHEN regexp_matches(name, '[\\p{{Cc}}\\p{{Cf}}]') THEN 'control character' END,
            CASE WHEN name <> trim(name) OR regexp_matches(name, '\\s\\s|[\\p{{Zl}}\\p{{Zp}}\\x{{a0}}]')
                 THEN 'stray blank' END,
            CASE WHEN regexp_matches(name, '{UNCERTAIN}') THEN 'not a definite name' END,
            CASE WHEN regexp_matches(name, '^(× ?|x )?\\p{{Ll}}') THEN 'starts in lower case' END,
            CASE WHEN regexp_matches(name, '^\\p{{Lu}}[\\p{{Lu}} ]{{2,}}$') THEN 'in capitals'
                 WHEN rank = 'species' AND regexp_matches(name, '^(× ?|x )?\\p{{L}}\\S* (× ?|x )?\\p{{Lu}}')
                 THEN 'epithet in capitals' END,
            'also spelt ' || spellings
        ]) AS problem FROM named LEFT JOIN spelt USING (rank, same)"""


def _no_synonyms(known: bool) -> str:
    if not known:
        return NOTHING
    name = Name([*NAMES, "taxon_key", "accepted_taxon_key", "taxonomic_status", "species"], Taxonomy())
    spelt = f"[{name.own}, {name.key}, {binomial(name.own)}, {trinomial(name.own)}]"
    return f"""
        WITH synonyms AS (
            SELECT unnest({spelt}) AS synonym, o.label AS counts_as, coalesce({name.accepted}, {name.species}) AS taxon
            FROM taxa o WHERE {name.renamed})
        SELECT n.label, 'synonym of ' || synonyms.taxon AS problem
        FROM names n JOIN synonyms ON n.label = synonyms.synonym AND synonyms.counts_as IS DISTINCT FROM n.label"""


def _one_rank(term: str) -> str:
    """A label has the rank of its term, else of its records; records that were rolled up to it are of a species."""
    below = ", ".join(f"'{rank}'" for rank in (*sorted(BELOW_SPECIES), "UNRANKED"))
    own = f"coalesce(label IN (taxon_key, scientific_name, {trinomial('scientific_name')}), false)"
    of_term = f"""WHEN label = "{term}" THEN '{term.upper()}'""" if term in RANKS else ""
    return f"""
        WITH ranked AS (
            SELECT label, media, CASE {of_term} WHEN taxon_rank IN ({below}) AND NOT {own} THEN 'SPECIES'
                                      ELSE taxon_rank END AS rank FROM names),
        labels AS (
            SELECT label, rank FROM ranked WHERE rank IS NOT NULL GROUP BY label, rank
            QUALIFY row_number() OVER (PARTITION BY label ORDER BY sum(media) DESC, rank) = 1),
        usual AS (SELECT rank, count(*) AS labels FROM labels GROUP BY rank ORDER BY labels DESC, rank LIMIT 1)
        SELECT label, labels.rank || ', while ' || usual.labels || ' labels are ' || usual.rank AS problem
        FROM labels, usual WHERE labels.rank <> usual.rank"""
