"""Scientific names as taxon keys: what GBIF matches exactly is taken, the rest waits for a person in a review table."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from gbif_platform.dataset import Selection
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.checklists import BACKBONE, check_taxon_keys, checklist_key
from gbif_platform.gbif.client import GbifClient, Json
from gbif_platform.gbif.errors import WrongChecklist
from gbif_platform.gbif.retry import Progress
from gbif_platform.gbif.search_fields import as_query
from gbif_platform.gbif.species import EXACT, Match
from gbif_platform.settings import fingerprint

GIVEN = "GIVEN"
"""Match type of a name whose taxon key a person has given."""
REVIEW = {
    "name": pl.String,
    "accepted": pl.Boolean,
    "reason": pl.String,
    "match_type": pl.String,
    "confidence": pl.Int32,
    "usage_key": pl.String,
    "usage_name": pl.String,
    "usage_rank": pl.String,
    "status": pl.String,
    "accepted_key": pl.String,
    "accepted_name": pl.String,
    "checklist_key": pl.String,
    "note": pl.String,
    "alternatives": pl.String,
}
"""Columns of the review table: those of `name_matches` after its keys."""

_LARGEST_FILE = 64 * 1024**2
_HEADINGS = ("scientificname", "name")
_REASONS = {
    GIVEN: "given",
    "FUZZY": "spelt differently",
    "HIGHERRANK": "only a higher rank matches",
    "NONE": "no match",
    "AGGREGATE": "a species aggregate",
    "VARIANT": "a variant of the name",
}


class BadChecklist(PlatformError):
    """A file of names cannot be used; the message has file and line."""


class NoNameAccepted(PlatformError):
    """None of the names is one that GBIF knows exactly."""


@dataclass(frozen=True)
class Name:
    """A name as a person wrote it, with the taxon key that a person gave, and where it stands."""

    text: str
    taxon_key: str | None = None
    checklist_key: str | None = None
    place: str = "names"


# Files


def read_checklist(path: Path) -> list[Name]:
    """The names in a file: one a line (# starts a comment), or CSV or TSV with a column scientificName or name.

    A column taxonKey decides a name, and checklistKey says which taxonomy the key belongs to.

    Raises:
        BadChecklist: it is missing, empty, too large, no UTF-8, or has a header without a column of names.
    """
    text = _text(path)
    lines = text.splitlines()
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = next((one for one in "\t;" if one in first), ",")
    headings = {one.strip().strip('"').lower() for one in first.split(delimiter)}
    if first and (path.suffix.lower() in (".csv", ".tsv") or headings.intersection(_HEADINGS)):
        names = list(_table(path, text, delimiter))
    else:
        names = [
            Name(" ".join(line.partition("#")[0].split()), place=f"{path.name}:{number}")
            for number, line in enumerate(lines, 1)
        ]
    found = [name for name in names if name.text]
    if not found:
        raise BadChecklist(f"{path}:1: there is no name in it", "write one scientific name a line")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadChecklist(f"{path}:1: more than {_LARGEST_FILE // 1024**2} MiB", "give a list of names")
        content = path.read_bytes()
    except OSError as error:
        raise BadChecklist(
            f"cannot read {path}: {error.strerror}", "correct `checklist` in the dataset file"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadChecklist(f"{path}:{line}: not UTF-8", "save the file as UTF-8") from error


def _table(path: Path, text: str, delimiter: str) -> Iterable[Name]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: dict[str, int] | None = None
    width = 0
    try:
        for row in reader:
            line = reader.line_num
            if not any(one.strip() for one in row) or row[0].lstrip().startswith("#"):
                continue
            if columns is None:
                columns, width = _columns(path, line, row), len(row)
                continue
            if len(row) > width:
                raise BadChecklist(
                    f"{path}:{line}: {len(row)} values for {width} columns", 'quote values that hold a comma: "…"'
                )
            cells = {name: " ".join(row[at].split()) for name, at in columns.items() if at < len(row)}
            own = cells.get("checklistkey")
            name = next((cells[one] for one in _HEADINGS if cells.get(one)), "")
            if cells.get("taxonkey") and not name:
                name = f"taxonKey {cells['taxonkey']}"
            yield Name(name, cells.get("taxonkey") or None, checklist_key(own) if own else None, f"{path.name}:{line}")
    except csv.Error as error:
        raise BadChecklist(f"{path}:{reader.line_num}: {error}", "correct the line, or quote its values") from error
    except WrongChecklist as error:
        raise BadChecklist(f"{path}:{reader.line_num}: {error.cause}", error.next_step) from error


def _columns(path: Path, line: int, row: list[str]) -> dict[str, int]:
    columns = {one.strip().lower(): at for at, one in reversed(list(enumerate(row)))}
    if not set(columns) & set(_HEADINGS):
        raise BadChecklist(
            f"{path}:{line}: the header has no column scientificName or name, it has {', '.join(row)[:200]}",
            "name the column with the scientific names `scientificName`",
        )
    return columns


# Matching


def read_names(selection: Selection) -> list[Name]:
    """The names of a dataset file and of its checklist file.

    Raises:
        BadChecklist
    """
    written = [Name(" ".join(name.split())) for name in selection.names if name.strip()]
    return written + (read_checklist(Path(selection.checklist)) if selection.checklist else [])


def chosen_checklist(selection: Selection) -> str | None:
    """The taxonomy of a selection, as a UUID; None = GBIF's default, the backbone.

    Raises:
        WrongChecklist: there is no such one, or the query names another one.
    """
    chosen = checklist_key(selection.checklist_key)
    in_query = as_query(selection.query).get("checklistKey")
    own = checklist_key(in_query) if isinstance(in_query, str) else None
    if chosen and own and chosen != own:
        raise WrongChecklist(f"the query says checklistKey {own}, checklist_key {chosen}", "say it once")
    return chosen or own


async def match_names(
    gbif: GbifClient,
    names: Iterable[Name | str],
    checklist: str | None,
    cache: Path,
    progress: Progress | None = None,
) -> list[Match]:
    """How GBIF reads each name, each once, one call after the other.

    Args:
        checklist: taxonomy to match in (a UUID), None = the backbone.
        cache: folder; what GBIF has answered there is not asked again.
        progress: called with names so far, names in all, and "names".

    Returns:
        One match for each distinct name, in their order; those with a given taxon key have match type GIVEN.

    Raises:
        WrongChecklist: a given taxon key cannot be of the checklist.
    """
    key = checklist or BACKBONE
    wanted = _distinct(Name(name) if isinstance(name, str) else name for name in names)
    known = _Answers(cache / f"names-{fingerprint(key)}.jsonl")
    matches: list[Match] = []
    for name in wanted:
        match = _given(name, key) if name.taxon_key else known.get(name.text)
        if match is None:
            match = await gbif.match(name.text, checklist_key=key)
            known.add(match)
        matches.append(match)
        if progress:
            progress(len(matches), len(wanted), "names")
    return matches


def _distinct(names: Iterable[Name]) -> list[Name]:
    """Each name once, where it stands first; a given taxon key wins."""
    found: dict[str, Name] = {}
    for name in names:
        first = found.setdefault(name.text, name)
        if not first.taxon_key and name.taxon_key:
            found[name.text] = name
        elif name.taxon_key and name.taxon_key != first.taxon_key:
            raise BadChecklist(
                f"{name.place}: {name.text!r} has taxonKey {name.taxon_key}, but {first.taxon_key} at {first.place}",
                "keep one of them",
            )
    return list(found.values())


def _given(name: Name, checklist: str) -> Match:
    if name.checklist_key and name.checklist_key != checklist:
        raise WrongChecklist(
            f"{name.place}: taxonKey {name.taxon_key} belongs to checklist {name.checklist_key}, the dataset's is "
            f"{checklist}",
            "give the key of the dataset's checklist, or change checklist_key",
        )
    try:
        check_taxon_keys({"taxonKey": name.taxon_key}, checklist)
    except WrongChecklist as error:
        raise WrongChecklist(f"{name.place}: {error.cause}", error.next_step) from error
    key = name.taxon_key
    return Match(name.text, checklist, GIVEN, key, accepted_key=key, note=f"taxonKey given at {name.place}")


class _Answers:
    """GBIF's matches in a file, one a line; a line that was cut is asked again."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._known: dict[str, Match] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                content = json.loads(line)
                match = Match(**content | {"alternatives": tuple(content["alternatives"])})
            except (ValueError, TypeError, KeyError):
                continue
            self._known[match.name] = match

    def get(self, name: str) -> Match | None:
        return self._known.get(name)

    def add(self, match: Match) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(asdict(match))}")  # the line end first: a cut line stays by itself


