"""gbif-dl's arguments, as they stand, in a dataset file: each means here what it means there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gbif_platform.dataset import Dataset
from gbif_platform.gbif_dl import ARGUMENTS, translated

QUERIES = {"speciesKey": [5352251, 3190653, 3189866], "datasetKey": ["7a3679ef", "50c9509d"]}
ARCHIVE = {"name": "plants", "source": {"archive": "plants.zip"}, "label": "speciesKey"}


def dataset(**attributes: Any) -> Dataset:
    given = ARCHIVE | attributes
    if "queries" in attributes and "source" not in attributes:
        given.pop("source")
    before = repr(given)
    result = Dataset.model_validate(translated(given))
    assert repr(given) == before
    return result


def sampling(**attributes: Any) -> dict[str, Any]:
    """What the sampling says beyond the defaults, but for gbif-dl's own default of one medium an occurrence."""
    said = dataset(**attributes).sampling.model_dump(exclude_defaults=True)
    assert said.pop("media_per_occurrence") == 1
    return said


def test_the_readmes_example_as_it_stands() -> None:
    plants = dataset(queries=QUERIES, label="speciesKey", nb_samples=-1, split_streams_by=["datasetKey", "speciesKey"])
    assert plants.source.gbif_search is not None
    assert plants.source.gbif_search.query == QUERIES | {"mediaType": "StillImage"}
    assert plants.sampling.model_dump(exclude_defaults=True) == {
        "policy": "balanced",
        "split_streams_by": ["datasetKey", "speciesKey"],
        "media_per_occurrence": 1,
    }
    assert plants.label == "speciesKey"


