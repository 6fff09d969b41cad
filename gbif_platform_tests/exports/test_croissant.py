"""Croissant metadata: the reference library finds nothing to say, and reads the records from the folder."""

import io
import logging
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import mlcroissant  # type: ignore[import-untyped]
import polars as pl
import pytest
from absl import logging as absl_logging
from etils import epath  # type: ignore[import-untyped]
from mlcroissant._src.operation_graph.operations import extract  # type: ignore[import-untyped]

from gbif_platform.exports.card import dataset_card
from gbif_platform.exports.contents import Export, ExportFile
from gbif_platform.exports.croissant import CATALOGUE, croissant
from gbif_platform.exports.huggingface import header
from gbif_platform_tests.exports.small_export import FORMATS, colour, pictures, small_export, written

# mlcroissant's log handler took pytest's captured stderr, and closes it when somebody configures logging anew.
absl_logging.get_absl_handler().python_handler.setStream(io.StringIO())


@pytest.fixture(scope="module", params=FORMATS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Export, Path]:
    """An export and its croissant.json."""
    folder = tmp_path_factory.mktemp("croissant") / "frogs"
    return written(request.param, folder), folder / "croissant.json"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlcroissant unpacks archives into the user's home and takes those of equal paths for the same."""
    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "extract"))


def test_the_reference_validator_finds_nothing(exported: tuple[Export, Path], caplog: pytest.LogCaptureFixture) -> None:
    metadata = mlcroissant.Dataset(jsonld=str(exported[1])).metadata
    assert (metadata.ctx.issues.errors, metadata.ctx.issues.warnings) == (set(), set())
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_it_tells_licences_citation_and_version(exported: tuple[Export, Path]) -> None:
    export, file = exported
    metadata = mlcroissant.Dataset(jsonld=str(file)).metadata
    assert metadata.license == [
        *(f"https://spdx.org/licenses/{spdx}" for spdx in ("CC-BY-4.0", "CC-BY-NC-4.0", "CC0-1.0")),
        "unknown",
    ]
    assert metadata.cite_as == "\n".join(export.citations)
    assert metadata.version == "1.0.0+0123abcd"
    assert metadata.date_published.date() == export.published
    assert metadata.url == "https://doi.org/10.15468/dl.abcdef"


def test_files_have_the_digests_of_what_lies_there(exported: tuple[Export, Path]) -> None:
    _, file = exported
    objects = mlcroissant.Dataset(jsonld=str(file)).metadata.file_objects
    assert {"README.md", "CITATION.txt", CATALOGUE} <= {one.id for one in objects}
    for one in objects:
        assert one.sha256 == sha256((file.parent / one.content_url).read_bytes()).hexdigest()


def test_records_are_the_pictures_with_their_catalogue_rows(
    exported: tuple[Export, Path], caplog: pytest.LogCaptureFixture
) -> None:
    export, file = exported
    records = mlcroissant.Dataset(jsonld=str(file)).records("pictures")
    found = {record["pictures/media_id"].decode(): record for record in records}
    assert sorted(found) == export.rows["media_id"].to_list()
    label = "label_name" if export.format in ("parquet", "huggingface") else "label"
    for row in export.rows.iter_rows(named=True):
        record = found[row["media_id"]]
        assert record["pictures/image"].size == (row["width"], 16)
        assert record["pictures/image"].convert("RGB").getpixel((3, 3)) == colour(int(row["media_id"][1:]))
        assert record[f"pictures/{label}"].decode() == row["label"]
        assert (record["pictures/creator"] or b"").decode() == (row["creator"] or "")
        assert record["pictures/decimal_longitude"] == row["decimal_longitude"]
        assert record["pictures/subset"].decode() == row["subset"]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    written("imagefolder", tmp_path / "frogs")
    with (tmp_path / "frogs" / CATALOGUE).open("ab") as file:
        file.write(b"more")
    records = mlcroissant.Dataset(jsonld=str(tmp_path / "frogs/croissant.json")).records("pictures")
    with pytest.raises(mlcroissant.GenerationError):
        next(iter(records))


def test_nothing_is_said_that_is_not_known() -> None:
    export = small_export("imagefolder", pictures()[0])
    unknown = pl.DataFrame({"license": ["unknown"], "pictures": [12]})
    said = croissant(replace(export, citations=[], licences=unknown), [ExportFile(CATALOGUE, 1, "0" * 64)])
    assert said["license"] == ["unknown"]
    assert not {"citeAs", "url", "isBasedOn", "creator"} & set(said)


def test_a_list_of_urls_is_not_said_to_be_gbifs() -> None:
    export = replace(small_export("imagefolder", pictures()[0]), citations=[], dataset_citations=[])
    said = croissant(export, [ExportFile(CATALOGUE, 1, "0" * 64)])
    assert "GBIF" not in said["keywords"]
    assert "rai:dataBiases" not in said
    assert "GBIF" not in header(export)["tags"]
    assert "Known limits" not in dataset_card(export)


def test_pictures_that_are_files_are_one_set_and_not_a_list() -> None:
    export = small_export("imagefolder", pictures()[0])
    files = [ExportFile(file, 1, "0" * 64) for file in (CATALOGUE, *export.rows["file"])]
    assert [one["@id"] for one in croissant(export, files)["distribution"]] == [CATALOGUE, "files"]