# Decisions


def accepted(match: Match) -> bool:
    """Whether a name is taken without a review: exactly matched, not widened to a higher rank; or given."""
    return match.match_type == GIVEN or (match.exact and not match.widened)


def reason(match: Match) -> str:
    """Why a name is taken or not."""
    if match.widened:
        return "a synonym of a higher rank"
    if match.match_type == EXACT:
        return "synonym" if match.accepted_key != match.usage_key else "exact"
    if "multiple equal matches" in match.note.lower():
        return "homonym"
    return _REASONS.get(match.match_type, match.match_type.lower())


def review(matches: Iterable[Match]) -> pl.DataFrame:
    """All matches with what was decided, `REVIEW`'s columns; two names of one taxon are both accepted, and noted."""
    first: dict[str, str] = {}
    rows = []
    for match in matches:
        taken = accepted(match)
        note = match.note
        if taken and match.accepted_key and first.setdefault(match.accepted_key, match.name) != match.name:
            note = "; ".join(filter(None, [note, f"the same taxon as {first[match.accepted_key]}"]))
        rows.append(
            {
                "name": match.name,
                "accepted": taken,
                "reason": reason(match),
                "match_type": match.match_type,
                "confidence": match.confidence,
                "usage_key": match.usage_key,
                "usage_name": match.usage_name,
                "usage_rank": match.rank,
                "status": match.status,
                "accepted_key": match.accepted_key,
                "accepted_name": match.accepted_name,
                "checklist_key": match.checklist_key,
                "note": note,
                "alternatives": "; ".join(match.alternatives),
            }
        )
    return pl.DataFrame(rows, schema=REVIEW)


