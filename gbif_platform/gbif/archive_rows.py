"""Delimited text as Arrow tables in bulk, with the line number of every row and a reason for every row that is refused.

A block of whole records goes through Arrow. Only a block in which something is irregular (a wrong number of fields, a
blank line, a line break within quotes) is looked at line by line. Memory is bounded by the block, not by the file.
"""

import codecs
import contextlib
import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from gbif_platform.gbif.archive_errors import MemberUnreadable
from gbif_platform.gbif.archive_files import MemberStream

BATCH_BYTES = 4 * 1024**2
# Texts that fit into a core's cache are parsed in two thirds of the time that larger ones take.
CACHE_BYTES = 1024**2
# Masks of so many bytes need no fresh memory from the system (M_MMAP_THRESHOLD of mallopt(3)).
WINDOW_BYTES = 120 * 1024
MAX_RECORD_BYTES = 32 * 1024**2
# A file of which so many rows are refused before one is accepted is not what its descriptor says.
MAX_REFUSED_AT_START = 1000
EXCERPT = 120

# GBIF's encoder encloses just the values that hold a quote, and doubles the quotes in them.
_ENCLOSED = re.compile(rb'"(?<![^\t\n]")[^"\t\n]*+(?:""[^"\t\n]*+)++"(?=[\t\r\n])')

# The csv module refuses fields above 128 kB by default; footprints (footprintWKT) are longer.
csv.field_size_limit(sys.maxsize)


class Rejected(NamedTuple):
    """A row that was refused. `row_ref` is like `multimedia.txt:1234`, `reason` a fixed word, `detail` for a person."""

    row_ref: str
    reason: str
    detail: str


@dataclass(frozen=True)
class TextFormat:
    """How a text is written; `width` is the number of fields of a row, `quote` is "" where quoting is off, unless
    `quotes_if_shown` and the whole text shows that it is quoted after all (has_csv_quotes)."""

    width: int
    encoding: str = "utf-8"
    delimiter: str = "\t"
    quote: str = ""
    newline: str = "\n"
    header_lines: int = 0
    quotes_if_shown: bool = False

    def settled(self, start: bytes) -> "TextFormat":
        """The format with what only the text's first lines can tell: `start` holds them."""
        text = start.decode(self.encoding, "replace").removeprefix("\ufeff")
        # A file that is said to end its lines with \r alone mostly does not.
        settled = replace(self, newline="\n") if "\n" in text else self
        lines = [line.rstrip("\r") for line in text.split(settled.newline)[: self.header_lines + 2]]
        # XML turns a literal tab in an attribute into a blank, and some writers leave out a delimiter that is no comma.
        if "\t" in lines[0] and (self.delimiter == " " or self.delimiter not in lines[0]):
            settled = replace(settled, delimiter="\t")
        # Columns may follow that no term names; the header line, where there is one, has to say so too.
        data = lines[self.header_lines : self.header_lines + 1]
        width = max((settled.count_fields(line) for line in data), default=0)
        if width > self.width and (
            not self.header_lines or settled.count_fields(lines[self.header_lines - 1]) == width
        ):
            return replace(settled, width=width)
        return settled

    def count_fields(self, line: str) -> int:
        """Number of fields of one line."""
        if not self.quote:
            return line.count(self.delimiter) + 1
        return len(next(csv.reader([line], delimiter=self.delimiter, quotechar=self.quote), []))


def has_csv_quotes(stream: MemberStream) -> bool:
    """Whether a tab-separated text shows, as a whole, the form in which GBIF writes small downloads: every value that
    holds a quote is enclosed and its quotes are doubled, though the descriptor says that there is no quoting."""
    shown, pending = False, b""
    while chunk := stream.read(BATCH_BYTES):
        lines, newline, pending = (pending + chunk).rpartition(b"\n")
        quotes = lines.count(b'"')
        if quotes and quotes != sum(value.count(b'"') for value in _ENCLOSED.findall(lines + newline)):
            return False
        shown = shown or quotes > 0
        if len(pending) > MAX_RECORD_BYTES:
            return False
    return shown and b'"' not in pending


