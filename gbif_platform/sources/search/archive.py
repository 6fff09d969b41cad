"""Records of GBIF's search as a Darwin Core Archive in GBIF's own layout, so that all that follows is the same."""

import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape, quoteattr

from gbif_platform.gbif.client import SEARCH_LIMIT
from gbif_platform.sources.search.record import (
    MEDIA_TERMS,
    OCCURRENCE_TERMS,
    gbif_id,
    media_rows,
    occurrence_row,
)

Record = Mapping[str, Any]

_FORMAT = r'encoding="UTF-8" fieldsTerminatedBy="\t" linesTerminatedBy="\n" fieldsEnclosedBy="" ignoreHeaderLines="1"'
_HEADING = "When using this dataset please use the following citation and pay attention to the rights of each record:"
_LISTS = """datasetID datasetName recordedBy recordedByID preparations associatedSequences otherCatalogNumbers
samplingProtocol higherGeography georeferencedBy typeStatus identifiedBy identifiedByID issue mediaType projectId"""


def write_archive(
    target: Path,
    records: Iterable[Record],
    *,
    checklist_key: str | None,
    announced: int,
    citations: Callable[[Counter[str]], Iterable[str]],
    title: str,
) -> Counter[str]:
    """Write records as a zip; atomic, in bounded memory, and the same bytes for the same arguments.

    Args:
        target: the zip; its folder exists.
        records: of the search; one without a key is left out, as is a second one of the same key.
        checklist_key: taxonomy of the search.
        announced: how many records there are, about.
        citations: gives the lines of citations.txt from the numbers of records by datasetKey.
        title: what the archive says of itself.

    Returns:
        Number of records by datasetKey; their sum is the number of distinct occurrences.
    """
    part = target.with_name(f".{target.name}.part")
    # GBIF encloses values with quotes in its smaller files, and the reader undoes that in files of that size alone.
    enclosed = announced <= SEARCH_LIMIT
    try:
        with (
            zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
            tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=target.parent) as media,
        ):
            media.write(_line(_names(MEDIA_TERMS), enclosed=False))
            datasets: Counter[str] = Counter()
            rows = _occurrence_lines(records, checklist_key, media, datasets, enclosed=enclosed)
            _write(archive, "occurrence.txt", rows)
            media.seek(0)
            _write(archive, "multimedia.txt", iter(lambda: media.read(1024**2), ""))
            _write(archive, "meta.xml", [_META])
            _write(archive, "metadata.xml", [_EML.format(title=escape(title), records=f"{datasets.total():,}")])
            _write(archive, "citations.txt", ["\n".join([_HEADING, *citations(datasets)])])
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return datasets


def _occurrence_lines(
    records: Iterable[Record], checklist_key: str | None, media: TextIO, datasets: Counter[str], *, enclosed: bool
) -> Iterator[str]:
    """The lines of occurrence.txt; those of multimedia.txt and the counts by dataset are written on the way."""
    yield _line(_names(OCCURRENCE_TERMS), enclosed=False)
    seen: set[str] = set()
    for record in records:
        key = gbif_id(record)
        if key and key not in seen:
            seen.add(key)
            datasets[str(record.get("datasetKey", ""))] += 1
            media.writelines(_line(row, enclosed=enclosed) for row in media_rows(record))
            yield _line(occurrence_row(record, checklist_key), enclosed=enclosed)


def _names(terms: Iterable[str]) -> list[str]:
    return [term.rsplit("/", 1)[1] for term in terms]


def _line(values: Iterable[str], *, enclosed: bool) -> str:
    return "\t".join(_enclosed(value) if enclosed and '"' in value else value for value in values) + "\n"


def _enclosed(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _write(archive: zipfile.ZipFile, name: str, texts: Iterable[str]) -> None:
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # equal contents, equal bytes
    member.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(member, "w", force_zip64=True) as stream:
        for text in texts:
            stream.write(text.encode("utf-8", "replace"))


def _table(element: str, identifier: str, row_type: str, location: str, terms: tuple[str, ...]) -> str:
    fields = "".join(
        f'    <field index="{index}"{_delimited(term)} term={quoteattr(term)}/>\n' for index, term in enumerate(terms)
    )
    return (
        f'  <{element} {_FORMAT} rowType="{row_type}">\n    <files><location>{location}</location></files>\n'
        f'    <{identifier} index="0"/>\n{fields}  </{element}>\n'
    )


def _delimited(term: str) -> str:
    return ' delimitedBy=";"' if term.rsplit("/", 1)[1] in _LISTS.split() else ""


_META = (
    '<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">\n'
    + _table("core", "id", "http://rs.tdwg.org/dwc/terms/Occurrence", "occurrence.txt", OCCURRENCE_TERMS).replace(
        # the search gives coordinates in one datum, as the files do
        '<id index="0"/>\n',
        '<id index="0"/>\n    <field default="WGS84" term="http://rs.tdwg.org/dwc/terms/geodeticDatum"/>\n',
    )
    + _table("extension", "coreid", "http://rs.gbif.org/terms/1.0/Multimedia", "multimedia.txt", MEDIA_TERMS)
    + "</archive>\n"
)
_EML = """<eml:eml xmlns:eml="https://eml.ecoinformatics.org/eml-2.2.0" system="http://gbif.org">
  <dataset>
    <title>{title}</title>
    <abstract>{records} occurrences of GBIF's search, written as an archive by gbif-platform.</abstract>
  </dataset>
</eml:eml>
"""
