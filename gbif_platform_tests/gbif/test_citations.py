"""Credit in GBIF's forms."""

import polars as pl

from gbif_platform.gbif.citations import attribution, derived_dataset, download_citation


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
