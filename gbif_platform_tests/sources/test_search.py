"""A search as a source, against the loopback GBIF: divided, whole, not asked twice, and like a download's archive."""

import asyncio
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.dataset import GbifSearch
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive, DataFile
from gbif_platform.gbif.checklists import BACKBONE, COL_XR
from gbif_platform.gbif.client import PAGE_SIZE
from gbif_platform.gbif.errors import BadRequest, UnknownField, Unreachable
from gbif_platform.gbif.licences import normalise
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sources.search import plan as search_plan
from gbif_platform.sources.search.parts import Part
from gbif_platform.sources.search.plan import SearchNotDivisible, SearchTooLarge, plan
from gbif_platform.sources.search.record import OCCURRENCE_TERMS, media_rows, occurrence_row, text
from gbif_platform.sources.search.search import search_archive, search_version

SIZE = 320
SEARCH = "/v1/occurrence/search"
EVERYWHERE = GbifSearch(query={"country": ["DK", "PT", "EE", "CO"]})


@pytest.fixture(scope="module")
def made_sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(made_sandbox: Sandbox) -> Sandbox:
    made_sandbox.records(SandboxDataset(size=SIZE, troubles=0))
    made_sandbox.search_limit = 100_000
    made_sandbox.down = False
    made_sandbox.requests.clear()
    return made_sandbox


Search = Callable[..., dict[str, Any]]


@pytest.fixture
def search(sandbox: Sandbox, tmp_path: Path) -> Search:
    def run(source: GbifSearch = EVERYWHERE, name: str = "search", **options: Any) -> dict[str, Any]:
        if "limit" in options:
            sandbox.search_limit = options["limit"]
        cache = options.pop("cache", tmp_path / name)
        options = {"endpoint": sandbox.url, "user_agent": "test"} | options
        return search_archive(source, tmp_path / f"{name}.zip", cache, **options)

    return run


def frame(data_file: DataFile | None) -> pl.DataFrame:
    assert data_file
    return pl.concat([pl.DataFrame(batch) for batch in data_file.batches()])


def occurrences(archive: Path) -> pl.DataFrame:
    with DarwinCoreArchive(archive) as opened:
        found = frame(opened.core)
        assert opened.core.rejected == []
        assert opened.core.count_lines() == len(found)
        return found


# Whole, within the limit


@pytest.mark.parametrize("limit", [100_000, 200, 40])
def test_a_search_is_whole_whatever_the_limit(sandbox: Sandbox, search: Search, tmp_path: Path, limit: int) -> None:
    known = search(limit=limit)
    ids = occurrences(tmp_path / "search.zip")["_id"]
    assert known["totalRecords"] == ids.n_unique() == len(ids) == SIZE
    assert known["warnings"] == []
    searches = [one for one in sandbox.requests if one.path.startswith(SEARCH)]
    assert known["plannedCalls"] == len(searches)
    if limit >= SIZE:
        assert len(searches) == 1 + math.ceil(SIZE / PAGE_SIZE)


