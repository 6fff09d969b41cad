"""Every real archive is read with the right numbers, or refused with the right error."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from gbif_platform.gbif.archive import DarwinCoreArchive, DataFile
from gbif_platform.gbif.archive_errors import ArchiveError, DescriptorMissing, MemberMissing, NotAnArchive


@dataclass(frozen=True)
class Readable:
    """Rows of the core and of each extension; `refused` are (line, file); `replaced` characters in the core."""

    core: int
    extensions: dict[str, int] = field(default_factory=dict)
    multimedia: str | None = None
    refused: tuple[str, ...] = ()
    refused_in_core: int | None = None
    replaced: int = 0


@dataclass(frozen=True)
class Refused:
    error: type[ArchiveError]
    says: str


GBIF_MEDIA = "multimedia.txt"
EXPECTED: dict[str, Readable | Refused] = {
    "gbif/2013_gbif-results.zip": Readable(158),
    "gbif/2014-09_0000066-140928181241064.zip": Readable(470, {"verbatim.txt": 470, GBIF_MEDIA: 215}, GBIF_MEDIA),
    "gbif/2020-01_simplecsv_0011066-200127171203522.zip": Readable(4463),
    "gbif/2020-07_amblyomma_4gbcs6.zip": Readable(1310, {"verbatim.txt": 1310, GBIF_MEDIA: 1362}, GBIF_MEDIA),
    "gbif/2021_gbif-alert_macosx.zip": Readable(13, {"verbatim.txt": 12, GBIF_MEDIA: 6}, GBIF_MEDIA),
    "gbif/2024-11_medicinal-plants_npd2js.zip": Readable(573, {GBIF_MEDIA: 0, "verbatim.txt": 573}, GBIF_MEDIA),
    "odd/camtrap-dwc-audubon": Readable(16, {"dwc_audubon.csv": 180}, "dwc_audubon.csv"),
    # 518 rows end in a surplus delimiter, which loses nothing; two have too few fields.
    "odd/data_pipe.tar.gz": Readable(
        585, {"VernacularName.txt": 1}, refused=("DarwinCore.txt:13", "DarwinCore.txt:14")
    ),
    "odd/dwca-2extensions.zip": Readable(4, {"description.txt": 3, "vernacularname.txt": 4}),
    "odd/dwca-csv-quote-dir": Readable(2),
    "odd/dwca-invalid-lacks-metadata": Readable(2),
    "odd/dwca-invalid-simple-two.zip": Refused(DescriptorMissing, "random_file"),
    "odd/dwca-meta-default-values": Readable(2),
    "odd/dwca-metadata-windows1252-encoding": Readable(4),
    "odd/dwca-noheaders-1.zip": Readable(2),
    "odd/dwca-orphaned-rows.zip": Readable(
        4, {"description.txt": 6, "vernacularname.txt": 4}, refused=("vernacularname.txt:6",)
    ),
    "odd/dwca-simple-csv-dos.zip": Readable(3),
    "odd/dwca-simple-subdir.zip": Readable(2),
    "odd/dwca-simple-test-archive.tgz": Readable(2),
    "odd/dwca-test-default.zip": Readable(2),
    "odd/dwca-utf8-eol-test.zip": Readable(1),
    "odd/dwcaio-csv-json-escaped-quotes": Readable(1, {"multimedia.csv": 4}, "multimedia.csv"),
    "odd/dwcaio-multifile-psv": Readable(6, {"media1.txt": 6}, "media1.txt"),
    "odd/dwcaio-multiline-header": Readable(2),
    "odd/dwcaio-xml-entity-meta": Readable(0, {"test2": 0}),
    "odd/enc-MOBOTDarwinCore.csv": Readable(3),
    # No descriptor, 14 columns, 8-bit text: 2559 rows leave out their last fields and one has a comma too many.
    "odd/enc-csv_optional_quotes_puma.csv": Readable(831, refused_in_core=2560, replaced=18),
    "odd/gdv-dwca-invalid-ext": Readable(1, {"identification.txt": 0}, refused=("identification.txt:2",)),
    "odd/gdv-dwca-meta-broken": Refused(MemberMissing, "occurrence.txt"),
    "odd/gdv-dwca-null-core-id": Readable(3, {"identifier.txt": 3}),
    "odd/gdv-dwca-occurrence": Readable(19),
    "odd/gdv-dwca-occurrence-no-meta": Readable(19),
    "odd/literal-tab-attribute.zip": Readable(20, {GBIF_MEDIA: 10}, GBIF_MEDIA),
    "odd/zero-bytes.zip": Refused(NotAnArchive, "empty"),
}


def read(data_file: DataFile) -> pa.Table:
    return pa.Table.from_batches(data_file.batches(), data_file.schema)


def column(data_file: DataFile, name: str) -> list[str | None]:
    return read(data_file).column(name).to_pylist()


def test_no_archive_is_left_out(shared: Path) -> None:
    folder = shared / "archives" / "dev"
    assert {path.relative_to(folder).as_posix() for path in folder.glob("*/*")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_an_archive_is_read_or_refused(shared: Path, name: str) -> None:
    expected, path = EXPECTED[name], shared / "archives" / "dev" / name
    if isinstance(expected, Refused):
        with pytest.raises(expected.error, match=expected.says) as caught:
            DarwinCoreArchive(path)
        assert caught.value.next_step
        return
    with DarwinCoreArchive(path) as archive:
        files = [archive.core, *archive.extensions]
        assert {f.name: read(f).num_rows for f in files[1:]} == expected.extensions
        assert read(archive.core).num_rows == expected.core
        assert archive.core.replaced_characters == expected.replaced
        assert (archive.multimedia.name if archive.multimedia else None) == expected.multimedia
        refused = [row for f in files for row in f.rejected]
        if expected.refused_in_core is not None:
            assert len(refused) == expected.refused_in_core
        else:
            assert tuple(row.row_ref for row in refused) == expected.refused
        for f in files:
            assert f.lines == f.count_lines()
            assert f.lines in (None, f.rows + len(f.rejected))


def test_values_of_odd_archives(shared: Path) -> None:
    odd = shared / "archives" / "dev" / "odd"
    with DarwinCoreArchive(odd / "dwca-csv-quote-dir") as archive:
        assert column(archive.core, "basis_of_record") == ["Observation, something", "Observation"]
    with DarwinCoreArchive(odd / "dwca-test-default.zip") as archive:
        assert column(archive.core, "country") == ["Belgium", "Belgium"]
    with DarwinCoreArchive(odd / "dwca-utf8-eol-test.zip") as archive:
        assert any("\u0085" in (value or "") for value in read(archive.core).to_pylist()[0].values())
    with DarwinCoreArchive(odd / "dwca-simple-csv-dos.zip") as archive:
        assert column(archive.core, "gbif_id")[0] == column(archive.core, "_id")[0] == "699220990"
    with DarwinCoreArchive(odd / "dwcaio-csv-json-escaped-quotes") as archive:
        properties = column(archive.core, "dynamic_properties")[0]
        assert json.loads(properties or "")["barcode"] == "010039076"
    with DarwinCoreArchive(odd / "dwcaio-multifile-psv") as archive:
        assert column(archive.core, "_row_ref")[2:4] == ["taxa2.txt:2", "taxa2.txt:3"]
        assert archive.multimedia is not None
        assert set(column(archive.multimedia, "type")) == {"StillImage"}
    with DarwinCoreArchive(odd / "gdv-dwca-null-core-id") as archive:
        assert column(archive.extensions[0], "_id") == [None, "i1", "i3"]
    with DarwinCoreArchive(odd / "camtrap-dwc-audubon") as archive:
        assert archive.multimedia is not None
        assert set(column(archive.multimedia, "_id")) <= set(column(archive.core, "_id"))
        assert all((url or "").startswith("https://") for url in column(archive.multimedia, "identifier"))
        assert set(column(archive.multimedia, "type")) == {"StillImage"}


def test_values_of_gbif_downloads(shared: Path) -> None:
    gbif = shared / "archives" / "dev" / "gbif"
    with DarwinCoreArchive(gbif / "2020-07_amblyomma_4gbcs6.zip") as archive:
        assert archive.metadata["doi"] == "10.15468/dl.4gbcs6"
        assert archive.metadata["download_key"] == "0022697-200613084148143"
        assert "Yale Peabody Museum" in archive.metadata["citations"]
        # A small download: GBIF's CSV quotes are undone.
        assert 'Note no "star"' in column(archive.core, "occurrence_remarks")
        assert archive.multimedia is not None
        media = read(archive.multimedia)
        # One gbifID has a trailing blank: it is no orphan once that is off.
        assert set(media["_id"].to_pylist()) <= set(column(archive.core, "_id"))
        assert media["gbif_id"].to_pylist()[1] == "2803144270 "
        assert media["_id"].to_pylist()[1] == "2803144270"
    with DarwinCoreArchive(gbif / "2024-11_medicinal-plants_npd2js.zip") as archive:
        assert set(column(archive.core, "geodetic_datum")) == {"WGS84"}


def test_real_troubles_are_at_their_lines_with_their_values(shared: Path) -> None:
    """vocab/troubles_dev.jsonl quotes rows by file and line, read independently of this package."""
    with (shared / "vocab" / "troubles_dev.jsonl").open(encoding="utf-8") as file:
        troubles = [json.loads(line) for line in file]
    checked = 0
    for name in sorted({trouble["file"] for trouble in troubles}):
        path, _, member = name.partition("!")
        if not member:
            continue
        with DarwinCoreArchive(shared / path) as archive:
            data_file = next(f for f in [archive.core, *archive.extensions] if f.name == member)
            rows = {row["_row_ref"]: row for row in read(data_file).to_pylist()}
        for trouble in troubles:
            if trouble["file"] == name and "gbifID" in trouble["row"]:
                row = rows[f"{member}:{trouble['line']}"]
                assert row["gbif_id"] == trouble["row"]["gbifID"], trouble
                checked += 1
    assert checked > 30


def test_the_scenario_has_its_rows_at_their_lines(shared: Path) -> None:
    folder = shared / "scenario" / "dev"
    with (folder / "truth.csv").open(encoding="utf-8", newline="") as file:
        truth = {f"multimedia.txt:{row['media_line']}": row for row in csv.DictReader(file)}
    with DarwinCoreArchive(folder / "archive.zip") as archive:
        assert archive.metadata["doi"] == "10.5072/dl.scen-dev"
        assert read(archive.core).num_rows == archive.core.count_lines() == 870
        assert archive.multimedia is not None
        media = {row["_row_ref"]: row for row in read(archive.multimedia).to_pylist()}
        assert 'cliff above camp "Two"' in column(archive.core, "locality")
    assert media.keys() == truth.keys()
    for ref, row in media.items():
        assert row["_id"] == (None if truth[ref]["note"] == "empty gbifID" else truth[ref]["gbifID"])
        assert (row["identifier"] or "") == truth[ref]["identifier"]
