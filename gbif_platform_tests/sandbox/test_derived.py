"""Registering derived data sets with the sandbox, and its registry of constituent data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.sandbox import Sandbox
from gbif_platform.sandbox.records import PUBLISHERS
from gbif_platform_tests.sandbox.calls import FROG, Reply, assert_shape, call, get, recorded

BODY: dict[str, Any] = {
    "title": "Test for derived dataset",
    "description": "This data was filtered using a fake protocol",
    "sourceUrl": "https://zenodo.org/record/4246090#.YPGS2OgzZPY",
    "relatedDatasets": {PUBLISHERS[0].dataset_key: 3, PUBLISHERS[1].doi: 1},
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def register(sandbox: Sandbox, body: object = BODY, user: tuple[str, str] | None = FROG, **headers: Any) -> Reply:
    return call("POST", f"{sandbox.url}/v1/derivedDataset", body, user, **headers)


def test_a_derived_dataset_gets_a_doi_and_the_recorded_shape(sandbox: Sandbox, shared: Path) -> None:
    answer = register(sandbox)
    assert answer.status == 201
    example = recorded(shared, "derived_dataset")[0]
    assert answer.json.keys() == example.keys()
    assert_shape(answer.json, [example])
    assert answer.json["doi"].startswith("10.15468/dd.")
    assert answer.json["createdBy"] == "frog"
    address = f"{sandbox.url}/v1/derivedDataset/{answer.json['doi']}"
    assert get(address).json == answer.json
    assert get(address + "/citation").text == answer.json["citation"]
    rows = get(address + "/datasets").json["results"]
    assert [(row["datasetKey"], row["numberRecords"]) for row in rows] == [
        (PUBLISHERS[0].dataset_key, 3),
        (PUBLISHERS[1].dataset_key, 1),
    ]
    assert get(f"{sandbox.url}/v1/derivedDataset/10.15468/dd.nobody").status == 404


def test_the_multipart_form_means_the_same(sandbox: Sandbox) -> None:
    lines = "".join(f"{key},{count}\r\n" for key, count in BODY["relatedDatasets"].items())
    metadata = '{"title": "Form", "sourceUrl": "https://zenodo.org/record/1", "originalDownloadDOI": "10.15468/dl.x"}'
    form = (
        '--cut\r\nContent-Disposition: form-data; name="derivedDataset"\r\nContent-Type: application/json\r\n\r\n'
        f"{metadata}\r\n"
        '--cut\r\nContent-Disposition: form-data; name="relatedDatasets"; filename="related.csv"\r\n'
        f"Content-Type: text/csv\r\n\r\n{lines}\r\n--cut--\r\n"
    )
    answer = register(sandbox, form.encode(), Content_Type="multipart/form-data; boundary=cut")
    assert (answer.status, answer.json["title"]) == (201, "Form")
    assert answer.json["originalDownloadDOI"] == "10.15468/dl.x"
    rows = get(f"{sandbox.url}/v1/derivedDataset/{answer.json['doi']}/datasets").json
    assert [row["numberRecords"] for row in rows["results"]] == [3, 1]
    broken = form.replace(",3", ",many").encode()
    assert register(sandbox, broken, Content_Type="multipart/form-data; boundary=cut").status == 400


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"title": ""}, "title"),
        ({"sourceUrl": "my laptop"}, "sourceUrl"),
        ({"relatedDatasets": {}}, "relatedDatasets"),
        ({"relatedDatasets": {"a": 0}}, "a must be"),
        ({"relatedDatasets": {"a": "3"}}, "a must be"),
        ({"relatedDatasets": [1]}, "relatedDatasets"),
    ],
)
def test_incomplete_ones_are_refused_by_name(sandbox: Sandbox, change: dict[str, object], named: str) -> None:
    answer = register(sandbox, BODY | change)
    assert answer.status == 400
    assert named in answer.text


def test_only_users_may_register(sandbox: Sandbox) -> None:
    assert register(sandbox, user=None).status == 401
    assert register(sandbox, user=("frog", "guess")).status == 401


def test_the_registry_knows_the_constituent_datasets(sandbox: Sandbox, shared: Path) -> None:
    pages = recorded(shared, "dataset", "*datasets_limit*") + recorded(shared, "dataset", "rgbif__dataset__*")
    examples = [dataset for page in pages for dataset in page["results"]]
    for publisher in PUBLISHERS:
        answer = get(f"{sandbox.url}/v1/dataset/{publisher.dataset_key}").json
        assert_shape(answer, examples)
        assert (answer["title"], answer["doi"], answer["license"]) == (
            publisher.title,
            publisher.doi,
            publisher.licence_url,
        )
        assert publisher.doi in answer["citation"]["text"]
    assert get(f"{sandbox.url}/v1/dataset/00000000-0000-0000-0000-000000000000").status == 404
