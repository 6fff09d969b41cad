"""The label of an occurrence as SQL: which taxon it counts as, by the dataset file's policies.

In a GBIF archive `species`, `genus`, … and their keys are those of the accepted taxon already; `scientificName` and
`taxonKey` are those of the name that GBIF matched, which may be a synonym or lie below the species.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import uuid4

import duckdb

from gbif_platform.curation.filters import BOOKKEEPING, Condition
from gbif_platform.curation.spec import Taxonomy
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.terms import snake_case
from gbif_platform.storage.lake import quoted
from gbif_platform.storage.tables import RANKS

VERSION = "1"
BELOW_SPECIES = frozenset(
    "SUBSPECIES VARIETY SUBVARIETY FORM SUBFORM INFRASPECIFIC_NAME INFRASUBSPECIFIC_NAME FORMA_SPECIALIS GREX "  # noqa: SIM905
    "CULTIVAR CULTIVAR_GROUP CONVARIETY PROLES RACE NATIO ABERRATION MORPH MUTATIO LUSUS PATHOVAR BIOVAR CHEMOVAR "
    "MORPHOVAR PHAGOVAR SEROVAR CHEMOFORM STRAIN".split()
)
"""Ranks of GBIF's vocabulary Rank that lie below the species."""
NAMES = ("scientific_name", "accepted_scientific_name")
KEYS = ("taxon_key", "accepted_taxon_key")
BETWEEN_RANKS = ("superfamily", "subfamily", "tribe", "subtribe", "subgenus", "subgenus_key")
TAXON_COLUMNS = frozenset([*RANKS, *(f"{rank}_key" for rank in RANKS), *NAMES, *KEYS, *BETWEEN_RANKS])
"""Labels that are taxa; of any other one the occurrence's plain value counts."""

_EPITHET = r"[\p{Ll}\d][\p{Ll}\d’''-]+"  # doubled: it stands within a SQL text
_HYBRID_SIGN = r"(?:(?:×|x )\s*)?"
_BINOMIAL = rf"^({_HYBRID_SIGN}\p{{Lu}}[\p{{L}}-]+)(?: \([^)]+\))? ({_HYBRID_SIGN}{_EPITHET})"
_MARKER = r"(?: (?:notho)?(?:subsp|ssp|subvar|var|subf|forma|fo|f|convar)\.?)?"
_TRINOMIAL = rf"{_BINOMIAL}{_MARKER} ({_EPITHET})(?: |$)"


class UnknownLabel(PlatformError):
    """The label is no column of the occurrences, or an empty one."""


@dataclass(frozen=True)
class Labelling:
    """What an occurrence is labelled with.

    `column` is that of the label's term; `sql` a VARCHAR expression over the alias `o` (an occurrence), null where
    there is no label; `conditions` rule occurrences out before, in the order of the funnel.
    """

    column: str
    sql: str
    conditions: list[Condition]


def labelling(
    con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, label: str, taxonomy: Taxonomy
) -> Labelling:
    """The label of an occurrence by a term and the taxonomic policies; `docs/taxonomy.md` has examples.

    Args:
        con: where the SQL will run; a small temporary table may be left there.
        label: any GBIF or Darwin Core term, spelt as in the archive or in snake case.

    Raises:
        UnknownLabel: no such column, or nothing in it.
        PlatformError: a policy needs a term that the archive does not have.
    """
    column = label_column(con, occurrences, label)
    _require_terms(con, occurrences, column, taxonomy)
    name = Name(occurrences.columns, taxonomy)
    if column == "species":
        sql = name.species_label
    elif column in NAMES:
        rolled_up = taxonomy.subspecies != "keep"
        sql = name.name_label(column, _species_names(con, occurrences, name) if rolled_up else "")
    elif column in KEYS:
        sql = name.key_label(column)
    else:
        sql = name.text(column)
    return Labelling(column, sql, name.conditions)


def label_column(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, label: str) -> str:
    """The column of a GBIF or Darwin Core term.

    Raises:
        UnknownLabel: no such column, or nothing in it; the message lists the columns that could serve.
    """
    column = snake_case(label)
    if column not in BOOKKEEPING and _filled(con, occurrences, [column]):
        return column
    texts = [
        name
        for name, kind in zip(occurrences.columns, occurrences.types, strict=True)
        if str(kind) == "VARCHAR" and name not in BOOKKEEPING
    ]
    raise UnknownLabel(
        f"label {label!r} is no column with values; there are: {', '.join(_filled(con, occurrences, texts))}",
        "correct label: in the dataset file",
    )


