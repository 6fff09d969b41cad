"""The texts that accompany the tables in a GBIF download: descriptor, metadata, citations and rights."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape, quoteattr

from gbif_platform.sandbox.records import Publisher

_FORMAT = r'encoding="UTF-8" fieldsTerminatedBy="\t" linesTerminatedBy="\n" fieldsEnclosedBy="" ignoreHeaderLines="1"'
_OCCURRENCE_ROW = "http://rs.tdwg.org/dwc/terms/Occurrence"
_LISTS = ("datasetName", "recordedBy", "identifiedBy", "issue", "mediaType")  # values joined with ";"
_EML = """<?xml version="1.0" encoding="utf-8"?>
<eml:eml xmlns:eml="https://eml.ecoinformatics.org/eml-2.2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
         packageId={package} system="http://gbif.org" scope="system" xml:lang="en">
"""


@dataclass(frozen=True)
class DownloadIdentity:
    """Key, DOI and moment of one download, all from its place in the sandbox's sequence."""

    key: str
    doi: str
    created: datetime

    @classmethod
    def nth(cls, number: int) -> "DownloadIdentity":
        """Of the first (1), second … download: `0000001-260115090000000` and `10.15468/dl.sand01`."""
        created = datetime(2026, 1, 15, 9, tzinfo=UTC) + timedelta(days=30 * (number - 1))
        return cls(f"{number:07d}-260115090000000", f"10.15468/dl.sand{number:02d}", created)

    @property
    def citation(self) -> str:
        """As GBIF's citation endpoint words it."""
        day = f"{self.created.day} {self.created:%B %Y}"
        return f"GBIF.org ({day}) GBIF Occurrence Download https://doi.org/{self.doi}"


def descriptor(occurrence: tuple[str, ...], multimedia: tuple[str, ...], verbatim: tuple[str, ...]) -> str:
    """meta.xml: the core and its two extensions, columns as term URIs in file order."""
    parts = [
        '<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">\n',
        _table("core", "id", _OCCURRENCE_ROW, "occurrence.txt", occurrence),
        _table("extension", "coreid", "http://rs.gbif.org/terms/1.0/Multimedia", "multimedia.txt", multimedia),
        _table("extension", "coreid", _OCCURRENCE_ROW, "verbatim.txt", verbatim),
        "</archive>\n",
    ]
    return "".join(parts)


def _table(element: str, identifier: str, row_type: str, location: str, columns: tuple[str, ...]) -> str:
    fields = [f'    <field index="{index}"{_delimiter(term)} term="{term}"/>\n' for index, term in enumerate(columns)]
    # Coordinates are interpreted to one datum: a default value without a column.
    datum = '    <field default="WGS84" term="http://rs.tdwg.org/dwc/terms/geodeticDatum"/>\n'
    return (
        f'  <{element} {_FORMAT} rowType="{row_type}">\n'
        f"    <files>\n      <location>{location}</location>\n    </files>\n"
        f'    <{identifier} index="0" />\n'
        f"{datum if element == 'core' else ''}{''.join(fields)}"
        f"  </{element}>\n"
    )


def _delimiter(term: str) -> str:
    return ' delimitedBy=";"' if term.rsplit("/", 1)[1] in _LISTS else ""


def citations(publishers: Counter[Publisher], identity: DownloadIdentity) -> str:
    """citations.txt: a heading, then one line for each constituent data set."""
    accessed = f"accessed via GBIF.org on {identity.created:%Y-%m-%d}."
    heading = (
        "When using this dataset please use the following citation and pay attention to the rights documented in "
        "rights.txt:"
    )
    return "\n".join([heading, *(f"{publisher.citation} {accessed}" for publisher in publishers)])


def rights(publishers: Counter[Publisher]) -> str:
    """rights.txt: two lines for each constituent data set."""
    return "\n".join(
        f"Dataset: {publisher.title} \nRights as supplied: {publisher.licence_url}" for publisher in publishers
    )


def download_metadata(publishers: Counter[Publisher], identity: DownloadIdentity, base_url: str) -> str:
    """metadata.xml: EML of the download itself."""
    counts = "\n".join(f"{count} records from {publisher.title}" for publisher, count in publishers.items())
    address = f"{base_url}/v1/occurrence/download/request/{identity.key}.zip"
    title = f"GBIF Occurrence Download {identity.doi}"
    return f"""{_EML.format(package=quoteattr(identity.doi))}    <dataset>
        <alternateIdentifier>{identity.key}</alternateIdentifier>
        <title>{title}</title>
        <creator>
            <individualName>
                <surName>GBIF Download Service</surName>
            </individualName>
        </creator>
        <pubDate>
                {identity.created:%Y-%m-%d}
        </pubDate>
        <language>ENGLISH</language>
        <abstract>
            A dataset containing all occurrences available in the sandbox.
The dataset includes records from the following constituent datasets. \
The full metadata for each constituent is also included in this archive:
{escape(counts)}

        </abstract>
    </dataset>
    <additionalMetadata>
        <metadata>
            <gbif>
                <dateStamp>{identity.created:%Y-%m-%dT%H:%M:%SZ}</dateStamp>
                <citation identifier="{identity.doi}">{title}</citation>
                <physical>
                    <objectName>Darwin Core Archive</objectName>
                    <characterEncoding>UTF-8</characterEncoding>
                    <distribution>
                        <online>
                            <url function="download">{escape(address)}</url>
                        </online>
                    </distribution>
                </physical>
            </gbif>
        </metadata>
    </additionalMetadata>
</eml:eml>
"""


def eml(publisher: Publisher) -> str:
    """dataset/<datasetKey>.xml: EML of one constituent data set."""
    licence = f"<ulink url={quoteattr(publisher.licence_url)}><citetitle>{publisher.licence}</citetitle></ulink>"
    return f"""{_EML.format(package=quoteattr(publisher.dataset_key))}    <dataset>
        <alternateIdentifier>{publisher.doi}</alternateIdentifier>
        <alternateIdentifier>{publisher.dataset_key}</alternateIdentifier>
        <title>{escape(publisher.title)}</title>
        <creator>
            <organizationName>{escape(publisher.organisation)}</organizationName>
        </creator>
        <pubDate>
                2026-01-10
        </pubDate>
        <language>ENGLISH</language>
        <abstract>
            Invented records of invented insects, for trying things out.
        </abstract>
        <intellectualRights>
            <para>This work is licensed under a {licence}.</para>
        </intellectualRights>
    </dataset>
    <additionalMetadata>
        <metadata>
            <gbif>
                <citation identifier="https://doi.org/{publisher.doi}">{escape(publisher.citation)}</citation>
            </gbif>
        </metadata>
    </additionalMetadata>
</eml:eml>
"""
