"""Files that list pictures: text, delimited text, Parquet and JSON as Arrow tables in bounded memory.

Every row has its place (`row_ref`, such as `list.csv:12`: a line, in Parquet a row), every value is text. What cannot
be read is put aside with its place and a reason.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive_errors import MemberUnreadable
from gbif_platform.gbif.archive_files import DAMAGE, Member, MemberStream
from gbif_platform.gbif.archive_rows import Rejected, RowReader, TextFormat
from gbif_platform.gbif.terms import column_names

ROW_REF = "row_ref"
TEXT_URL = "url"
"""The one column of a plain text."""
OWN = (ROW_REF, "refused", "refused_detail", "dataset", "snapshot")
"""Names that a list's columns may not have."""
BATCH_ROWS = 20_000
# A character that no URL holds: the whole line is one field, commas and all.
NO_DELIMITER = "\x1f"
UNKNOWN_CHARACTER = "\ufffd"
EXCERPT = 120


class ListUnreadable(PlatformError):
    """There is no list, or it is no list."""


def files_of(path: Path) -> list[Path]:
    """The lists that a path names: a file, or those in a folder, by name.

    Raises:
        ListUnreadable: there are none.
    """
    if not path.exists():
        raise ListUnreadable(f"there is no list of URLs at {path}", "correct source.urls.files")
    found = sorted(file for file in path.iterdir() if _kind(file) in READERS) if path.is_dir() else [path]
    if not found or _kind(found[0]) not in READERS:
        known = ", ".join(f".{kind}" for kind in READERS)
        raise ListUnreadable(
            f"{path} is no list of URLs", f"known are {known}, texts also with .gz, and folders of them"
        )
    return found


def columns_of(file: Path) -> list[str]:
    """Names of a list's columns, as it has them; of JSON those of its first rows.

    Raises:
        ListUnreadable: it is damaged.
    """
    kind = _kind(file)
    with _readable(file):
        if kind == "txt":
            return [TEXT_URL]
        if kind == "parquet":
            return [field.name for field in pq.read_schema(file) if _is_plain(field.type)]
        if kind in ("csv", "tsv"):
            return _header(file)[0]
        firsts = (row for _, row in islice(_json_rows(file, []), 100))
        return list(dict.fromkeys(name for row in firsts for name in row))


def no_rows(path: Path) -> ListUnreadable:
    """What is said of a list, or a folder of lists, without a row."""
    return ListUnreadable(f"{path} lists no rows", "name a list with a URL in it")


def has_rows(file: Path) -> bool:
    """Whether a list has any row, be it one that cannot be read.

    Raises:
        ListUnreadable: it is damaged.
    """
    refused: list[Rejected] = []
    return any(rows.num_rows or refused for rows in tables(file, refused)) or bool(refused)


def tables(file: Path, refused: list[Rejected]) -> Iterator[pa.Table]:
    """The rows of a list: `row_ref`, and its columns in snake case as text.

    Args:
        refused: grows by the rows that cannot be read: wrong_field_count, not_utf8, not_json.

    Raises:
        ListUnreadable: it is damaged, or no list at all.
    """
    with _readable(file):
        yield from READERS[_kind(file)](file, refused)


def _kind(file: Path) -> str:
    """Ending without `.gz`: csv of list.csv.gz."""
    name = file.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix.removeprefix(".")
    return "" if kind == "parquet" and name.endswith(".gz") else kind


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except MemberUnreadable as error:
        raise ListUnreadable(error.cause, "check the file, and that its ending says what it is") from error
    except (*DAMAGE, pa.ArrowInvalid, ValueError) as error:
        raise ListUnreadable(
            f"{file} cannot be read: {error}", "check the file, and that its ending is right"
        ) from error


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], igzip.open(file, "rb")) if file.name.lower().endswith(".gz") else file.open("rb")


def _text(file: Path, refused: list[Rejected]) -> Iterator[pa.Table]:
    return _delimited(file, [TEXT_URL], TextFormat(1, delimiter=NO_DELIMITER), refused)


def _table(file: Path, refused: list[Rejected]) -> Iterator[pa.Table]:
    names, delimiter = _header(file)
    tabs = delimiter == "\t"  # GBIF's tables are not quoted, others' may be
    form = TextFormat(len(names), delimiter=delimiter, quote="" if tabs else '"', header_lines=1, quotes_if_shown=tabs)
    return _delimited(file, column_names(names, taken=OWN), form, refused)


