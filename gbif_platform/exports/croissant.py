"""Croissant metadata of an export, croissant.json: its files with their digests, and what a record of it is.

Sources: the Croissant format specification 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html) and its
extension for responsible AI 1.0 (…/croissant-rai-spec.html). Version 1.0, because it has all that is needed here and
every reader knows it. Paths are relative to the folder that croissant.json lies in.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from gbif_platform.exports.card import LIMITS, about
from gbif_platform.exports.catalogue import TYPES
from gbif_platform.exports.contents import Export, ExportFile
from gbif_platform.exports.huggingface import COLUMNS, data_files
from gbif_platform.gbif.licences import page_of

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification's own context, without which its readers warn."""
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/x-parquet",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".txt": "text/plain",
    ".webp": "image/webp",
}
CATALOGUE = "catalogue.parquet"
DATA_TYPES = {"VARCHAR": "sc:Text", "DOUBLE": "sc:Float", "INTEGER": "sc:Integer"}
PICTURES = "pictures"
"""The name of the one record set."""

Json = dict[str, Any]


def croissant(export: Export, files: Sequence[ExportFile]) -> Json:
    """The JSON-LD of an export.

    Args:
        export: with `file` in its rows.
        files: files with their digests: shards, `CATALOGUE`, …; pictures that are files of their own may be left out.
    """
    pictures, fields = _pictures(export)
    listed = [file for file in files if PurePosixPath(file.path).suffix != export.suffix]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": export.name,
        "description": about(export),
        **_credit(export),
        "version": f"1.0.0+{export.version}",
        "datePublished": export.published.isoformat(),
        "keywords": list(dict.fromkeys(["biodiversity", *(["GBIF"] if export.is_from_gbif else []), export.label])),
        **(_limits() if export.is_from_gbif else {}),
        "distribution": [*(_file_object(file) for file in listed), pictures],
        "recordSet": [{"@type": "cr:RecordSet", "@id": PICTURES, "name": PICTURES, "field": fields}],
    }


def _limits() -> Json:
    return {
        "rai:dataBiases": list(LIMITS[:1]),
        "rai:dataLimitations": list(LIMITS[1:3]),
        "rai:personalSensitiveInformation": list(LIMITS[3:]),
    }


def _pictures(export: Export) -> tuple[Json, list[Json]]:
    """The set of the files that hold the pictures, and the fields of a record."""
    kind = PurePosixPath(next(iter(export.rows["file"].drop_nulls()), export.suffix)).suffix
    if kind == ".parquet":
        return _file_set(MEDIA_TYPES[kind], list(data_files(export).values())), _columns_of_the_shards()
    if kind == ".tar":
        members = _file_set(MEDIA_TYPES[export.suffix], [f"*{export.suffix}"])
        tars = [{"@id": file} for file in sorted(export.rows["file"].unique())]
        return members | {"containedIn": tars}, _pictures_and_catalogue()
    return _file_set(MEDIA_TYPES[export.suffix], [f"**/*{export.suffix}"]), _pictures_and_catalogue()


def _credit(export: Export) -> Json:
    pages = [page_of(spdx) or spdx for spdx in export.licences["license"]]
    dois = re.findall(r"https://doi\.org/\S*\w", " ".join(export.citations))
    found: Json = {"license": pages} if pages else {}
    if export.citations:
        found["citeAs"] = "\n".join(export.citations)
    if dois:
        found |= {"url": dois[0], "isBasedOn": dois}
    if any("GBIF.org" in citation for citation in export.citations):
        found["creator"] = {"@type": "sc:Organization", "name": "GBIF.org", "url": "https://www.gbif.org"}
    return found


def _file_object(file: ExportFile) -> Json:
    path = PurePosixPath(file.path)
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": path.name,
        "contentUrl": file.path,
        "contentSize": f"{file.size} B",
        "encodingFormat": MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        "sha256": file.sha256,
    }


def _file_set(media_type: str, includes: list[str]) -> Json:
    return {
        "@type": "cr:FileSet",
        "@id": "files",
        "name": "files",
        "encodingFormat": media_type,
        "includes": includes,
    }


# Records


def _columns_of_the_shards() -> list[Json]:
    """Fields of Parquet files with the pictures in them."""

    def source(column: str) -> Json:
        return {"fileSet": {"@id": "files"}, "extract": {"column": column}}

    image = _field("image", "sc:ImageObject", source("image") | {"transform": {"jsonPath": "bytes"}})
    label = _field("label", "sc:Integer", source("label"))
    return [image, label, *(_column(name, kind, source(name)) for name, kind in COLUMNS.items())]


def _pictures_and_catalogue() -> list[Json]:
    """Fields of pictures that are files, found by their names, and of the catalogue's row of each."""

    def source(column: str) -> Json:
        return {"fileObject": {"@id": CATALOGUE}, "extract": {"column": column}}

    files = {"fileSet": {"@id": "files"}}
    stem = files | {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"^([^.]+)"}}
    image = _field("image", "sc:ImageObject", files | {"extract": {"fileProperty": "content"}})
    media_id = _field("media_id", "sc:Text", stem) | {"references": source("media_id")}
    others = [_column(name, kind, source(name)) for name, kind in TYPES.items() if name not in ("media_id", "nested")]
    return [image, media_id, *others]


def _column(name: str, kind: str, source: Json) -> Json:
    field = _field(name, DATA_TYPES[kind.removesuffix("[]")], source)
    return field | ({"repeated": True} if kind.endswith("[]") else {})


def _field(name: str, data_type: str, source: Json) -> Json:
    return {"@type": "cr:Field", "@id": f"{PICTURES}/{name}", "name": name, "dataType": data_type, "source": source}
