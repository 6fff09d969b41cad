"""Small archives for the tests: a meta.xml from a few words, and files packed as a zip."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

DWC = "http://rs.tdwg.org/dwc/terms/"
GBIF = "http://rs.gbif.org/terms/1.0/"
DC = "http://purl.org/dc/terms/"
OCCURRENCE = DWC + "Occurrence"
MULTIMEDIA = GBIF + "Multimedia"
AUDUBON = "http://rs.tdwg.org/ac/terms/Multimedia"
PLAIN = r'encoding="UTF-8" fieldsTerminatedBy="\t" linesTerminatedBy="\n" fieldsEnclosedBy="" ignoreHeaderLines="1"'


def section(tag: str, location: str, terms: list[str], row_type: str = OCCURRENCE, attributes: str = PLAIN) -> str:
    """A <core> or <extension>; the first term is its id; `location` may name several files, divided by blanks."""
    identifier = "id" if tag == "core" else "coreid"
    locations = "".join(f"<location>{name}</location>" for name in location.split())
    fields = "".join(f'<field index="{i}" term="{term}"/>' for i, term in enumerate(terms))
    return (
        f'<{tag} {attributes} rowType="{row_type}"><files>{locations}</files><{identifier} index="0"/>{fields}</{tag}>'
    )


def meta(*sections: str) -> str:
    return f'<archive xmlns="http://rs.tdwg.org/dwc/text/">{"".join(sections)}</archive>'


def pack(path: Path, files: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def occurrence_archive(path: Path, text: str | bytes, terms: list[str], attributes: str = PLAIN) -> Path:
    """An archive with nothing but an occurrence core."""
    core = section("core", "occurrence.txt", terms, attributes=attributes)
    return pack(path, {"meta.xml": meta(core), "occurrence.txt": text})
