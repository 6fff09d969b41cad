"""The sandbox's archives: GBIF's layout, stated counts, and records that keep their identity as the data grow."""

import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dwca.read import DwCAReader
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.sandbox.archive import MULTIMEDIA_COLUMNS, OCCURRENCE_COLUMNS, SandboxDataset, write_archive
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform.sandbox.records import Trouble

URL = "http://127.0.0.1:8765"
DWC, GBIF = "http://rs.tdwg.org/dwc/terms/", "http://rs.gbif.org/terms/1.0/"
REAL = "archives/dev/gbif/2024-11_medicinal-plants_npd2js.zip"


def members(dataset: SandboxDataset, folder: Path) -> dict[str, str]:
    """The archive's members as text."""
    path = folder / "archive.zip"
    write_archive(dataset, path, URL)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def rows(table: str) -> set[str]:
    return set(table.splitlines()[1:])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "demo.zip"
    write_archive(SandboxDataset(), path, URL)
    return path


def test_dwca_reader_finds_every_record_and_its_media(demo: Path) -> None:
    dataset = SandboxDataset()
    media = Counter(str(medium.gbif_id) for medium in dataset.media())
    with DwCAReader(str(demo)) as archive:
        read = list(archive)
        assert len(read) == sum(1 for _ in dataset.occurrences()) == 480 + len(Trouble) - 1
        for row in read:
            pictures = [extra for extra in row.extensions if extra.rowtype == GBIF + "Multimedia"]
            assert len(pictures) == media[row.id]
            assert row.data[DWC + "geodeticDatum"] == "WGS84"


def test_the_demo_has_about_600_media_and_a_long_tail() -> None:
    dataset = SandboxDataset()
    counts = Counter(occurrence.species.name for occurrence in dataset.occurrences())
    assert len(counts) == len(SPECIES)
    assert max(counts.values()) > 5 * min(counts.values()) > 50
    assert 550 < sum(1 for _ in dataset.media()) < 700


def test_every_trouble_is_there_as_often_as_asked() -> None:
    dataset = SandboxDataset(size=20, troubles=2)
    media = list(dataset.media())
    found = Counter(medium.trouble for medium in media if medium.trouble)
    assert found == {trouble: 4 if trouble is Trouble.DUPLICATE else 2 for trouble in Trouble}
    known = {occurrence.gbif_id for occurrence in dataset.occurrences()}
    assert all((medium.gbif_id in known) == (medium.trouble is not Trouble.ORPHAN) for medium in media)
    genus_only = [occurrence for occurrence in dataset.occurrences() if occurrence.trouble is Trouble.GENUS_ONLY]
    assert {occurrence.terms["species"] + occurrence.terms["speciesKey"] for occurrence in genus_only} == {""}
    assert not any(medium.trouble for medium in SandboxDataset(size=20, troubles=0).media())


def test_columns_are_those_of_a_real_download(demo: Path, shared: Path) -> None:
    def columns(path: Path) -> list[list[str]]:
        with zipfile.ZipFile(path) as archive:
            descriptor = ElementTree.fromstring(archive.read("meta.xml"))
        tables = [table for table in descriptor if table.tag.endswith(("core", "extension"))]
        return [
            [field.attrib["term"] for field in table if "index" in field.attrib and "term" in field.attrib]
            for table in tables
        ]

    real_core, real_media, real_verbatim = columns(shared / REAL)
    core, media, verbatim = columns(demo)
    assert media == real_media == list(MULTIMEDIA_COLUMNS)
    assert core == [term for term in real_core if term in set(OCCURRENCE_COLUMNS)]
    assert verbatim == [term for term in real_verbatim if term in set(verbatim)]
    with zipfile.ZipFile(shared / REAL) as real, zipfile.ZipFile(demo) as ours:
        assert {name.split("/")[0] for name in real.namelist()} == {name.split("/")[0] for name in ours.namelist()}


def test_tables_are_plain_tab_separated_text(demo: Path) -> None:
    with zipfile.ZipFile(demo) as archive:
        tables = [archive.read(name).decode() for name in ("occurrence.txt", "multimedia.txt", "verbatim.txt")]
    for table in tables:
        lines = table.split("\n")
        assert lines.pop() == ""
        assert len({line.count("\t") for line in lines}) == 1
    assert '"Meadow by the ""Three Oaks"""' in tables[0]  # quoted as small GBIF downloads quote


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for path in paths:
        write_archive(SandboxDataset(size=30), path, URL)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zip", "two.zip"]


def test_growth_adds_lines_and_changes_none(tmp_path: Path) -> None:
    old, new = (members(SandboxDataset(size=200, grow=grow), tmp_path) for grow in (0.0, 0.1))
    for table in ("occurrence.txt", "multimedia.txt", "verbatim.txt"):
        assert rows(old[table]) < rows(new[table])
    assert len(rows(new["occurrence.txt"]) - rows(old["occurrence.txt"])) == 20


def test_one_more_occurrence_can_be_published() -> None:
    old, new = (list(SandboxDataset(size=50, grow=grow).occurrences()) for grow in (0, 1 / 50))
    assert len([occurrence for occurrence in new if occurrence not in old]) == 1


def test_removal_and_relabelling_touch_only_the_share_asked_for() -> None:
    before = {occurrence.gbif_id: occurrence for occurrence in SandboxDataset(size=100).occurrences()}
    after = {
        occurrence.gbif_id: occurrence
        for occurrence in SandboxDataset(size=100, grow=0.2, remove=0.05, relabel=0.03).occurrences()
    }
    assert len(before.keys() - after.keys()) == 5
    assert len(after.keys() - before.keys()) == 20
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    assert len(changed) == 3
    for key in changed:
        assert before[key].terms["genus"] == after[key].terms["genus"]
        assert before[key].terms["species"] != after[key].terms["species"]
        assert before[key].media == after[key].media


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40), grow=st.floats(0, 2), troubles=st.integers(0, 2))
def test_identities_are_unique_and_survive_growth(seed: int, size: int, grow: float, troubles: int) -> None:
    old = list(SandboxDataset(seed, size, troubles=troubles).occurrences())
    new = list(SandboxDataset(seed, size, grow=grow, troubles=troubles).occurrences())
    identifiers = [occurrence.gbif_id for occurrence in new]
    assert identifiers == sorted(set(identifiers))
    assert len({occurrence.terms["occurrenceID"] for occurrence in new}) == len(new)
    assert [occurrence for occurrence in new if occurrence in old] == old
    paths = [medium.path for occurrence in new for medium in occurrence.media if medium.path]
    assert len(set(paths)) == len(paths)