def _header(file: Path) -> tuple[list[str], str]:
    """Column names of a delimited text, and its delimiter."""
    with _open(file) as stream:
        line = stream.readline(2**20).decode("utf-8-sig").rstrip("\r\n")
    delimiter = "\t" if _kind(file) == "tsv" else max(",;\t", key=line.count)
    return next(csv.reader([line], delimiter=delimiter), []), delimiter


def _delimited(file: Path, names: list[str], form: TextFormat, refused: list[Rejected]) -> Iterator[pa.Table]:
    member = Member(file.stat().st_size, partial(_open, file))
    reader = RowReader(partial(MemberStream, member, file.name), file.name, form)
    reader.rejected = refused
    replaced = 0
    yield pa.table({name: pa.nulls(0, pa.string()) for name in (ROW_REF, *names)})  # columns are known without a row
    for rows, lines in reader.tables():
        places = pc.binary_replace_slice(pc.cast(lines, pa.string()), 0, 0, f"{file.name}:")
        found = {names[int(column[1:])]: values for column, values in zip(rows.column_names, rows.columns, strict=True)}
        empty = pa.nulls(rows.num_rows, pa.string())
        table = pa.table({ROW_REF: places} | {name: found.get(name, empty) for name in names})
        if reader.replaced_characters > replaced:
            replaced = reader.replaced_characters
            table = _without_unknown_characters(table, refused)
        yield table


def _without_unknown_characters(table: pa.Table, refused: list[Rejected]) -> pa.Table:
    """The rows that were UTF-8; the reader has put U+FFFD for what was not."""
    masks = [pc.fill_null(pc.match_substring(table[name], UNKNOWN_CHARACTER), False) for name in table.column_names]
    bad = masks[0]
    for mask in masks[1:]:
        bad = pc.or_(bad, mask)
    for row in table.filter(bad).to_pylist():
        shown = next(value for value in row.values() if value and UNKNOWN_CHARACTER in value)
        refused.append(Rejected(row[ROW_REF], "not_utf8", _excerpt(shown)))
    return table.filter(pc.invert(bad))


def _parquet(file: Path, refused: list[Rejected]) -> Iterator[pa.Table]:
    with pq.ParquetFile(file) as source:
        plain = [field.name for field in source.schema_arrow if _is_plain(field.type)]
        names, row = column_names(plain, taken=OWN), 1
        for batch in source.iter_batches(BATCH_ROWS, columns=plain):
            texts = [pc.cast(batch[column], pa.string()) for column in plain]
            yield pa.table(
                dict(zip([ROW_REF, *names], [_places(file, range(row, row + len(batch))), *texts], strict=True))
            )
            row += len(batch)


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a value is one text, number, flag or time; pictures' bytes and lists are not passed on."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _json(file: Path, refused: list[Rejected]) -> Iterator[pa.Table]:
    rows = _json_rows(file, refused)
    while batch := list(islice(rows, BATCH_ROWS)):
        fields = list(dict.fromkeys(name for _, row in batch for name in row))
        columns = [pa.array([_as_text(row.get(name)) for _, row in batch], pa.string()) for name in fields]
        names = column_names(fields, taken=OWN)
        yield pa.table(dict(zip([ROW_REF, *names], [_places(file, [at for at, _ in batch]), *columns], strict=True)))


def _json_rows(file: Path, refused: list[Rejected]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with their line, or their number in an array; an array is held in memory as a whole."""
    with _open(file) as stream:
        whole = _kind(file) == "json" and stream.read(64).lstrip()[:1] == b"["
        stream.seek(0)
        values = json.load(stream) if whole else map(_parsed, stream)
        for number, value in enumerate(values, 1):
            if isinstance(value, dict):
                yield number, value
            elif value is not None:
                reason = "not_utf8" if isinstance(value, UnicodeDecodeError) else "not_json"
                refused.append(Rejected(f"{file.name}:{number}", reason, _excerpt(f"no object: {value}")))


def _parsed(line: bytes) -> Any:
    """The value of a line, None for a blank one; the error where it is no JSON."""
    try:
        return json.loads(line) if line.strip() else None
    except ValueError as error:
        return error


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _places(file: Path, numbers: range | list[int]) -> pa.Array:
    return pa.array([f"{file.name}:{number}" for number in numbers], pa.string())


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else text[:EXCERPT] + "…"


READERS: dict[str, Callable[[Path, list[Rejected]], Iterator[pa.Table]]] = {
    "txt": _text,
    "csv": _table,
    "tsv": _table,
    "parquet": _parquet,
    "json": _json,
    "jsonl": _json,
    "ndjson": _json,
}
