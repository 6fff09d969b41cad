"""Credit in GBIF's forms."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.citations import (
    RESTRICTIONS,
    attribution,
    dataset_citations,
    dataset_rows,
    derived_citation,
    derived_dataset,
    download_citation,
    licence_of_the_whole,
)
from gbif_platform.gbif.licences import from_spdx


def test_a_download_is_cited_as_gbif_asks() -> None:
    metadata = {"doi": "10.15468/dl.4GBCS6", "created": "2020-07-09T12:01:02.000+00:00"}
    assert download_citation(metadata) == (
        "GBIF.org (9 July 2020) GBIF Occurrence Download https://doi.org/10.15468/dl.4gbcs6"
    )
    assert download_citation({"doi": None}) is None


def test_a_picture_is_credited_to_the_first_that_is_known() -> None:
    media = pl.DataFrame(
        {
            "creator": ["Ann", " ", None, None],
            "rights_holder": ["Bo", "Bo", None, None],
            "publisher": ["P", "P", "P", None],
            "license": ["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "unknown"],
            "url": ["http://a/1", "http://a/2", "http://a/3", "http://a/4"],
        }
    )
    assert attribution(media)["credit"].to_list() == [
        "Ann, CC0-1.0, http://a/1",
        "Bo, CC-BY-4.0, http://a/2",
        "P, CC-BY-NC-4.0, http://a/3",
        "unknown author, licence unknown, http://a/4",
    ]


def test_the_derived_dataset_counts_the_final_records() -> None:
    counts = pl.DataFrame({"dataset_key": ["d1", "d2"], "records": [3, 1]})
    body = derived_dataset(counts, title="t", description="d", source_url="https://z.org", doi="10.15468/dl.abc123")
    assert body == {
        "title": "t",
        "description": "d",
        "sourceUrl": "https://z.org",
        "relatedDatasets": {"d1": 3, "d2": 1},
        "originalDownloadDOI": "10.15468/dl.abc123",
    }


def test_the_derived_dataset_is_cited_in_gbifs_words(shared: Path) -> None:
    said = json.loads((shared / "api/dev/derived_dataset/rgbif__derived_dataset_1__000__201.json").read_text())
    answer = said["response"]["body"]
    assert derived_citation(answer["doi"], date(2025, 9, 4)) == answer["citation"]


def test_the_citation_of_a_download_is_gbifs_own(shared: Path) -> None:
    said = json.loads((shared / "api/dev/download_lifecycle/pygbif__download_citation__000__200.json").read_text())
    metadata = {"doi": "10.15468/DL.29wbtx", "created": "2023-01-02T09:00:00.000+00:00"}
    assert download_citation(metadata) == said["response"]["body"].strip()


def test_gbifs_list_of_datasets_becomes_rows_also_where_it_says_little(shared: Path) -> None:
    said = json.loads((shared / "api/dev/download_lifecycle/rgbif__occ_download_datasets__000__200.json").read_text())
    rows = dataset_rows(said["response"]["body"]["results"])
    assert rows.columns == ["dataset_key", "dataset_doi", "title", "citation", "records"]
    assert rows.row(0) == ("865df020-f762-11e1-a439-00145eb45e9a", None, None, None, 5721)
    assert dataset_rows([]).schema == rows.schema


def test_each_dataset_is_cited_with_what_is_known() -> None:
    known = [
        {"datasetKey": "k1", "datasetTitle": "T", "datasetDOI": "10.15468/a", "datasetCitation": "Ann (2020).\n T."},
        {"datasetKey": "k2", "datasetTitle": "T", "datasetDOI": "10.15468/a"},
        {"datasetKey": "k3", "datasetTitle": "T"},
        {"datasetKey": "k4"},
    ]
    assert dataset_citations(dataset_rows(known)) == [
        "Ann (2020). T.",
        "T https://doi.org/10.15468/a",
        "T https://www.gbif.org/dataset/k3",
        "https://www.gbif.org/dataset/k4",
    ]


SPDX = ["CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-NC-4.0", "CC-BY-SA-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"]


def licences(**pictures: int) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for name, count in pictures.items():
        spdx = name.replace("_", "-")
        licence = from_spdx(spdx) if spdx != "unknown" else None
        flags = {flag: bool(getattr(licence, flag, False)) for flag in RESTRICTIONS}
        rows.append({"license": spdx, "pictures": count, **flags})
    schema = {"license": pl.String, "pictures": pl.Int64, **dict.fromkeys(RESTRICTIONS, pl.Boolean)}
    return pl.DataFrame(rows, schema=schema)


@pytest.mark.parametrize(
    ("pictures", "whole"),
    [
        ({}, ""),
        ({"CC0-1.0": 9}, "CC0-1.0"),
        ({"CC0-1.0": 9, "CC-BY-4.0": 1}, "CC-BY-4.0"),
        ({"CC-BY-3.0": 9, "CC-BY-4.0": 1}, "CC-BY-3.0"),
        ({"CC-BY-NC-4.0": 1, "CC-BY-4.0": 90}, "CC-BY-NC-4.0"),
        ({"CC-BY-NC-4.0": 1, "CC-BY-SA-4.0": 1, "CC-BY-4.0": 1}, "CC-BY-NC-4.0 and CC-BY-SA-4.0"),
        ({"CC-BY-NC-4.0": 1, "CC-BY-SA-4.0": 1, "CC-BY-NC-SA-4.0": 1}, "CC-BY-NC-SA-4.0"),
        ({"CC0-1.0": 999, "unknown": 1}, "unknown"),
    ],
)
def test_the_licence_of_the_whole_is_the_most_restrictive_one(pictures: dict[str, int], whole: str) -> None:
    assert licence_of_the_whole(licences(**pictures)) == whole


@given(st.dictionaries(st.sampled_from(SPDX), st.integers(1, 5), min_size=1))
def test_the_whole_is_never_more_permissive_than_any_of_its_parts(pictures: dict[str, int]) -> None:
    named = [from_spdx(spdx) for spdx in licence_of_the_whole(licences(**pictures)).split(" and ")]
    for spdx in pictures:
        part = from_spdx(spdx)
        asked = {flag for flag in RESTRICTIONS if getattr(part, flag)}
        assert any(asked <= {flag for flag in RESTRICTIONS if getattr(one, flag)} for one in named)