class Name:
    """SQL about the name that an occurrence (alias `o`) is identified as; columns that there are not count as null."""

    def __init__(self, columns: Collection[str], taxonomy: Taxonomy) -> None:
        self.columns = frozenset(columns)
        self.taxonomy = taxonomy
        self.rank = f"regexp_replace(upper({self.text('taxon_rank')}), '^NOTHO_?', '')"
        self.own, self.accepted = (self.text(column) for column in NAMES)
        self.key, self.accepted_key = (self.text(column) for column in KEYS)
        self.species, self.species_key = self.text("species"), self.text("species_key")
        self.epithet = self.text("infraspecific_epithet")

    def text(self, column: str) -> str:
        """SQL: the trimmed value of a column, null where it is blank."""
        return (
            rf"""nullif(trim(o."{column}"::VARCHAR, E' \t\r\n'), '')""" if column in self.columns else "NULL::VARCHAR"
        )

    @property
    def synonym(self) -> str:
        """SQL boolean, never null: GBIF says that the name is a synonym; without a status, that its key is another."""
        status = f"upper({self.text('taxonomic_status')})"
        return (
            f"coalesce(CASE WHEN {status} IS NULL THEN {self.accepted_key} <> {self.key} "
            f"ELSE {status} LIKE '%SYNONYM%' OR {status} = 'MISAPPLIED' END, false)"
        )

    @property
    def renamed(self) -> str:
        """SQL boolean, never null: a synonym whose accepted taxon is another one than itself, as its keys tell."""
        return f"({self.synonym} AND coalesce({self.accepted_key} <> {self.key}, true))"

    @property
    def subspecies(self) -> str:
        """SQL boolean, never null: the taxon that counts lies below the species and has a rank."""
        by_rank = f"({_in(self.rank, BELOW_SPECIES)} OR ({self.rank} IS NULL AND {self.epithet} IS NOT NULL))"
        if self.taxonomy.synonyms == "as_identified":
            return f"coalesce({by_rank}, false)"
        by_key = f"{self.accepted_key} <> {self.species_key}"
        return f"coalesce(CASE WHEN {self.renamed} AND {by_key} IS NOT NULL THEN {by_key} ELSE {by_rank} END, false)"

    @property
    def hybrid(self) -> str:
        """SQL boolean, never null: × or a lone x in the name, or a rank that begins with notho-."""
        names = f"concat_ws(' ', {self.own}, {self.accepted}, {self.species})"
        rank = f"coalesce(upper({self.text('taxon_rank')}), '')"
        return rf"(regexp_matches({names}, '×|(^|\s)x\s') OR {rank} LIKE 'NOTHO%')"

    @property
    def conditions(self) -> list[Condition]:
        """What the policies leave out."""
        chosen = {
            "synonym_left_out": (self.taxonomy.synonyms, self.synonym),
            "subspecies_left_out": (self.taxonomy.subspecies, self.subspecies),
            "hybrid_left_out": (self.taxonomy.hybrids, self.hybrid),
        }
        detail = f"coalesce({self.own}, {self.species}, '')"
        return [Condition(reason, fails, detail) for reason, (policy, fails) in chosen.items() if policy == "leave_out"]

    @property
    def species_label(self) -> str:
        """SQL: the label for the term `species`."""
        if self.taxonomy.subspecies == "keep":
            label = (
                f"CASE WHEN {self.subspecies} THEN coalesce({self._trinomial}, {self.species}) ELSE {self.species} END"
            )
        else:
            label = self.species
        if self.taxonomy.synonyms != "as_identified":
            return label
        own = binomial(self.own)
        if self.taxonomy.subspecies == "keep":
            own = f"CASE WHEN {self.subspecies} THEN coalesce({self._own_trinomial}, {own}) ELSE {own} END"
        # a genus with the author "de Geer" would read as a binomial: the rank decides
        to_species = _in(self.rank, ["SPECIES", *BELOW_SPECIES])
        to_species = f"coalesce({to_species}, {self.species} IS NOT NULL)"
        return f"CASE WHEN {self.renamed} AND {to_species} THEN coalesce({own}, {self.species}) ELSE {label} END"

    def name_label(self, column: str, species_names: str) -> str:
        """SQL: the label for `scientific_name` or `accepted_scientific_name`.

        Args:
            species_names: table of `species`, `name`: how the species' own records write it; not read where
                subspecies are kept.
        """
        name = self._accepted_unless_as_identified(column, "scientific_name", self.own, self.accepted)
        species = f"coalesce((SELECT n.name FROM {species_names} n WHERE n.species = {self.species}), {self.species})"
        if self.taxonomy.synonyms == "as_identified" and column == "scientific_name":
            species = f"CASE WHEN {self.renamed} THEN {binomial(self.own)} ELSE {species} END"
        return self._rolled_up(name, species)

    def key_label(self, column: str) -> str:
        """SQL: the label for `taxon_key` or `accepted_taxon_key`."""
        key = self._accepted_unless_as_identified(column, "taxon_key", self.key, self.accepted_key)
        return self._rolled_up(key, self.species_key)

    def _accepted_unless_as_identified(self, column: str, own_column: str, own: str, accepted: str) -> str:
        if column != own_column:
            return self.text(column)
        if self.taxonomy.synonyms == "as_identified":
            return own
        return f"CASE WHEN {self.renamed} THEN coalesce({accepted}, {own}) ELSE {own} END"

    def _rolled_up(self, value: str, species: str) -> str:
        """The species' value for what lies below it; so do also names without a rank within a species (BOLD, UNITE)."""
        if self.taxonomy.subspecies == "keep":
            return value
        below = f"({self.subspecies} OR coalesce({self.rank} = 'UNRANKED', false))"
        return f"CASE WHEN {below} THEN coalesce({species}, {value}) ELSE {value} END"

    @property
    def _trinomial(self) -> str:
        return f"CASE WHEN {self.renamed} THEN {trinomial(self.accepted)} ELSE {self._own_trinomial} END"

    @property
    def _own_trinomial(self) -> str:
        """The record's own words: a variety that counts as another species' now keeps its name."""
        first = f"coalesce({binomial(self.own)}, {self.species})"
        return f"coalesce({first} || ' ' || {self.epithet}, {trinomial(self.own)})"


