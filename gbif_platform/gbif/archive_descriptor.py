"""meta.xml, or the header line where there is none, as the layout of each data file.

Missing attributes get the defaults of the Darwin Core text guide (http://rs.tdwg.org/dwc/terms/guides/text/); the rest
is read by python-dwca-reader's descriptor classes.
"""

import codecs
import csv
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from dwca.descriptors import ArchiveDescriptor, DataFileDescriptor
from dwca.exceptions import InvalidArchive

from gbif_platform.gbif.archive_errors import DescriptorInvalid, NotAnArchive

_TEXT_GUIDE_DEFAULTS = {
    "encoding": "UTF-8",
    "fieldsTerminatedBy": ",",
    "linesTerminatedBy": "\\n",
    "fieldsEnclosedBy": '"',
    "ignoreHeaderLines": "0",
}
# Terms that identify a row, by their short name; GBIF's own key first.
_ID_TERMS = ("gbifid", "occurrenceid", "taxonid", "eventid", "id", "_id")

_MAX_COLUMNS = 10_000


@dataclass(frozen=True)
class Field:
    """A term, the column that holds it (from 0; None: no column), and the value where the column is absent or empty."""

    term: str
    index: int | None
    default: str | None = None


@dataclass(frozen=True)
class Layout:
    """How one data file is written. `quote` is "" where quoting is off."""

    row_type: str
    locations: tuple[str, ...]
    encoding: str
    delimiter: str
    quote: str
    newline: str
    header_lines: int
    id_index: int | None
    fields: tuple[Field, ...]

    @property
    def width(self) -> int:
        """Number of fields of a row, as far as terms and the id need them."""
        return 1 + max([f.index for f in self.fields if f.index is not None] + [self.id_index or 0])


@dataclass(frozen=True)
class Descriptor:
    """The core's and the extensions' layouts, and the name of the metadata file if one is named."""

    core: Layout
    extensions: tuple[Layout, ...]
    metadata_name: str | None


def parse_descriptor(meta_xml: bytes, archive: str) -> Descriptor:
    """Read meta.xml. `archive` names it in messages. Raises DescriptorInvalid."""
    try:
        root = _completed(ET.fromstring(meta_xml))  # noqa: S314 - expat bounds entity expansion since 2.4.1
        parsed = ArchiveDescriptor(ET.tostring(root, encoding="unicode"))
        return Descriptor(_layout(parsed.core), tuple(_layout(e) for e in parsed.extensions), parsed.metadata_filename)
    except (ET.ParseError, InvalidArchive, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DescriptorInvalid(
            f"meta.xml of {archive} cannot be used: {error}", "correct it, or get the archive again"
        ) from error


def _completed(root: ET.Element) -> ET.Element:
    """The tree without namespaces and with every attribute and element that dwca.descriptors takes for granted."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.find("core") is None:
        raise ValueError("it has no <core>")
    for section in [*root.findall("core"), *root.findall("extension")]:
        for name, value in _TEXT_GUIDE_DEFAULTS.items():
            if section.get(name) is None or (not section.get(name) and name in ("encoding", "ignoreHeaderLines")):
                section.set(name, value)
        # dwca decodes the separators in the encoding of the data, which fails for UTF-16.
        section.set("dataEncoding", section.get("encoding", "").strip())
        section.set("encoding", "utf-8")
        if not [location for location in section.findall("files/location") if (location.text or "").strip()]:
            raise ValueError(f"its <{section.tag}> names no file")
        if section.find("id" if section.tag == "core" else "coreid") is None:
            _add_id(section)
    return root


def _add_id(section: ET.Element) -> None:
    indexes = {_lower_short_name(f.get("term") or ""): f.get("index") for f in section.findall("field")}
    index = next((indexes[name] for name in _ID_TERMS if indexes.get(name)), None)
    if index is None:
        raise ValueError(f"its <{section.tag}> has no identifier column")
    ET.SubElement(section, "id" if section.tag == "core" else "coreid", index=str(index))


def _lower_short_name(term: str) -> str:
    return re.split(r"[/#:]", term)[-1].lower()


def _layout(parsed: DataFileDescriptor) -> Layout:
    if parsed.lines_to_ignore < 0:
        raise ValueError("ignoreHeaderLines is negative")
    id_index = parsed.id_index if parsed.represents_corefile else parsed.coreid_index
    fields = tuple(Field(f["term"], f["index"], f["default"]) for f in parsed.fields)
    if any(not f.term for f in fields):
        raise ValueError("a <field> lacks its term")
    if not all(0 <= index < _MAX_COLUMNS for index in [id_index, *(f.index or 0 for f in fields)]):
        raise ValueError(f"a column index is not between 0 and {_MAX_COLUMNS - 1}")
    if len(parsed.fields_terminated_by) != 1 or not parsed.fields_terminated_by.isascii():
        raise ValueError(f"fieldsTerminatedBy={parsed.fields_terminated_by!r} is not one ASCII character")
    if len(parsed.fields_enclosed_by) > 1 or not parsed.fields_enclosed_by.isascii():
        raise ValueError(f"fieldsEnclosedBy={parsed.fields_enclosed_by!r} is not one ASCII character")
    return Layout(
        row_type=parsed.type or "",
        locations=tuple((e.text or "").strip() for e in parsed.raw_element.findall("files/location")),
        encoding=codecs.lookup(parsed.raw_element.get("dataEncoding")).name,
        delimiter=parsed.fields_terminated_by,
        quote=parsed.fields_enclosed_by,
        # Writers mix up \n and \r\n; both end in \n, only the old Macintosh's \r is different.
        newline="\r" if parsed.lines_terminated_by == "\r" else "\n",
        header_lines=parsed.lines_to_ignore,
        id_index=id_index,
        fields=fields,
    )


def layout_from_header(name: str, start: bytes) -> Layout:
    """The layout of a lone text file with a header line, such as a GBIF SIMPLE_CSV download.

    `start` is its first bytes; the terms are the header's names. Raises NotAnArchive where the first line is no header
    of several columns.
    """
    header = start.removeprefix(codecs.BOM_UTF8).partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    delimiter = max("\t,;|", key=header.count)
    if delimiter not in header:
        raise NotAnArchive(
            f"{name} has no header line of several columns", "give a Darwin Core Archive or a SIMPLE_CSV"
        )
    # GBIF's tab-separated downloads are not quoted, unless the header is; comma-separated text is, by RFC 4180.
    quote = '"' if delimiter != "\t" or header.startswith('"') else ""
    terms = next(csv.reader([header], delimiter=delimiter)) if quote else header.split(delimiter)
    short_names = [_lower_short_name(term) for term in terms]
    return Layout(
        row_type="",
        locations=(name,),
        encoding="utf-8",
        delimiter=delimiter,
        quote=quote,
        newline="\n",
        header_lines=1,
        id_index=next((short_names.index(name) for name in _ID_TERMS if name in short_names), None),
        fields=tuple(Field(term, index) for index, term in enumerate(terms)),
    )