def test_occurrences_without_the_value_are_a_part_of_their_own(
    search: Search, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.records(SandboxDataset(size=SIZE, troubles=30))  # some are identified to the genus alone
    monkeypatch.setattr(search_plan, "FIELDS", ("speciesKey",))
    known = search(limit=200)
    found = occurrences(tmp_path / "search.zip")
    assert known["totalRecords"] == len(found) > SIZE
    assert found["species_key"].null_count() > 0
    assert known["warnings"] == []
    assert f"{SEARCH}/predicate" in {one.path for one in sandbox.requests}


def test_a_long_query_is_sent_as_a_predicate(search: Search, sandbox: Sandbox) -> None:
    known = search(GbifSearch(query={"country": ["DK", "PT", "EE", "CO"], "taxonKey": [1, *range(10_000, 10_600)]}))
    assert known["totalRecords"] == SIZE
    asked = [one for one in sandbox.requests if one.path.startswith(SEARCH)]
    assert {(one.method, one.path) for one in asked} == {("POST", f"{SEARCH}/predicate")}
    assert all(len(one.query) < 200 for one in asked)


def test_what_cannot_be_divided_is_an_error(search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(search_plan, "FIELDS", ("basisOfRecord",))
    with pytest.raises(SearchNotDivisible, match="cannot be divided") as refused:
        search(limit=40)
    assert "gbif_download" in refused.value.next_step
    assert not list(tmp_path.glob("*.zip"))


class Index:
    """An index in memory that answers what the planner asks; `None` is no value."""

    def __init__(self, records: list[dict[str, str | None]]) -> None:
        self.records, self.calls = records, 0

    def found(self, part: Part) -> list[dict[str, str | None]]:
        wanted = {name: value if isinstance(value, list) else [value] for name, value in part.query.items()}
        return [
            one
            for one in self.records
            if all(one[name] in values for name, values in wanted.items())
            and all(one[name] is None for name in part.empty)
        ]

    def planned(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> search_plan.Plan:
        async def counted(part: Part, gbif: Index) -> int:
            gbif.calls += 1
            return len(gbif.found(part))

        async def facet(part: Part, gbif: Index, field: str) -> dict[str, int]:
            gbif.calls += 1
            return Counter(value for one in gbif.found(part) if (value := one.get(field)) is not None)

        monkeypatch.setattr(Part, "counted", counted)
        monkeypatch.setattr(Part, "facet", facet)
        return asyncio.run(plan(self, Part({}, 0), max_calls=10**6, limit=limit))  # type: ignore[arg-type]


RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "year": st.sampled_from([None, "1999", "2000", "2024"]),
            "month": st.sampled_from([None, "1", "2"]),
            "datasetKey": st.sampled_from(["a", "b", "c"]),
        }
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(records=RECORDS, limit=st.integers(1, 30))
def test_parts_are_disjoint_complete_and_small_enough(records: list[dict[str, str | None]], limit: int) -> None:
    index = Index(records)
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            planned = index.planned(monkeypatch, limit)
        except SearchNotDivisible:
            alike = {tuple(one.items()) for one in records}
            assert any(records.count(dict(one)) > limit for one in alike)  # only what nothing tells apart
            return
    assert all(0 < part.count <= limit for part in planned.parts)
    assert [len(index.found(part)) for part in planned.parts] == [part.count for part in planned.parts]
    reached = [id(one) for part in planned.parts for one in index.found(part)]
    assert sorted(reached) == sorted(map(id, records))
    assert planned.total == len(records)
    assert planned.planning_calls == index.calls


# Calls


def test_a_search_of_too_many_calls_is_refused_before_it_starts(sandbox: Sandbox, search: Search) -> None:
    with pytest.raises(SearchTooLarge) as refused:
        search(EVERYWHERE.model_copy(update={"max_calls": 2}))
    assert len(sandbox.requests) == 1
    assert "320 occurrences" in refused.value.cause
    assert "3 calls" in refused.value.cause
    assert "1 minutes" in refused.value.cause
    assert "gbif_download: {query: {country: [CO, DK, EE, …]}}" in refused.value.next_step


def test_planning_stops_at_the_limit_of_calls(sandbox: Sandbox, search: Search) -> None:
    with pytest.raises(SearchTooLarge):
        search(EVERYWHERE.model_copy(update={"max_calls": 35}), limit=10)
    assert len(sandbox.requests) <= 10
    assert not any("offset=10" in one.query for one in sandbox.requests)


def test_a_finished_search_asks_nothing_and_gives_the_same_bytes(
    sandbox: Sandbox, search: Search, tmp_path: Path
) -> None:
    first = search(limit=90)
    digest = hashlib.sha256((tmp_path / "search.zip").read_bytes()).hexdigest()
    (tmp_path / "search.zip").unlink()
    sandbox.requests.clear()
    sandbox.down = True
    again = search(limit=90)
    assert sandbox.requests == []
    assert again == first | {"calls": 0}
    assert hashlib.sha256((tmp_path / "search.zip").read_bytes()).hexdigest() == digest


def test_an_interrupted_search_asks_for_what_is_missing(sandbox: Sandbox, search: Search) -> None:
    def interrupt(done: int, total: int | None, unit: str) -> None:
        assert (total, unit) == (SIZE, "records")
        if done > SIZE / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(limit=90, progress=interrupt)
    asked = {(one.path, one.query) for one in sandbox.requests}
    sandbox.requests.clear()
    seen: list[int] = []
    known = search(limit=90, progress=lambda done, total, unit: seen.append(done))
    assert asked.isdisjoint({(one.path, one.query) for one in sandbox.requests})
    assert known["totalRecords"] == SIZE
    assert seen[-1] == SIZE
    assert all(before < after for before, after in pairwise(seen))


def test_gbif_being_down_leaves_what_is_there(search: Search, sandbox: Sandbox, tmp_path: Path) -> None:
    search()
    before = (tmp_path / "search.zip").read_bytes()
    sandbox.fail_next(SEARCH, status=400, text="GBIF's own words")
    with pytest.raises(BadRequest, match="GBIF's own words"):
        search(cache=tmp_path / "other")
    assert (tmp_path / "search.zip").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_damaged_page_is_asked_again(search: Search, sandbox: Sandbox, tmp_path: Path) -> None:
    search()
    page = sorted(tmp_path.glob("search/*/pages-*/*"))[1]
    page.write_bytes(page.read_bytes()[:100])
    sandbox.requests.clear()
    assert search()["totalRecords"] == SIZE
    assert len(sandbox.requests) == 1


def test_429_is_waited_out(search: Search, sandbox: Sandbox) -> None:
    sandbox.fail_next(SEARCH, status=429, retry_after=0, times=2)
    assert search()["totalRecords"] == SIZE


def test_an_address_that_is_not_gbifs_is_told(search: Search, sandbox: Sandbox) -> None:
    with pytest.raises((Unreachable, PlatformError)):
        search(endpoint=f"{sandbox.url}/nothing")


# The index changes


def test_a_change_of_the_index_is_read_anew(search: Search, sandbox: Sandbox, tmp_path: Path) -> None:
    changes = [SandboxDataset(size=SIZE, grow=0.1, troubles=0)]

    def change(*_: object) -> None:
        if changes:
            sandbox.records(changes.pop())

    known = search(progress=change)
    assert known["totalRecords"] == len(occurrences(tmp_path / "search.zip")) == SIZE + 32
    assert known["warnings"] == ["the plan counted 320 occurrences, 352 came: GBIF's index changed meanwhile"]


def test_an_index_that_does_not_rest_is_written_down(search: Search, sandbox: Sandbox) -> None:
    sizes = iter(range(SIZE + 1, 2 * SIZE))

    def change(*_: object) -> None:
        sandbox.records(SandboxDataset(size=next(sizes), troubles=0))

    known = search(progress=change)
    assert len(known["warnings"]) == 2
    assert "GBIF announced" in known["warnings"][0]


# Like a download


def test_the_archive_is_that_of_a_download(search: Search, sandbox: Sandbox, tmp_path: Path) -> None:
    downloaded = sandbox.publish(SandboxDataset(size=SIZE, troubles=2)).archive
    known = search()
    ours, theirs = occurrences(tmp_path / "search.zip"), occurrences(downloaded)
    same = [name for name in theirs.columns if name not in ("_row_ref", "license", "publisher")]
    missing = {name for name in same if theirs[name].null_count() < len(theirs)} - set(ours.columns)
    assert missing == set()
    left, right = (one.select(same).sort("_id").unique("_id", maintain_order=True) for one in (ours, theirs))
    assert len(left) == len(right) == known["totalRecords"]
    numbers = pl.col("decimal_latitude", "decimal_longitude").cast(pl.Float64)  # 55.40600 is 55.406 in JSON
    left, right = (one.with_columns(numbers) for one in (left, right))
    differing = {name for name in same if not left[name].equals(right[name])}
    assert differing <= {"has_geospatial_issues", "repatriated", "verbatim_scientific_name"}  # the search has none
    assert {normalise(one) for one in ours["license"]} == {normalise(one) for one in theirs["license"]}
    with DarwinCoreArchive(tmp_path / "search.zip") as one, DarwinCoreArchive(downloaded) as other:
        assert one.warnings == []
        keys = ["_id", "identifier", "type", "license", "creator"]
        found, wanted = frame(one.multimedia), frame(other.multimedia)
        assert found.columns == wanted.columns
        mine, yours = (
            part.select(keys).unique().sort(keys) for part in (found, wanted.join(theirs, on="_id", how="semi"))
        )
        assert mine.equals(yours)
        citations = one.metadata["citations"].splitlines()
        assert len(citations) == 1 + known["numberDatasets"]
        assert all("accessed via GBIF.org on" in line for line in citations[1:])


def test_taxa_are_those_of_the_checklist(search: Search, tmp_path: Path) -> None:
    source = GbifSearch(names=["Demoptera ocellata"], checklist_key="col-xr")
    known = search(source)
    found = occurrences(tmp_path / "search.zip")
    (key,) = known["query"]["taxonKey"]
    assert set(found["species_key"]) == {key}
    assert not key.isdigit()
    assert set(found["species"]) == {"Demoptera ocellata"}
    assert set(found["checklist_key"]) == {COL_XR}
    by_backbone = search(GbifSearch(names=["Demoptera ocellata"]), "backbone")
    assert by_backbone["totalRecords"] == known["totalRecords"]
    assert set(occurrences(tmp_path / "backbone.zip")["checklist_key"]) == {BACKBONE}


def test_names_and_their_matches_are_told(search: Search) -> None:
    known = search(GbifSearch(names=["Loopbackia notata", "Demoptera ocelata"]))
    assert known["names"] == ["Demoptera ocelata", "Loopbackia notata"]
    assert [one["reason"] for one in known["matches"]] == ["synonym", "spelt differently"]
    json.dumps(known)


def test_it_works_in_a_notebook(search: Search) -> None:
    async def cell() -> dict[str, Any]:
        return search()

    assert asyncio.run(cell())["totalRecords"] == SIZE


def test_a_search_that_finds_nothing_says_so(search: Search, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"finds nothing for \{country: SE\}"):
        search(GbifSearch(query={"country": "SE"}))
    assert not list(tmp_path.glob("*.zip"))


def test_a_misspelt_field_is_refused_before_anything_is_asked(search: Search, sandbox: Sandbox) -> None:
    with pytest.raises(UnknownField):
        search(GbifSearch(query={"contry": "DK"}))
    assert sandbox.requests == []


# Records


def test_values_are_written_as_gbif_writes_them() -> None:
    assert text("a\tb\r\nc\u2028d\x00") == "a b  c d "
    assert text(["x", None, "y\n"]) == "x;y "
    assert text(True) == "true"
    assert text(None) == text({"nested": 1}) == text([]) == ""
    assert text(38.10695) == "38.10695"


def test_recorded_records_become_rows(shared: Path) -> None:
    record = json.loads(
        (shared / "api/dev/occurrence_search/pygbif__search_identified_by_id__000__200.json").read_text()
    )["response"]["body"]["results"][0]
    names = [term.rsplit("/", 1)[1] for term in OCCURRENCE_TERMS]
    row = dict(zip(names, occurrence_row(record, None), strict=True))
    assert row["gbifID"] == str(record["key"])
    assert row["issue"] == ";".join(record["issues"])
    assert row["identifiedByID"] == "https://orcid.org/0000-0003-1691-239X"
    assert row["license"] == record["license"]
    assert row["lastInterpreted"].endswith("Z")
    assert row["mediaType"] == ("StillImage" if record["media"] else "")
    assert row["level0Gid"] == record["gadm"]["level0"]["gid"]
    assert row["taxonKey"] == str(record["taxonKey"])
    assert row["checklistKey"] == BACKBONE
    assert len(media_rows(record)) == len(record["media"])


@given(
    st.dictionaries(
        st.sampled_from(
            [term.rsplit("/", 1)[1] for term in OCCURRENCE_TERMS]
            + ["media", "gadm", "classifications", "recordedByIDs", "issues", "key"]
        ),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        ),
    )
)
def test_no_record_breaks_the_table(record: dict[str, Any]) -> None:
    for checklist in (None, COL_XR):
        for row in (occurrence_row(record, checklist), *media_rows(record)):
            assert not set("\t\n\r") & set("".join(row))
    assert len(occurrence_row(record, None)) == len(OCCURRENCE_TERMS)


# Versions


def test_a_version_is_that_of_what_is_searched(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Rana arvalis\nBufo bufo\n")
    one = search_version(GbifSearch(query={"taxon_key": [2, 1], "country": "DK"}, names=["a", "b"], max_calls=3))
    same = search_version(GbifSearch(query={"country": ["DK"], "taxonKey": ["1", 2]}, names=["b", "a"]))
    assert one == same
    assert len(one) == 16
    others = [
        GbifSearch(query={"taxonKey": [1, 2]}, names=["a", "b"]),
        GbifSearch(query={"taxonKey": [1, 2], "country": "DK"}, names=["a"]),
        GbifSearch(query={"taxonKey": [1, 2], "country": "DK"}, names=["a", "b"], checklist_key=BACKBONE),
        GbifSearch(checklist=str(file)),
    ]
    said = GbifSearch(query={"taxonKey": [1, 2], "country": "DK", "checklistKey": BACKBONE}, names=["a", "b"])
    assert search_version(said) == search_version(others[2])
    versions = [search_version(source) for source in others]
    file.write_text("Rana arvalis\nBufo bufo\nBufo viridis\n")
    assert len({one, *versions, search_version(others[-1])}) == 6
