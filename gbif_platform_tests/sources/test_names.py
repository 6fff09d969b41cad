"""Names and checklist files as taxon keys, against the loopback GBIF."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbif_platform.dataset import GbifSearch, Selection
from gbif_platform.gbif.checklists import BACKBONE, COL_XR
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.errors import WrongChecklist
from gbif_platform.gbif.species import Match
from gbif_platform.sandbox import Sandbox
from gbif_platform.sources.names import (
    REVIEW,
    BadChecklist,
    Name,
    NoNameAccepted,
    chosen_checklist,
    match_names,
    read_checklist,
    read_names,
    resolved_query,
    review,
    taxon_keys,
)
from gbif_platform.storage.tables import TABLES

MATCH = "/v2/species/match"
OCELLATA, MACULATA = "99000100", "99000106"


@pytest.fixture(scope="module")
def made_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(made_sandbox: Sandbox) -> Sandbox:
    made_sandbox.requests.clear()
    return made_sandbox


def matched(
    sandbox: Sandbox, names: list[Any], cache: Path, checklist: str | None = None, **options: Any
) -> list[Match]:
    async def run() -> list[Match]:
        async with GbifClient(sandbox.url, user_agent="test") as gbif:
            return await match_names(gbif, names, checklist, cache, **options)

    return asyncio.run(run())


def resolved(sandbox: Sandbox, selection: Selection, cache: Path) -> Any:
    async def run() -> Any:
        async with GbifClient(sandbox.url, user_agent="test") as gbif:
            return await resolved_query(gbif, selection, cache)

    return asyncio.run(run())


# Decisions


def test_exact_names_are_taken_and_the_rest_waits(sandbox: Sandbox, tmp_path: Path) -> None:
    names = [
        "Demoptera ocellata",
        "Loopbackia notata",
        "Demoptera ocelata",
        "Demoptera nova",
        "Rana arvalis",
        "Loopbackia maculata",
    ]
    frame = review(matched(sandbox, names, tmp_path))
    decided = {row["name"]: (row["accepted"], row["reason"], row["accepted_key"]) for row in frame.to_dicts()}
    assert decided == {
        "Demoptera ocellata": (True, "exact", OCELLATA),
        "Loopbackia notata": (True, "synonym", MACULATA),
        "Demoptera ocelata": (False, "spelt differently", OCELLATA),
        "Demoptera nova": (False, "only a higher rank matches", "99000011"),
        "Rana arvalis": (False, "no match", None),
        "Loopbackia maculata": (True, "exact", MACULATA),
    }
    assert frame["note"][5] == "the same taxon as Loopbackia notata"
    assert set(frame["checklist_key"]) == {BACKBONE}
    assert taxon_keys(matched(sandbox, names, tmp_path)) == [OCELLATA, MACULATA]


def test_the_review_has_the_columns_of_the_lakes_table(sandbox: Sandbox, tmp_path: Path) -> None:
    frame = review(matched(sandbox, ["Demoptera ocellata"], tmp_path))
    columns = [column.split()[0] for column in TABLES["name_matches"].split(", ")]
    assert ["dataset", "snapshot", *frame.columns] == columns
    assert review([]).schema == frame.schema == REVIEW


def test_homonyms_and_widened_synonyms_are_not_taken() -> None:
    homonym = Match("Oenanthe", BACKBONE, "NONE", note="Multiple equal matches", alternatives=("Oenanthe L.", "O. V."))
    wider = Match("Rana x", BACKBONE, "EXACT", "9", "Rana x", "SPECIES", "SYNONYM", "7", "Rana", accepted_rank="GENUS")
    unheard = Match("Rana y", BACKBONE, "SOMETHING", "9", accepted_key="9")
    frame = review([homonym, wider, unheard])
    assert frame["accepted"].to_list() == [False, False, False]
    assert frame["reason"].to_list() == ["homonym", "a synonym of a higher rank", "something"]
    assert frame["alternatives"][0] == "Oenanthe L.; O. V."
    assert taxon_keys([homonym, wider, unheard]) == []


def test_a_given_key_decides(sandbox: Sandbox, tmp_path: Path) -> None:
    names = [Name("Demoptera ocelata", OCELLATA, place="list.csv:2"), Name("Rana arvalis")]
    matches = matched(sandbox, names, tmp_path)
    row = review(matches).to_dicts()[0]
    assert (row["accepted"], row["reason"], row["accepted_key"]) == (True, "given", OCELLATA)
    assert "list.csv:2" in row["note"]
    assert [dict(one.headers)["User-Agent"] for one in sandbox.requests] == ["test"]  # the other name alone


def test_a_given_key_of_another_checklist_is_an_error(sandbox: Sandbox, tmp_path: Path) -> None:
    for name in (Name("x", "39N5S", place="list.csv:2"), Name("x", OCELLATA, COL_XR, "list.csv:2")):
        with pytest.raises(WrongChecklist, match=r"list\.csv:2"):
            matched(sandbox, [name], tmp_path)
    with pytest.raises(BadChecklist, match=r"b:2.*99.*a:1"):
        matched(sandbox, [Name("x", "7", place="a:1"), Name("x", "99", place="b:2")], tmp_path)


def test_col_xr_has_keys_of_its_own(sandbox: Sandbox, tmp_path: Path) -> None:
    (match,) = matched(sandbox, ["Demoptera ocellata"], tmp_path, COL_XR)
    assert match.exact
    assert match.checklist_key == COL_XR
    assert match.accepted_key
    assert not match.accepted_key.isdigit()
    assert f"checklistKey={COL_XR}" in sandbox.requests[0].query


# Asked once


def test_a_name_is_asked_once_also_when_it_stands_twice(sandbox: Sandbox, tmp_path: Path) -> None:
    names = ["Demoptera ocellata", "Rana arvalis", "Demoptera ocellata"]
    seen: list[tuple[int, int | None, str]] = []
    first = matched(sandbox, names, tmp_path, progress=lambda *told: seen.append(told))
    assert [match.name for match in first] == names[:2]
    assert seen == [(1, 2, "names"), (2, 2, "names")]
    assert len(sandbox.requests) == 2
    assert matched(sandbox, names, tmp_path) == first
    assert len(sandbox.requests) == 2
    matched(sandbox, names, tmp_path, COL_XR)
    assert len(sandbox.requests) == 4


def test_an_answer_that_was_cut_on_disk_is_asked_again(sandbox: Sandbox, tmp_path: Path) -> None:
    first = matched(sandbox, ["Demoptera ocellata", "Rana arvalis"], tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    sandbox.requests.clear()
    assert matched(sandbox, ["Demoptera ocellata", "Rana arvalis"], tmp_path) == first
    assert matched(sandbox, ["Demoptera ocellata", "Rana arvalis"], tmp_path) == first
    assert len(sandbox.requests) == 1


# Queries


def test_names_become_keys_of_the_query(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Loopbackia notata\n")
    selection = Selection(
        query={"taxon_key": 54, "country": ["SE", "DK"]}, names=["Demoptera ocellata"], checklist=str(file)
    )
    query, frame = resolved(sandbox, selection, tmp_path / "cache")
    assert query == {"country": ["DK", "SE"], "taxonKey": ["54", OCELLATA, MACULATA]}
    assert frame["name"].to_list() == ["Demoptera ocellata", "Loopbackia notata"]


def test_without_names_nothing_is_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    query, frame = resolved(sandbox, Selection(query={"year": "2000,2003"}), tmp_path)
    assert query == {"year": "2000,2003"}
    assert frame.is_empty()
    assert sandbox.requests == []


def test_no_name_at_all_is_an_error_with_the_way_out(sandbox: Sandbox, tmp_path: Path) -> None:
    names = ["Demoptera ocelata", "Rana arvalis", *(f"Unknown name{number}" for number in range(6))]
    with pytest.raises(NoNameAccepted) as refused:
        resolved(sandbox, Selection(names=names), tmp_path)
    assert "none of the 8 names" in refused.value.cause
    assert "Demoptera ocelata: spelt differently" in refused.value.cause
    assert "and 3 more" in refused.value.cause
    assert "taxonKey" in refused.value.next_step


def test_the_checklist_is_said_once() -> None:
    assert chosen_checklist(GbifSearch(names=["x"])) is None
    assert chosen_checklist(GbifSearch(names=["x"], checklist_key="col-xr")) == COL_XR
    assert chosen_checklist(GbifSearch(query={"checklistKey": COL_XR})) == COL_XR
    with pytest.raises(WrongChecklist, match="say"):
        chosen_checklist(GbifSearch(query={"checklistKey": COL_XR}, checklist_key="backbone"))


# Files


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.txt", "# frogs\nRana arvalis\n\n  Bufo   bufo  # common toad\n"),
        ("bom.txt", "\ufeffRana arvalis\r\nBufo bufo\r\n"),
        ("a.csv", "scientificName,note\nRana arvalis,x\n# no\nBufo bufo,\n"),
        ("bom.csv", '\ufeff"scientificName"\n"Rana arvalis"\nBufo bufo'),
        ("a.tsv", "id\tname\n1\tRana arvalis\n2\tBufo bufo\n"),
        ("semicolons.csv", "Name;x\nRana arvalis;1\nBufo bufo;2\n"),
        ("header.txt", "ScientificName\nRana arvalis\nBufo bufo\n"),
    ],
)
def test_a_checklist_is_read_however_it_is_written(tmp_path: Path, file: str, content: str) -> None:
    path = tmp_path / file
    path.write_bytes(content.encode())
    assert [name.text for name in read_checklist(path)] == ["Rana arvalis", "Bufo bufo"]


def test_authors_with_commas_stay_in_the_name(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("Rana arvalis Nilsson, 1842\nBufo bufo (Linnaeus, 1758)\n")
    assert [name.text for name in read_checklist(path)] == ["Rana arvalis Nilsson, 1842", "Bufo bufo (Linnaeus, 1758)"]
    quoted = tmp_path / "names.csv"
    quoted.write_text('scientificName,taxonKey\n"Rana arvalis Nilsson, 1842",\n')
    assert [name.text for name in read_checklist(quoted)] == ["Rana arvalis Nilsson, 1842"]


def test_decisions_stand_beside_the_names(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("scientificName,taxonKey,checklistKey\nRana arvalis,5,backbone\nBufo bufo,,\n,7,\n")
    assert read_checklist(path) == [
        Name("Rana arvalis", "5", BACKBONE, "names.csv:2"),
        Name("Bufo bufo", None, None, "names.csv:3"),
        Name("taxonKey 7", "7", None, "names.csv:4"),
    ]


@pytest.mark.parametrize(
    ("file", "content", "place", "said"),
    [
        ("empty.txt", b"", "empty.txt:1", "no name"),
        ("comments.txt", b"# nothing\n\n", "comments.txt:1", "no name"),
        ("header.csv", b"scientificName\n", "header.csv:1", "no name"),
        ("other.csv", b"\nspecies,genus\nx,y\n", "other.csv:2", "species, genus"),
        ("latin.txt", b"Rana arvalis\nHyla L\xf6nn\n", "latin.txt:2", "UTF-8"),
        ("commas.csv", b"scientificName\nRana arvalis\nRana Nilsson, 1842\n", "commas.csv:3", "2 values for 1"),
        ("key.csv", b"name,checklistKey\nRana,\nBufo,colxr\n", "key.csv:3", "names no checklist"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, file: str, content: bytes, place: str, said: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(BadChecklist) as refused:
        read_checklist(path)
    assert place in refused.value.cause
    assert said in refused.value.cause
    assert refused.value.next_step


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadChecklist, match=r"gone\.txt"):
        read_names(Selection(checklist=str(tmp_path / "gone.txt")))
    with pytest.raises(BadChecklist, match="cannot read"):
        read_checklist(tmp_path)


CONTENTS = st.binary(max_size=80) | st.text(alphabet='name,taxonKey\n\t;"#\r\0é', max_size=80).map(str.encode)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=CONTENTS, suffix=st.sampled_from([".txt", ".csv", ".tsv"]))
def test_any_file_gives_names_or_a_typed_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"names{suffix}"
    path.write_bytes(content)
    try:
        names = read_checklist(path)
    except BadChecklist:
        return
    assert names
    assert all(name.text == " ".join(name.text.split()) != "" for name in names)