class LineCounter:
    """Data lines of a raw text by its line ends, without parsing: not the header's and no blank ones."""

    def __init__(self, newline: str, header_lines: int) -> None:
        self.lines = 0
        self._newline = newline.encode()
        self._header = header_lines
        self._held, self._unfinished = b"", False

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the text; the empty ones at its end finish it."""
        if not chunk:
            self.lines += self._unfinished
            self._unfinished = False
            return
        text, self._held = self._held + chunk, b""
        while self._header:
            _, found, after = text.partition(self._newline)
            if not found:
                self._held = text
                return
            text, self._header = after, self._header - 1
        if b"\r" in text and self._newline == b"\n":
            text, self._held = (text[:-1], b"\r") if text.endswith(b"\r") else (text, b"")
            text = text.replace(b"\r\n", b"\n")
        for window in _windows(text):
            ends = window == ord(self._newline)
            blank = np.count_nonzero(ends[1:] & ends[:-1]) + (bool(ends[0]) and not self._unfinished)
            self.lines += int(np.count_nonzero(ends) - blank)
            self._unfinished = not ends[-1]


class RowReader:
    """The rows of one member.

    `rejected` grows while `tables` is iterated; `replaced_characters` counts the bytes that are not in the declared
    encoding (now U+FFFD) and the carriage returns within a line (now blanks); `counted` counts the raw lines apart from
    the parser. `types` are the Arrow types of columns by their index, text is the type of the others.
    """

    def __init__(
        self,
        open_stream: Callable[[], MemberStream],
        name: str,
        text_format: TextFormat,
        types: Mapping[int, pa.DataType] = MappingProxyType({}),
    ) -> None:
        self.rejected: list[Rejected] = []
        self.replaced_characters = 0
        self.rows = 0
        self.bytes_read = 0
        self.counted = LineCounter(text_format.newline, text_format.header_lines)
        self._open = open_stream
        self._name = name
        self._format = text_format
        self._delimiter = text_format.delimiter.encode()
        self._quoting_open = text_format.quotes_if_shown
        self._names = [f"c{i}" for i in range(text_format.width)]
        self._types = {f"c{i}": kind for i, kind in types.items()}
        self._filled: set[str] = set()

    def tables(self, batch_bytes: int = BATCH_BYTES) -> Iterator[tuple[pa.Table, pa.Array]]:
        """Tables of columns c0, c1, … with each row's line number from 1. Empty is null; a column without any value
        may be absent. A column of which one value cannot be read in its type is text from there on.

        Raises MemberUnreadable where the member is damaged or is no such table at all.
        """
        refused_before = len(self.rejected)
        _keep_freed_memory()
        with self._open() as stream:
            for block, line, count in self._blocks(stream, batch_bytes):
                if self._quoting_open and b'"' in block:
                    self._settle_quoting()
                table, lines = self._table(self._clean(block), line, count)
                self.rows += table.num_rows
                if not self.rows and len(self.rejected) - refused_before > MAX_REFUSED_AT_START:
                    raise MemberUnreadable(
                        f"no row of {self._name} has the {self._format.width} fields that its descriptor names: "
                        f"{self.rejected[-1].detail}",
                        "check fieldsTerminatedBy, fieldsEnclosedBy and the field indexes in meta.xml",
                    )
                if table.num_rows:
                    yield table, lines

    def _settle_quoting(self) -> None:
        # Not before a quote is met: up to here both ways of reading give the same rows.
        self._quoting_open = False
        with self._open() as stream:
            if has_csv_quotes(stream):
                self._format = replace(self._format, quote='"')

    def _blocks(self, stream: MemberStream, size: int) -> Iterator[tuple[bytes, int, int]]:
        """Whole records as UTF-8, each block with the number of its first line and of its lines; without the header."""
        pending, line, header = b"", 1, self._format.header_lines
        for chunk in self._chunks(stream, size):
            if header:
                pending, chunk = b"", pending + chunk
            while header and (end := chunk.find(b"\n") + 1):
                chunk, line, header = chunk[end:], line + 1, header - 1
            block, pending = (b"", chunk) if header else self._whole_records(pending, chunk)
            if block:
                count = _count(block, b"\n")
                yield block, line, count
                line += count
            elif len(pending) > MAX_RECORD_BYTES:
                raise MemberUnreadable(
                    f"line {line} of {self._name} has no end within {MAX_RECORD_BYTES} bytes", "check that it is a text"
                )
        if pending and not header:
            yield pending + b"\n", line, pending.count(b"\n") + 1

    def _chunks(self, stream: MemberStream, size: int) -> Iterator[bytes]:
        decoder = None
        if self._format.encoding not in ("utf-8", "ascii"):
            decoder = codecs.getincrementaldecoder(self._format.encoding)("replace")
        start, more = True, True
        while more:
            chunk = stream.read(size)
            more = bool(chunk)
            self.counted.feed(chunk)
            self.bytes_read += len(chunk)
            if decoder:
                text = decoder.decode(chunk, final=not more)
                self.replaced_characters += text.count("\ufffd")
                chunk = text.encode()
            if start and chunk:
                chunk, start = chunk.removeprefix(codecs.BOM_UTF8), False
            yield chunk.replace(b"\r", b"\n") if self._format.newline == "\r" else chunk

    def _whole_records(self, pending: bytes, chunk: bytes) -> tuple[bytes, bytes]:
        """The text up to the end of its last whole record, and the rest."""
        if self._format.quote:
            text = pending + chunk
            end = self._end_of_records(text)
            return text[:end], text[end:]
        end = chunk.rfind(b"\n") + 1
        return (b"".join((pending, memoryview(chunk)[:end])), chunk[end:]) if end else (b"", pending + chunk)

    def _end_of_records(self, text: bytes) -> int:
        """Where the last whole record of a quoted text ends: at a line break that is not within quotes."""
        end = text.rfind(b"\n") + 1
        quote = self._format.quote.encode()
        if text.count(quote, 0, end) % 2 == 0 or len(text) > MAX_RECORD_BYTES:
            return end
        characters = np.frombuffer(text, np.uint8)
        breaks = np.flatnonzero(characters == ord("\n"))
        quotes_before = np.searchsorted(np.flatnonzero(characters == ord(quote)), breaks)
        ends = breaks[quotes_before % 2 == 0]
        return int(ends[-1]) + 1 if len(ends) else 0

    def _clean(self, block: bytes) -> bytes:
        if not _is_utf8(block):
            text = block.decode("utf-8", "replace")
            self.replaced_characters += text.count("\ufffd") - block.count("\ufffd".encode())
            block = text.encode()
        if b"\r" in block and (stray := block.count(b"\r") - block.count(b"\r\n")):
            self.replaced_characters += stray
            block = re.sub(rb"\r(?!\n)", b" ", block)
        return block

    def _table(self, block: bytes, line: int, count: int) -> tuple[pa.Table, pa.Array]:
        table = self._filled_columns(block, count) or self._all_columns(block)
        if table is not None and table.num_rows == count:
            return table, pa.arange(line, line + count)
        return self._sorted_out_quoted(block, line) if self._format.quote else self._sorted_out(block, line)

    def _filled_columns(self, block: bytes, count: int) -> pa.Table | None:
        """The columns that held a value before, where all others are shown to be empty; else None.

        Most of GBIF's columns are empty, and to convert them takes a third of the time.
        """
        if self._format.quote or not self._filled:
            return None
        names = [name for name in self._names if name in self._filled]
        table = self._parsed(block, names)
        if table is None or table.num_rows != count:
            return None
        empty = sum(column.null_count for column in table.columns) + (self._format.width - len(names)) * count
        return table if empty == _empty_fields(block, self._delimiter) else None

    def _all_columns(self, block: bytes) -> pa.Table | None:
        table = self._parsed(block, [])
        if table is None:
            return None
        self._filled |= {name for name in self._names if table[name].null_count < table.num_rows}
        return table.select([name for name in self._names if name in self._filled])

    def _parsed(self, block: bytes, names: list[str]) -> pa.Table | None:
        """These columns, all where none is named; None for what is no table at all."""
        # At the second try a record may be longer than CACHE_BYTES, at the third values need not have their types.
        table = self._converted(block, names, CACHE_BYTES) or self._converted(block, names)
        if table is None and self._types:
            self._types = {n: kind for n, kind in self._types.items() if self._converted(block, [n]) is not None}
            table = self._converted(block, names)
        return table

    def _converted(self, block: bytes, names: list[str], at_once: int = 2 * MAX_RECORD_BYTES) -> pa.Table | None:
        with contextlib.suppress(pa.ArrowInvalid):
            return self._read_csv(block, names, at_once)
        return None

    def _read_csv(self, block: bytes, names: list[str], at_once: int) -> pa.Table:
        return pacsv.read_csv(
            pa.BufferReader(block),
            read_options=pacsv.ReadOptions(column_names=self._names, block_size=at_once, use_threads=False),
            parse_options=pacsv.ParseOptions(
                delimiter=self._format.delimiter,
                quote_char=self._format.quote or False,
                newlines_in_values=bool(self._format.quote),
                invalid_row_handler=lambda _: "skip",
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(self._names, pa.string()) | self._types,
                include_columns=names,
                strings_can_be_null=True,
                null_values=[""],
                true_values=["true"],
                false_values=["false"],
                check_utf8=False,
            ),
        )

    def _sorted_out(self, block: bytes, line: int) -> tuple[pa.Table, pa.Array]:
        """The good lines of an unquoted block; surplus fields that are all empty are cut off."""
        good, numbers = [], []
        for number, text in enumerate(block.split(b"\n")[:-1], line):
            if text in (b"", b"\r"):
                continue
            fields = text.rstrip(b"\r").split(self._delimiter)
            if not any(fields[self._format.width :]):
                fields = fields[: self._format.width]
            if len(fields) == self._format.width:
                good.append(self._delimiter.join(fields))
                numbers.append(number)
            else:
                self._reject(number, len(fields), text.decode())
        table = self._all_columns(b"".join(text + b"\n" for text in good)) if good else self._empty()
        if table is None or table.num_rows != len(good):
            raise MemberUnreadable(
                f"the block of {self._name} from line {line} on cannot be parsed", "report this file"
            )
        return table, pa.array(numbers, pa.int64())

    def _sorted_out_quoted(self, block: bytes, line: int) -> tuple[pa.Table, pa.Array]:
        """The good records of a quoted block, whose values may hold line breaks."""
        rows, numbers, number = [], [], line
        reader = csv.reader(
            io.StringIO(block.decode(), newline="\n"), delimiter=self._format.delimiter, quotechar=self._format.quote
        )
        for fields in reader:
            if not any(fields[self._format.width :]):
                fields = fields[: self._format.width]
            if len(fields) == self._format.width:
                rows.append(fields)
                numbers.append(number)
            elif fields:
                self._reject(number, len(fields), self._format.delimiter.join(fields))
            number = line + reader.line_num
        if not rows:
            return self._empty(), pa.nulls(0, pa.int64())
        columns = [pa.array([value or None for value in column], pa.string()) for column in zip(*rows, strict=True)]
        return pa.table(columns, names=self._names), pa.array(numbers, pa.int64())

    def _empty(self) -> pa.Table:
        return pa.schema([(name, pa.string()) for name in self._names]).empty_table()

    def _reject(self, number: int, fields: int, text: str) -> None:
        excerpt = text if len(text) <= EXCERPT else text[:EXCERPT] + "…"
        self.rejected.append(
            Rejected(
                f"{self._name}:{number}",
                "wrong_field_count",
                f"{fields} fields instead of {self._format.width}: {excerpt}",
            )
        )


def _keep_freed_memory() -> None:
    """Let the C library reuse the memory of one block for the next. It gives what is freed back to the system, to get
    it zeroed anew, unless a larger piece was freed before (M_MMAP_THRESHOLD of mallopt(3)); that takes a tenth of the
    time here."""
    bytes(30 * 1024**2)


def _windows(text: bytes, overlap: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """The text in pieces of WINDOW_BYTES, each with the last `overlap` bytes of the one before."""
    characters = np.frombuffer(text, np.uint8)
    for start in range(0, len(text), WINDOW_BYTES):
        yield characters[max(start - overlap, 0) : start + WINDOW_BYTES]


def _is_utf8(text: bytes) -> bool:
    """Whether text.decode() works, in a fraction of its time."""
    ends = np.array([0, len(text)], np.int32)
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(ends), pa.py_buffer(text)]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _count(text: bytes, character: bytes) -> int:
    """As text.count, in a quarter of its time."""
    return sum(int(np.count_nonzero(window == ord(character))) for window in _windows(text))


def _empty_fields(block: bytes, delimiter: bytes) -> int:
    """Number of empty fields in whole unquoted lines of equal width: one for each two ends of fields side by side."""
    carriage_returns = b"\r" in block and _count(block, b"\r")
    found = 0
    for window in _windows(block, overlap=1):
        ends = (window == ord(delimiter)) | (window == ord("\n"))
        if carriage_returns:
            ends |= window == ord("\r")
        found += int(np.count_nonzero(ends[1:] & ends[:-1]))
    # The block's first field has no end before it; each of the returns makes a pair with its newline.
    return found + block.startswith((delimiter, b"\n", b"\r")) - carriage_returns