def taxon_keys(matches: Iterable[Match]) -> list[str]:
    """Keys of the accepted taxa, each once, sorted."""
    return sorted({match.accepted_key for match in matches if accepted(match) and match.accepted_key})


async def resolved_query(
    gbif: GbifClient, selection: Selection, cache: Path, progress: Progress | None = None
) -> tuple[Json, pl.DataFrame]:
    """The query of a selection with its names as taxon keys, and the review table.

    Taxon keys of the query and of the names are alternatives; everything else in the query narrows them. The keys are
    those of `chosen_checklist(selection)`.

    Raises:
        NoNameAccepted: there are names, but none is taken.
        UnknownField, WrongChecklist, BadChecklist, GbifError
    """
    query = as_query(selection.query)
    names = read_names(selection)
    if not names:
        return query, review([])
    matches = await match_names(gbif, names, chosen_checklist(selection), cache, progress)
    keys = taxon_keys(matches)
    if not keys:
        said = "; ".join(f"{match.name}: {reason(match)}" for match in matches[:5])
        more = f"; and {len(matches) - 5:,} more" if len(matches) > 5 else ""
        raise NoNameAccepted(
            f"GBIF knows none of the {len(matches):,} names exactly: {said}{more}",
            "correct the spelling, or give a CSV checklist with a column taxonKey that decides them",
        )
    return as_query(query | {"taxonKey": [*_listed(query.get("taxonKey")), *keys]}), review(matches)


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else value if isinstance(value, list) else [value]
