"""The sandbox's search: parameters, ranges, facets, limits and refusals, in the shapes of recorded answers."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform.sandbox.parameters import BY_NAME
from gbif_platform.sandbox.records import Occurrence, Trouble
from gbif_platform.sandbox.taxonomy import BACKBONE, COL_XR, USAGES
from gbif_platform_tests.sandbox.calls import Reply, assert_shape, call, get, recorded

DATASET = SandboxDataset(size=120)
RECORDS = list(DATASET.occurrences())


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        running.publish(DATASET)
        yield running


def search(sandbox: Sandbox, *pairs: tuple[str, object], **parameters: object) -> Reply:
    return get(f"{sandbox.url}/v1/occurrence/search", [*pairs, *parameters.items()])


def count(sandbox: Sandbox, *pairs: tuple[str, object], **parameters: object) -> int:
    return int(search(sandbox, *pairs, ("limit", 0), **parameters).json["count"])


def having(**terms: str) -> int:
    return sum(all(each.terms[name] == value for name, value in terms.items()) for each in RECORDS)


def test_every_record_is_found_once_in_gbifs_order(sandbox: Sandbox) -> None:
    pages = [search(sandbox, limit=50, offset=offset).json for offset in (0, 50, 100)]
    found = [record for page in pages for record in page["results"]]
    assert len(found) == len(RECORDS) == pages[0]["count"]
    order = [(-record["year"], record["month"], record["key"]) for record in found]
    assert order == sorted(order)
    assert {r["key"] for r in found} == {record.gbif_id for record in RECORDS}
    assert [page["endOfRecords"] for page in pages] == [False, False, True]


def test_records_have_the_shape_of_recorded_ones(sandbox: Sandbox, shared: Path) -> None:
    examples = [body for body in recorded(shared, "occurrence_search") if isinstance(body, dict)]
    records = [record for body in examples for record in body["results"]]
    for record in records:  # what depends on the data, not on GBIF: two checklists are enough, extensions are empty
        record["extensions"] = {}
    answer = search(sandbox, limit=300).json
    assert answer.keys() == examples[0].keys()
    assert_shape(answer["results"], [records])
    single = get(f"{sandbox.url}/v1/occurrence/{RECORDS[0].gbif_id}").json
    assert single == next(record for record in answer["results"] if record["key"] == RECORDS[0].gbif_id)
    assert get(f"{sandbox.url}/v1/occurrence/7").status == 404


def test_media_come_with_the_records_and_absent_values_have_no_key(sandbox: Sandbox) -> None:
    found = {record["key"]: record for record in search(sandbox, limit=300).json["results"]}
    for record in RECORDS:
        media = found[record.gbif_id]["media"]
        assert [medium.get("identifier") for medium in media] == [
            sandbox.url + medium.path if medium.path else None for medium in record.media_rows
        ]
        assert [medium.get("license", "") for medium in media] == [medium.license for medium in record.media_rows]
    genus_only = next(record for record in RECORDS if record.trouble is Trouble.GENUS_ONLY)
    assert "speciesKey" not in found[genus_only.gbif_id]


@pytest.mark.parametrize(
    ("parameters", "terms"),
    [
        ({"speciesKey": SPECIES[0].key}, {"speciesKey": str(SPECIES[0].key)}),
        ({"taxonKey": SPECIES[0].key}, {"speciesKey": str(SPECIES[0].key)}),
        ({"taxonKey": SPECIES[0].genus.key}, {"genusKey": str(SPECIES[0].genus.key)}),
        ({"taxonKey": 797}, {"orderKey": "797"}),
        ({"familyKey": SPECIES[7].family.key, "country": "PT"}, {"family": "Loopbackiidae", "countryCode": "PT"}),
        ({"country": "dk"}, {"countryCode": "DK"}),
        ({"basisOfRecord": "PRESERVED_SPECIMEN"}, {"basisOfRecord": "PRESERVED_SPECIMEN"}),
        ({"mediaType": "Sound"}, {"mediaType": "Sound"}),
        ({"license": "CC0_1_0"}, {"license": "CC0_1_0"}),
        ({"hasCoordinate": "false"}, {"hasCoordinate": "false"}),
        ({"stateProvince": "Évora"}, {"stateProvince": "Évora"}),
        ({"recordedBy": "niamh o'shea"}, {"recordedBy": "Niamh O'Shea"}),
        ({"institutionCode": "SBX", "month": 7}, {"institutionCode": "SBX", "month": "7"}),
        ({"occurrenceID": RECORDS[3].terms["occurrenceID"]}, {"gbifID": RECORDS[3].terms["gbifID"]}),
        ({"gbifId": RECORDS[3].gbif_id}, {"gbifID": RECORDS[3].terms["gbifID"]}),
        ({"scientificName": "Demoptera ocellata"}, {"species": "Demoptera ocellata"}),
        ({"continent": "EUROPE"}, {"continent": "EUROPE"}),
        ({"publishingCountry": "EE"}, {"publishingCountry": "EE"}),
        ({"datasetKey": RECORDS[0].terms["datasetKey"]}, {"datasetKey": RECORDS[0].terms["datasetKey"]}),
        ({"noSuchParameter": "x"}, {}),
    ],
)
def test_a_parameter_keeps_the_records_that_have_it(
    sandbox: Sandbox, parameters: dict[str, object], terms: dict[str, str]
) -> None:
    assert count(sandbox, *parameters.items()) == having(**terms)


def test_repeated_values_are_alternatives_and_ranges_have_open_ends(sandbox: Sandbox) -> None:
    years = Counter(int(record.terms["year"]) for record in RECORDS)
    assert count(sandbox, ("year", 2021), ("year", 2023)) == years[2021] + years[2023]
    assert count(sandbox, year="2022,2024") == sum(n for year, n in years.items() if 2022 <= year <= 2024)
    assert count(sandbox, year="*,2021") == sum(n for year, n in years.items() if year <= 2021)
    assert count(sandbox, eventDate="2022") == years[2022]
    assert count(sandbox, eventDate="2022-01,2023-12") == years[2022] + years[2023]
    north = sum(float(record.terms["decimalLatitude"]) >= 50 for record in RECORDS)
    assert count(sandbox, decimalLatitude="50,*") == north
    place = "55.86,12.41,20km"
    meadow = sum(record.terms["stateProvince"] == "Hovedstaden" for record in RECORDS)
    assert count(sandbox, geoDistance=place) == meadow == count(sandbox, q="three oaks") > 0
    box = "POLYGON((-180 50,180 50,180 90,-180 90,-180 50))"
    assert count(sandbox, geometry=box) == north
    parts = "MULTIPOLYGON(((-180 50,180 50,180 90,-180 90,-180 50)),((-90 0,-60 0,-60 20,-90 20,-90 0)))"
    assert count(sandbox, geometry=parts) == north + having(countryCode="CO")
    hole = "POLYGON((-180 -90,180 -90,180 90,-180 90,-180 -90),(-90 0,-60 0,-60 20,-90 20,-90 0))"
    assert count(sandbox, geometry=hole) == len(RECORDS) - having(countryCode="CO")
    clustered, others = count(sandbox, isInCluster="true"), count(sandbox, isInCluster="false")
    assert clustered > 0
    assert clustered + others == len(RECORDS)
    rounded = sum("COORDINATE_ROUNDED" in record.terms["issue"] for record in RECORDS)
    assert count(sandbox, issue="COORDINATE_ROUNDED") == rounded
    assert get(f"{sandbox.url}/v1/occurrence/count", {"year": 2022}).json == years[2022]


def test_numeric_keys_match_nothing_in_col_xr_and_its_own_keys_do(sandbox: Sandbox) -> None:
    species = SPECIES[0]
    ours = USAGES[species.name.lower()].key(COL_XR)
    wanted = having(speciesKey=str(species.key))
    assert not ours.isdecimal()
    assert count(sandbox, taxonKey=species.key, checklistKey=COL_XR) == 0
    assert count(sandbox, taxonKey=ours, checklistKey=COL_XR) == wanted > 0
    assert count(sandbox, taxonKey=ours) == 0
    assert count(sandbox, taxonKey=species.key, checklistKey=BACKBONE) == wanted
    facet = search(sandbox, facet="speciesKey", limit=0, checklistKey=COL_XR).json["facets"][0]
    assert {"name": ours, "count": wanted} in facet["counts"]


def test_facets_count_values_and_can_be_paged(sandbox: Sandbox, shared: Path) -> None:
    by_country = Counter(record.terms["countryCode"] for record in RECORDS)
    ranked = sorted(by_country.items(), key=lambda item: (-item[1], item[0]))
    answer = search(sandbox, ("facet", "country"), ("facet", "basisOfRecord"), limit=0).json
    assert_shape(answer, recorded(shared, "facets", "rgbif__occ_count*"))
    assert [facet["field"] for facet in answer["facets"]] == ["COUNTRY", "BASIS_OF_RECORD"]
    assert [(c["name"], c["count"]) for c in answer["facets"][0]["counts"]] == ranked

    def values(**options: object) -> list[str]:
        facet = search(sandbox, facet="country", limit=0, **options).json["facets"][0]
        return [each["name"] for each in facet["counts"]]

    names = [name for name, _ in ranked]
    assert values(facetLimit=2) == names[:2]
    assert values(facetLimit=2, facetOffset=1) == names[1:3]
    assert search(sandbox, ("country.facetLimit", 1), facet="country", limit=0, facetLimit=3).json["facets"][0][
        "counts"
    ] == [{"name": names[0], "count": ranked[0][1]}]
    assert values(facetMincount=ranked[0][1]) == [name for name, n in ranked if n == ranked[0][1]]
    assert values(country=names[1]) == [names[1]]
    assert values(country=names[1], facetMultiselect="true") == names


def test_limits_are_gbifs_and_can_be_lowered(sandbox: Sandbox) -> None:
    assert search(sandbox, limit=1000).json["limit"] == 300
    refused = search(sandbox, offset=99_900, limit=300)
    assert (refused.status, refused.text) == (400, "Max offset of 100000 exceeded: 99900 + 300")
    assert search(sandbox, offset=99_700, limit=300).status == 200
    sandbox.search_limit = 50
    try:
        assert search(sandbox, limit=50).status == 200
        assert search(sandbox, limit=50, offset=1).status == 400
    finally:
        sandbox.search_limit = 100_000


def test_refusals_have_the_recorded_words(sandbox: Sandbox, shared: Path) -> None:
    start = "POLYGON((30.1 10.1,40 40,20 40,10 20,30.1"
    asked = [
        ("depth", "5-10"),
        ("continent", "asia,oceania"),
        ("decimalLatitude", "334"),
        ("geometry", f"{start} a))"),
        ("geometry", f"{start} '10.1'))"),
        ("geometry", f"{start} 10.1)"),
    ]
    for pair, text in zip(asked, recorded(shared, "errors", "rgbif__occ_search_*"), strict=True):
        refused = search(sandbox, pair)
        assert (refused.status, refused.text) == (400, text)


@pytest.mark.parametrize(
    "parameters",
    [{"basisOfRecord": "GUESS"}, {"year": "soon"}, {"datasetKey": "foo-bar"}, {"hasCoordinate": "maybe"},
     {"eventDate": "yesterday"}, {"mediaType": "Picture"}],
)  # fmt: skip
def test_bad_values_are_refused(sandbox: Sandbox, parameters: dict[str, object]) -> None:
    assert search(sandbox, *parameters.items()).status == 400


def test_predicates_search_too(sandbox: Sandbox) -> None:
    predicate = {
        "type": "and",
        "predicates": [
            {"type": "in", "key": "COUNTRY", "values": ["DK", "EE"]},
            {"type": "not", "predicate": {"type": "equals", "key": "BASIS_OF_RECORD", "value": "PRESERVED_SPECIMEN"}},
        ],
    }
    body = {"predicate": predicate, "limit": 5, "facets": ["YEAR"]}
    answer = call("POST", f"{sandbox.url}/v1/occurrence/search/predicate", body).json

    def wanted(record: Occurrence) -> bool:
        terms = record.terms
        return terms["countryCode"] in ("DK", "EE") and terms["basisOfRecord"] != "PRESERVED_SPECIMEN"

    assert answer["count"] == sum(map(wanted, RECORDS)) > 5
    assert len(answer["results"]) == 5
    assert sum(each["count"] for each in answer["facets"][0]["counts"]) == answer["count"]
    bad = call("POST", f"{sandbox.url}/v1/occurrence/search/predicate", {"predicate": {"type": "equals", "key": "FOO"}})
    assert bad.status == 400
    assert "FOO" in bad.text


def test_the_world_keeps_the_newest_state_and_can_be_replaced() -> None:
    with Sandbox() as sandbox:
        sandbox.publish(SandboxDataset(size=40, troubles=0))
        before = {r["key"]: r for r in search(sandbox, limit=300).json["results"]}
        sandbox.publish(SandboxDataset(size=40, troubles=0, grow=0.1, relabel=0.2))
        after = {r["key"]: r for r in search(sandbox, limit=300).json["results"]}
        assert len(after) == 44
        assert sum(after[key]["species"] != record["species"] for key, record in before.items()) == 8
        sandbox.records(SandboxDataset(size=40, troubles=0, remove=0.25))
        assert count(sandbox) == 30


def test_every_parameter_has_gbifs_two_spellings() -> None:
    assert BY_NAME["taxonKey"].key == "TAXON_KEY"
    assert BY_NAME["gbifId"].key == "GBIF_ID"
    assert BY_NAME["isInCluster"].key == "IS_IN_CLUSTER"
    assert BY_NAME["coordinateUncertaintyInMeters"].key == "COORDINATE_UNCERTAINTY_IN_METERS"


def test_an_unknown_facet_is_left_out(sandbox: Sandbox) -> None:
    answer: Any = search(sandbox, facet="noSuchThing", limit=0).json
    assert answer["facets"] == []