STREAMS = {"split_streams_by": ["speciesKey"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"split_streams_by": "datasetKey"}, {"split_streams_by": ["datasetKey"]}),
        ({"nb_samples": None, "verbose": True}, {}),
        ({"nb_samples": -1}, {"policy": "balanced"}),
        ({"nb_samples": 300} | STREAMS, {"policy": "balanced", "total": 300} | STREAMS),
        ({"nb_samples": 300}, {"policy": "natural", "total": 300}),
        ({"nb_samples": 300, "weighted_streams": True} | STREAMS, {"policy": "natural", "total": 300} | STREAMS),
        ({"nb_samples_per_stream": 60} | STREAMS, {"policy": "balanced", "per_stratum": 60} | STREAMS),
        (
            {"nb_samples": 1000, "nb_samples_per_stream": 800, "weighted_streams": True} | STREAMS,
            {"policy": "natural", "total": 1000, "per_stratum": 800} | STREAMS,
        ),
        ({"nb_samples": 1000, "nb_samples_per_stream": 800}, {"policy": "natural", "total": 800}),
        ({"nb_samples_per_stream": 800}, {"policy": "natural", "total": 800}),
        ({"weighted_streams": True} | STREAMS, STREAMS),
        ({"mediatype": "StillImage"}, {}),
        ({"license_info": False}, {}),
        ({"cache_requests": True}, {}),
        ({"verbose": True}, {}),
        ({"verbose": True, "sampling": {"seed": 3, "min_per_label": 4}}, {"seed": 3, "min_per_label": 4}),
    ],
)
def test_sampling(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sampling(**arguments) == expected


def test_one_medium_an_occurrence_is_the_default_of_gbif_dl_only_where_gbif_dl_is_spoken() -> None:
    assert dataset().sampling.media_per_occurrence is None
    assert dataset(nb_samples=-1).sampling.media_per_occurrence == 1
    assert dataset(one_media_per_occurrence=True).sampling.media_per_occurrence == 1
    assert dataset(one_media_per_occurrence=False).sampling.media_per_occurrence is None
    assert dataset(nb_samples=-1, sampling={"media_per_occurrence": 3}).sampling.media_per_occurrence == 3


def test_without_any_argument_nothing_changes() -> None:
    assert translated(ARCHIVE | {"sampling": 7}) == ARCHIVE | {"sampling": 7}


def test_queries_join_the_source_that_is_given() -> None:
    search = dataset(queries=QUERIES, source={"gbif_search": {"max_calls": 9}}).source.gbif_search
    assert search is not None
    assert (search.max_calls, search.query["speciesKey"]) == (9, QUERIES["speciesKey"])
    download = dataset(queries={"speciesKey": (1, 2)}, source={"gbif_download": {}}).source.gbif_download
    assert download is not None
    assert download.query == {"speciesKey": [1, 2], "mediaType": "StillImage"}


def held_out(subsets: dict[str, Any], **attributes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    split = dataset(queries=QUERIES, split_streams_by=["speciesKey"], subset_streams=subsets, **attributes).split
    return split.subsets, split.holdout


def test_subset_streams_hold_out() -> None:
    all_but_test = {"train": 0.9, "validation": 0.1}
    rest = {"test": {"speciesKey": [3190653, 3189866]}}
    assert held_out({"test": {"speciesKey": 3189866}}) == (all_but_test, {"test": {"speciesKey": [3189866]}})
    assert held_out({"train": {"speciesKey": [5352251]}, "test": {"speciesKey": "*"}}) == (all_but_test, rest)
    assert held_out({"test": {"speciesKey": [3190653, 3189866]}, "train": {"speciesKey": "*"}}) == (all_but_test, rest)
    both = {"validation": {"speciesKey": [3190653]}, "test": {"speciesKey": "*"}, "train": {"speciesKey": 5352251}}
    assert held_out(both)[0] == {"train": 1.0}
    assert held_out({"far": {"speciesKey": [3190653]}})[0] == {"train": 0.8, "validation": 0.1, "test": 0.1}
    own = {"subsets": {"train": 0.5, "test": 0.5}, "seed": 3}
    assert held_out({"far": {"speciesKey": [3190653]}}, split=own)[0] == own["subsets"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nb_samples": 5, "sampling": {"total": 5}}, r"nb_samples and sampling\.total say the same"),
        ({"nb_samples": -1, "sampling": {"policy": "sqrt"}}, r"nb_samples and sampling\.policy say the same"),
        (
            {"nb_samples_per_stream": 5, "split_streams_by": "year", "sampling": {"per_stratum": 5}},
            r"nb_samples_per_stream and sampling\.per_stratum",
        ),
        (
            {"split_streams_by": "year", "sampling": {"split_streams_by": ["month"]}},
            r"split_streams_by and sampling\.split_streams_by",
        ),
        (
            {"one_media_per_occurrence": False, "sampling": {"media_per_occurrence": 2}},
            r"one_media_per_occurrence and sampling\.media_per_occurrence",
        ),
        (
            {"queries": QUERIES, "source": {"gbif_search": {"query": {"a": 1}}}},
            r"queries and source\.gbif_search\.query",
        ),
        ({"queries": QUERIES, "source": {"archive": "a.zip"}}, "queries are a question to GBIF; source: archive"),
        ({"queries": [1]}, "queries: search fields"),
        ({"queries": QUERIES, "source": "a.zip"}, "source: keys and values are expected"),
        ({"nb_samples": 0}, "nb_samples: a number above 0 is expected, or -1, not 0"),
        ({"nb_samples": True}, "nb_samples: a number"),
        ({"nb_samples": "all"}, "nb_samples: a number"),
        ({"nb_samples_per_stream": -1}, "nb_samples_per_stream: a number above 0 is expected, not -1"),
        ({"nb_samples": -1, "nb_samples_per_stream": 3}, "nb_samples: -1 and nb_samples_per_stream contradict"),
        ({"nb_samples": -1, "weighted_streams": True}, "nb_samples: -1 and weighted_streams contradict"),
        ({"weighted_streams": 3}, "weighted_streams: true or false"),
        ({"mediatype": "Sound"}, "mediatype: only StillImage can be taken, not 'Sound'"),
        ({"split_streams_by": 3}, "split_streams_by: a field or a list of fields"),
        ({"split_streams_by": "taxonKey"}, "taxonKey is each record's own taxon"),
        ({"label": None, "nb_samples": 5}, "label: without one"),
        ({"nb_samples": 5, "sampling": [1]}, "sampling: keys and values are expected"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translated(ARCHIVE | arguments)


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        ("test", "subset_streams: keys and values"),
        ({"test": [1]}, r"subset_streams\.test: keys and values"),
        ({"test": {}}, r"subset_streams\.test: one field is expected"),
        ({"test": {"speciesKey": [5352251], "year": [2024]}}, "one field is expected"),
        ({"speciesKey": {"test": [5352251]}}, r"test is none of split_streams_by; .*subset: \{field: values"),
        ({"train": {"speciesKey": [5352251]}}, "speciesKey 3190653, 3189866 would be in no subset"),
        ({"a": {"speciesKey": "*"}, "b": {"speciesKey": "*"}}, r"'\*' stands 2 times for the 3 values"),
        ({"a": {"speciesKey": QUERIES["speciesKey"]}, "b": {"speciesKey": "*"}}, r"'\*' stands 1 times for the 0"),
    ],
)
def test_subsets_that_cannot_be_followed(subsets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        translated({"queries": QUERIES, "split_streams_by": "speciesKey", "subset_streams": subsets})


def test_unknown_names_are_left_to_the_model() -> None:
    assert translated({"nb_samples": 5, "nb_sample": 6})["nb_sample"] == 6


DEFAULTS = {
    "split_streams_by": None,
    "subset_streams": None,
    "nb_samples_per_stream": None,
    "nb_samples": None,
    "weighted_streams": False,
    "cache_requests": False,
    "mediatype": "StillImage",
    "license_info": True,
    "one_media_per_occurrence": True,
    "verbose": False,
}
"""Of `api.generate_urls` in gbif-dl 0.1.1."""


def test_a_whole_call_with_the_defaults_takes_one_medium_of_everything() -> None:
    assert set(ARGUMENTS) == {"queries", *DEFAULTS}
    assert sampling(queries=QUERIES, **DEFAULTS) == {}
    assert dataset(queries=QUERIES, **DEFAULTS).split == dataset().split


def test_the_two_files_of_the_guide_are_the_same_dataset() -> None:
    guide = Path(__file__).parents[1] / "docs" / "from-gbif-dl.md"
    files = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    before, after = ({"name": "plants"} | yaml.safe_load(file)["attributes"] for file in files)
    assert translated(after) == after
    assert Dataset.model_validate(translated(before)) == Dataset.model_validate(after)