def binomial(name: str) -> str:
    """SQL: genus and epithet of a scientific name, without subgenus and author; null where it has no epithet."""
    return _words(name, _BINOMIAL, 2)


def trinomial(name: str) -> str:
    """SQL: a name below the species as three words, without author and `subsp.`; null where it has no third."""
    return _words(name, _TRINOMIAL, 3)


def _words(name: str, pattern: str, count: int) -> str:
    single = rf"regexp_replace({name}, '\s+', ' ', 'g')"
    words = " || ' ' || ".join(f"regexp_extract({single}, '{pattern}', {n})" for n in range(1, count + 1))
    return f"CASE WHEN regexp_matches({single}, '{pattern}') THEN {words} END"


def _in(value: str, values: Collection[str]) -> str:
    return f"{value} IN ({', '.join(map(quoted, sorted(values)))})"


def _filled(
    con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, columns: Collection[str]
) -> list[str]:
    """Those of the columns that there are, and that hold a value; the lake's table has the columns of all datasets."""
    there = [column for column in columns if column in occurrences.columns]
    if not there:
        return []
    counts = ", ".join(f'count("{column}")' for column in there)
    found = con.sql(f"SELECT {counts} FROM occurrences").fetchone() or ()
    return [column for column, count in zip(there, found, strict=True) if count]


def _require_terms(
    con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, column: str, taxonomy: Taxonomy
) -> None:
    """Refuse a policy that was asked for and that the archive's terms cannot tell."""
    tells_synonyms: list[tuple[str, ...]] = [("taxonomicStatus",), ("taxonKey", "acceptedTaxonKey")]
    tells_subspecies: list[tuple[str, ...]] = [("taxonRank",), ("infraspecificEpithet",)]
    names: list[tuple[str, ...]] = [("scientificName",)]
    needs: list[tuple[str, list[tuple[str, ...]]]] = []
    if taxonomy.synonyms == "leave_out" or (taxonomy.synonyms == "as_identified" and column == "species"):
        needs.append((f"synonyms: {taxonomy.synonyms}", tells_synonyms))
    if taxonomy.synonyms == "as_identified" and column == "species":
        needs.append(("synonyms: as_identified", names))
    if taxonomy.subspecies == "leave_out" or (taxonomy.subspecies == "keep" and column == "species"):
        needs.append((f"subspecies: {taxonomy.subspecies}", tells_subspecies))
    if taxonomy.hybrids == "leave_out":
        needs.append(("hybrids: leave_out", [*names, ("species",)]))
    terms = {snake_case(term) for _, ways in needs for way in ways for term in way}
    there = set(_filled(con, occurrences, sorted(terms)))
    for setting, ways in needs:
        if not any(there.issuperset(map(snake_case, way)) for way in ways):
            raise PlatformError(
                f"taxonomy.{setting} needs {' or '.join(' and '.join(way) for way in ways)}, "
                "which the occurrences do not have",
                f"remove taxonomy.{setting.partition(':')[0]} from the dataset file",
            )


def _species_names(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation, name: Name) -> str:
    """A temporary table of `species`, `name`: the scientific name of each species as its own records have it.

    So that a subspecies gets the very label of its species, which a record of a subspecies does not hold. Each call
    makes its own: the SQL that reads it may run later, beside another one's.
    """
    table = f"species_names_{uuid4().hex[:12]}"
    of_species = f"CASE WHEN {name.renamed} THEN {name.accepted} ELSE {name.own} END"
    con.execute(
        f"CREATE TEMP TABLE {table} AS SELECT {name.species} AS species, min({of_species}) AS name FROM occurrences o "
        f"WHERE {name.species} IS NOT NULL AND coalesce({name.rank} = 'SPECIES', false) AND NOT {name.subspecies} "
        "GROUP BY 1"
    )
    return table
