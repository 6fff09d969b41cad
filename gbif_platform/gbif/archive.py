"""A Darwin Core Archive: its core, its extensions and its metadata, streamed in bulk without unpacking.

    with DarwinCoreArchive("0022697-200613084148143.zip") as archive:
        for batch in archive.core.batches():
            ...

Columns are selected by term, never by position; the descriptor is meta.xml
(http://rs.tdwg.org/dwc/terms/guides/text/), or the header line of a lone text file such as a SIMPLE_CSV download.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from gbif_platform.gbif.archive_descriptor import Field, Layout, layout_from_header, parse_descriptor
from gbif_platform.gbif.archive_errors import ArchiveError, DescriptorMissing
from gbif_platform.gbif.archive_files import GIB, TEXT_SUFFIXES, ArchiveFiles
from gbif_platform.gbif.archive_rows import BATCH_BYTES, LineCounter, Rejected, RowReader, TextFormat
from gbif_platform.gbif.terms import AUDUBON_COLUMNS, column_names

MULTIMEDIA = "http://rs.gbif.org/terms/1.0/Multimedia"
OCCURRENCE = "http://rs.tdwg.org/dwc/terms/Occurrence"
AUDUBON = "http://rs.tdwg.org/ac/terms/Multimedia"
ROW_REF, ID = "_row_ref", "_id"

_DESCRIPTOR_NAME = "meta.xml"
_METADATA_LIMIT = 64 * 1024**2
_START_BYTES = 256 * 1024
# GBIF writes larger files as raw text, so that only smaller ones are searched for its CSV quoting.
_SMALL_FILE_BYTES = 512 * 1024**2
# Texts that GBIF adds beside the data.
_NOT_DATA = ("citations.txt", "rights.txt", "readme.txt", "license.txt")


class DataFile:
    """One data file of an archive: the core, or an extension.

    `name` is its (first) member, `row_type` the URI of what a row is, `terms` the URIs of its fields, `schema` that of
    every batch. While `batches` is iterated, `rows` counts the accepted rows, `rejected` collects the refused ones (a
    caller may clear it between batches), and `replaced_characters` counts what was not in the declared encoding.
    `lines` counts the data lines apart from the parser, as `count_lines` does, and is complete after the last batch;
    `expected_rows` is an estimate of all rows by the bytes read so far.
    """

    def __init__(self, files: ArchiveFiles, layout: Layout) -> None:
        self.name = layout.locations[0]
        self.names = list(layout.locations)
        self.row_type = layout.row_type
        self.terms = [field.term for field in layout.fields]
        self.rows = 0
        self.rejected: list[Rejected] = []
        self.replaced_characters = 0
        self.lines: int | None = None
        self.expected_rows: int | None = None
        self._files = files
        self._layout = layout
        self._columns = _audubon_columns(layout.fields) if self.row_type == AUDUBON else {}
        fields = [f for f in layout.fields if f.index is not None or f.default]
        names = column_names([f.term for f in fields], taken=list(self._columns))
        self._columns |= {name: (field,) for name, field in zip(names, fields, strict=True)}
        self.schema = pa.schema([(name, pa.string()) for name in (ROW_REF, ID, *self._columns)])

    def __repr__(self) -> str:
        return f"DataFile({self.name!r}, {self.row_type!r}, {len(self._columns)} columns)"

    @property
    def present(self) -> bool:
        """Whether the archive holds the file: GBIF users often remove verbatim.txt."""
        return all(self._files.has(name) for name in self.names)

    @property
    def columns(self) -> list[str]:
        """Column names, in snake case of the terms, without `_row_ref` and `_id`."""
        return list(self._columns)

    def batches(self, batch_bytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
        """All rows, as batches of about `batch_bytes` bytes of text.

        Every column is a string, empty is null, defaults of the descriptor are filled in. `_row_ref` is the member and
        the line (from 1, header included), like `multimedia.txt:1234`; `_id` is the id of the core row that this row is
        or belongs to, stripped, null where it is empty. Several members are read one after the other.

        Raises MemberMissing, and MemberUnreadable where a member is damaged or has no row of the declared shape.
        """
        for table in self.tables(batch_bytes):
            found = dict(zip(table.column_names, table.columns, strict=True))
            nulls = pa.nulls(table.num_rows, pa.string())
            full = pa.table([found.get(name, nulls) for name in self.schema.names], schema=self.schema)
            yield from full.combine_chunks().to_batches()

    def tables(
        self, batch_bytes: int = BATCH_BYTES, types: Mapping[str, pa.DataType] = MappingProxyType({})
    ) -> Iterator[pa.Table]:
        """As `batches`, but as tables and without columns that are empty so far. A column of `types` has its type as
        long as Arrow can read every value (https://arrow.apache.org/docs/cpp/csv.html), and is text from there on.
        """
        self.rows, self.rejected, self.replaced_characters = 0, [], 0
        self.lines = 0 if self._has_countable_lines else None
        size, bytes_before = sum(self._files.size(name) for name in self.names), 0
        for name in self.names:
            reader = RowReader(partial(self._files.open, name), name, self._format(name), self._types_by_index(types))
            reader.rejected = self.rejected
            replaced_before = self.replaced_characters
            for table, lines in reader.tables(batch_bytes):
                self.rows += table.num_rows
                self.expected_rows = self.rows * size // (bytes_before + reader.bytes_read)
                self.replaced_characters = replaced_before + reader.replaced_characters
                yield self._by_term(table, name, lines)
            self.replaced_characters = replaced_before + reader.replaced_characters
            bytes_before += reader.bytes_read
            if self.lines is not None:
                self.lines += reader.counted.lines

    def count_lines(self) -> int | None:
        """Number of data rows by counting line ends in the raw members, without parsing: accepted and refused rows
        together must give the same number. None where a count of lines is no count of rows: in a quoted text, or in
        an encoding wider than ASCII. Raises MemberMissing, MemberUnreadable.
        """
        return sum(self._count_lines(name) for name in self.names) if self._has_countable_lines else None

    @property
    def _has_countable_lines(self) -> bool:
        return not self._layout.quote and not self._layout.encoding.startswith(("utf-16", "utf-32"))

    def _count_lines(self, name: str) -> int:
        counter = LineCounter(self._format(name).newline, self._layout.header_lines)
        with self._files.open(name) as stream:
            more = True
            while more:
                chunk = stream.read(BATCH_BYTES)
                counter.feed(chunk)
                more = bool(chunk)
        return counter.lines

    def _types_by_index(self, types: Mapping[str, pa.DataType]) -> dict[int, pa.DataType]:
        """Only of columns that are read as they stand, for one term: no id, no default value, no second choice."""
        uses = Counter(field.index for fields in self._columns.values() for field in fields)
        found = {}
        for name, fields in self._columns.items():
            index = fields[0].index
            alone = len(fields) == 1 and uses[index] == 1 and index != self._layout.id_index
            if name in types and index is not None and alone and not fields[0].default:
                found[index] = types[name]
        return found

    def _format(self, name: str) -> TextFormat:
        layout = self._layout
        with self._files.open(name) as stream:
            start = stream.read(_START_BYTES)
        declared = TextFormat(
            layout.width, layout.encoding, layout.delimiter, layout.quote, layout.newline, layout.header_lines
        )
        settled = declared.settled(start)
        small = self._files.size(name) <= _SMALL_FILE_BYTES
        return replace(settled, quotes_if_shown=small and not settled.quote and settled.delimiter == "\t")

    def _by_term(self, table: pa.Table, name: str, lines: pa.Array) -> pa.Table:
        columns = {int(c[1:]): values for c, values in zip(table.column_names, table.columns, strict=True)}
        row_refs = pc.binary_replace_slice(pc.cast(lines, pa.string()), 0, 0, f"{name}:")
        arrays = {ROW_REF: row_refs, ID: _ids(columns, self._layout.id_index, table.num_rows)}
        for column, fields in self._columns.items():
            values = [_values(columns, field, table.num_rows) for field in fields]
            filled = [value for value in values if value is not None]
            if filled:
                arrays[column] = pc.coalesce(*filled) if len(filled) > 1 else filled[0]
        return pa.table(arrays)


class DarwinCoreArchive:
    """An archive in a zip, a tar (also compressed) or a folder, or a lone delimited text; a context manager.

    Args:
        path: where it is.
        max_member_bytes, max_ratio: limits against archives that unpack without end, see ArchiveFiles.

    `core` and `extensions` are its data files, `multimedia` is the extension with the media (GBIF's Multimedia, or
    Audubon Core under the same column names) or None. `has_descriptor` says whether there is a meta.xml. `metadata`
    holds what the archive says of itself: title, package_id, alternate_identifier, doi, download_key, citations,
    rights.
    `warnings` lists what is missing or unreadable beside the core.

    Raises ArchiveMissing, NotAnArchive, ArchiveUnsafe, DescriptorMissing, DescriptorInvalid, MemberMissing (the core).
    """

    def __init__(self, path: Path | str, *, max_member_bytes: int = 1024 * GIB, max_ratio: float = 500) -> None:
        self.path = Path(path)
        self._files = ArchiveFiles(self.path, max_member_bytes=max_member_bytes, max_ratio=max_ratio)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "DarwinCoreArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterators over rows end with an error."""
        self._files.close()

    @property
    def multimedia(self) -> DataFile | None:
        """The extension with the media."""
        by_type = {extension.row_type: extension for extension in reversed(self.extensions)}
        return by_type.get(MULTIMEDIA) or by_type.get(AUDUBON)

    @property
    def verbatim(self) -> DataFile | None:
        """The extension with the occurrences as their publishers wrote them, in GBIF's downloads verbatim.txt."""
        if self.core.row_type != OCCURRENCE:
            return None
        return next((extension for extension in self.extensions if extension.row_type == OCCURRENCE), None)

    def _open(self) -> None:
        self.has_descriptor = _DESCRIPTOR_NAME in self._files.names
        if self.has_descriptor:
            descriptor = parse_descriptor(self._files.read(_DESCRIPTOR_NAME, _METADATA_LIMIT), str(self.path))
            core, extensions, metadata_name = descriptor.core, descriptor.extensions, descriptor.metadata_name
        else:
            name = self._lone_data_file()
            with self._files.open(name) as stream:
                core, extensions, metadata_name = layout_from_header(name, stream.read(_START_BYTES)), (), None
        for name in core.locations:
            self._files.size(name)
        self.core = DataFile(self._files, core)
        self.extensions = [DataFile(self._files, layout) for layout in extensions]
        self.warnings = [
            f"{extension.name} is named by meta.xml but is not in {self.path.name}"
            for extension in self.extensions
            if not extension.present
        ]
        self.metadata = self._read_metadata(metadata_name)

    def _lone_data_file(self) -> str:
        data = [name for name in self._files.names if not name.lower().endswith((".xml", *_NOT_DATA))]
        if len(data) == 1 and data[0].lower().endswith(TEXT_SUFFIXES):
            return data[0]
        raise DescriptorMissing(
            f"{self.path} has no meta.xml, and its data files ({', '.join(data[:8]) or 'none'}) do not tell the core",
            "ask GBIF for the format DWCA, or pack the one data file alone",
        )

    def _read_metadata(self, named: str | None) -> dict[str, str]:
        metadata = {}
        for key, name in (("citations", "citations.txt"), ("rights", "rights.txt")):
            if name in self._files.names:
                metadata[key] = self._files.read(name, _METADATA_LIMIT).decode("utf-8", "replace").strip()
        eml = named or next((n for n in ("metadata.xml", "eml.xml") if n in self._files.names), None)
        if eml:
            try:
                metadata |= _eml_metadata(self._files.read(eml, _METADATA_LIMIT))
            except (ET.ParseError, ArchiveError, LookupError, ValueError) as error:
                cause = error.cause if isinstance(error, ArchiveError) else f"{eml} of {self.path.name}: {error}"
                self.warnings.append(f"no metadata: {cause}")
        return metadata


def _audubon_columns(fields: tuple[Field, ...]) -> dict[str, tuple[Field, ...]]:
    by_term = {field.term: field for field in reversed(fields)}
    found = {name: [by_term[term] for term in terms if term in by_term] for name, terms in AUDUBON_COLUMNS.items()}
    return {name: tuple(sources) for name, sources in found.items() if sources}


def _values(columns: dict[int, pa.ChunkedArray], field: Field, rows: int) -> pa.ChunkedArray | pa.Array | None:
    column = None if field.index is None else columns.get(field.index)
    if not field.default:
        return column
    return pa.repeat(pa.scalar(field.default, pa.string()), rows) if column is None else column.fill_null(field.default)


def _ids(columns: dict[int, pa.ChunkedArray], index: int | None, rows: int) -> pa.ChunkedArray | pa.Array:
    if index not in columns:
        return pa.nulls(rows, pa.string())
    ids = pc.utf8_trim_whitespace(columns[index])
    blank = pc.min(pc.binary_length(ids)).as_py() == 0
    return pc.if_else(pc.equal(ids, ""), None, ids) if blank else ids


def _eml_metadata(xml: bytes) -> dict[str, str]:
    """Title and identifiers of an EML document; its dataset's DOI and GBIF's download key where they are among them."""
    root = ET.fromstring(xml)  # noqa: S314 - expat bounds entity expansion since 2.4.1
    found = {
        "title": root.findtext("dataset/title"),
        "package_id": root.get("packageId"),
        "alternate_identifier": root.findtext("dataset/alternateIdentifier"),
    }
    metadata = {key: " ".join(value.split()) for key, value in found.items() if value and value.strip()}
    text = " ".join(metadata.get(key, "") for key in ("package_id", "alternate_identifier", "title"))
    for key, pattern in (("doi", r"\b10\.\d{4,9}/[^\s\"<>]+"), ("download_key", r"\b\d{7}-\d{15}\b")):
        if match := re.search(pattern, text):
            metadata[key] = match[0].lower()
    return metadata
