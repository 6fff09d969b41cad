"""Dataset files: a mistake is told with file, line and what was expected."""

from pathlib import Path

import pytest

from gbif_platform.dataset import Dataset, DatasetFileError, named_datasets, parse_dataset, read_dataset
from gbif_platform.dataset_template import new_dataset, source_text

FILE = Path("/data/frogs.yaml")
GOOD = """\
type: gbif_platform.components.ImageDataset
attributes:
  source: {archive: frogs.zip}
  label: species
"""


def mistake(text: str) -> str:
    with pytest.raises(DatasetFileError) as error:
        parse_dataset(text, FILE)
    return error.value.cause


def test_source_and_label_are_enough() -> None:
    dataset = parse_dataset(GOOD, FILE)
    assert dataset.name == "frogs"
    assert dataset.source.archive == "/data/frogs.zip"
    assert dataset.filters.licences == "open"
    assert dataset.split.subsets == {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_no_is_a_word_for_resizing_whatever_yaml_thinks_of_it(tmp_path: Path) -> None:
    file = tmp_path / "frogs.yaml"
    for written in ("no", "'no'"):
        file.write_text(GOOD + f"  images: {{resize: {written}}}\n")
        assert read_dataset(file).images.resize == "no"
    with pytest.raises(DatasetFileError, match=r"frogs\.yaml:5: images"):
        parse_dataset(GOOD + "  images: {resize: yes}\n", FILE)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("  lable: species\n", "/data/frogs.yaml:5: lable: unknown key; did you mean label?"),
        (
            "  sampling: {policy: balanced,\n    per_labell: 3}\n",
            "6: sampling.per_labell: unknown key; did you mean per_label?",
        ),
        (
            "  sampling: {policy: fair}\n",
            "5: sampling.policy: Input should be 'all', 'balanced', 'natural', 'sqrt' or 'temperature' (found 'fair')",
        ),
        ("  sampling: {per_label: 5}\n", "per_label needs policy: balanced"),
        ("  split:\n    subsets: {train: 0.5, test: 0.1}\n", "6: split.subsets: the shares sum to 0.6, expected 1"),
        ("  split: {subsets: {train: 0.5, test: half}}\n", "5: split.subsets.test"),
        (
            "  split: {subsets: {train: 1, part: {of: trian, fraction: 0.1}}}\n",
            "part: 'trian' is no subset; there are train",
        ),
        ("  split: {subsets: {train: 1, part: {of: train, share: 0.1}}}\n", "split.subsets.part"),
        ("  split: {min_per_label: {tset: 2}}\n", "'tset' is no subset with a share beside train"),
        ("  split: {rare: {below: 5, subset: test}}\n", "neither a hold-out nor the rare labels"),
        ("  models: {m: {train_on: validation}}\n", "'validation' is neither train nor a nested part of it"),
        ("  filters: {country: [NO]}\n", "quote it: 'NO'"),
        ('  filters:\n    event_date: "2020,2010"\n', "6: filters.event_date: '2020,2010' is no date range"),
        ("  filters: {licences: [CC-BY-5]}\n", "5: filters.licences: 'CC-BY-5' is no licence policy"),
        ("  filters:\n    country:\n    - DK\n    - UKK\n", "8: filters.country.1: 'UKK' is no country code"),
        (
            "  sampling: {policy: balanced, per_label: 100000000000000000000000}\n",
            "5: sampling.per_label: Input should be",
        ),
        ("  split: {subsets: {train: 1.0, a: {of: a, fraction: 0.1}}}\n", "a of a: a subset cannot be part of itself"),
        (
            "  split: {subsets: {train: 1.0, a: {of: b, fraction: 0.1}, b: {of: a, fraction: 0.1}}}\n",
            "a subset cannot be part of itself",
        ),
        ("  split: {holdout: {test: {}}}\n", "5: split.holdout.test: Dictionary should have at least 1 item"),
        ("  split: {holdout: {test: {year: []}}}\n", "5: split.holdout.test.year: List should have at least 1 item"),
        ("  split: {holdout: {test: {year: 2024}}}\n", "5: split.holdout.test.year: Input should be a valid list"),
        ("  sampling: {policy: sqrt}\n", "policy sqrt needs total"),
        ("  split: {subsets: {test: 1.0}}\n", "a subset called train is needed"),
        (
            "  split: {group_by: [occurence]}\n",
            "5: split.group_by: 'occurence' is no group key; did you mean occurrence?",
        ),
        ("  images: {size: -3}\n", "5: images"),
        ("  images: {sise: 3}\n", "5: images.sise"),
        ("  models:\n    a: {backbone: resnet18}\n    b: {epochs: none}\n", "7: models.b.epochs"),
        ("  models: {Big: {}}\n", "5: models.Big"),
        ("  name: Frösche\n", "5: name"),
        ("  filters: [open]\n", "5: filters"),
    ],
)
def test_mistakes_name_line_key_and_expectation(added: str, told: str) -> None:
    assert told in mistake(GOOD + added)


def test_a_missing_key_and_two_sources_are_told() -> None:
    assert "label: this key is needed" in mistake(GOOD.replace("  label: species\n", ""))
    both = GOOD.replace("{archive: frogs.zip}", "{archive: a.zip, gbif_download: {doi: 10.15468/dl.abc123}}")
    assert "3: source: name exactly one source" in mistake(both)


def test_every_mistake_is_told_at_once() -> None:
    assert len(mistake(GOOD + "  lable: x\n  nme: y\n").splitlines()) == 2


@pytest.mark.parametrize("text", ["", "a: [1", "type: x\n", "- 1\n", "type: gbif_platform.components.ImageDataset\n"])
def test_what_is_no_dataset_file_is_told(text: str) -> None:
    assert mistake(text).startswith("/data/frogs.yaml")


def test_a_new_file_is_sound_and_never_overwrites(tmp_path: Path) -> None:
    file = tmp_path / "moths.yaml"
    new_dataset(file, source_text(None, "10.15468/dl.abc123", (), (), False), "family")
    dataset = named_datasets(tmp_path)["moths"]
    assert (dataset.label, list(dataset.models)) == ("family", ["baseline"])
    with pytest.raises(DatasetFileError, match="exists"):
        new_dataset(file, source_text(None, "10.15468/dl.abc123", (), (), False), "family")
    with pytest.raises(DatasetFileError, match="one source"):
        source_text(None, None, (), (), False)


def test_a_name_that_differs_from_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("attributes:", "attributes:\n  name: b"))
    with pytest.raises(DatasetFileError, match="differs from the file's name"):
        named_datasets(tmp_path)


def test_equal_specs_have_equal_fingerprints_across_processes() -> None:
    one, two = parse_dataset(GOOD, FILE), parse_dataset(GOOD, FILE)
    assert repr(one) == repr(two)
    assert isinstance(one, Dataset)


def test_a_source_of_names_is_written_so_that_yaml_reads_it_back(tmp_path: Path) -> None:
    file = tmp_path / "frogs.yaml"
    new_dataset(file, source_text(None, None, ["Bufo bufo", "O'Neill's frog"], ["NO", "SE"], False), "species")
    source = read_dataset(file).source.gbif_download
    assert source is not None
    assert source.names == ["Bufo bufo", "O'Neill's frog"]
    assert source.query == {"mediaType": "StillImage", "country": ["NO", "SE"]}, "Norway is not false"
    searched = source_text(None, None, ["Bufo bufo"], [], True)
    assert parse_dataset(TEXT_OF.format(source=searched), file).source.gbif_search is not None
    with pytest.raises(DatasetFileError, match="--country"):
        source_text(tmp_path / "frogs.zip", None, (), ["NO"], False)


TEXT_OF = """\
type: gbif_platform.components.ImageDataset
attributes: {{source: {source}, label: species}}
"""


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ("source: {gbif_download: {doi: 10.15468/dl.x, query: {year: 2020}}}", "give one of doi and query"),
        ("source: {gbif_search: {}}", "say what to search for"),
        ("source: {archive: a.zip}, refresh: {cron: '0 4 1 * *'}", "refresh needs a question"),
        ("source: {archive: a.zip}, refresh: {cron: 'every day'}", "cron"),
        ("source: {gbif_search: {query: {year: 2020}}}, refresh: {cron: '0 4 * * *', timezone: Moon/Crater}", "time"),
    ],
)
def test_sources_that_make_no_sense_are_told(tmp_path: Path, attributes: str, says: str) -> None:
    text = f"type: gbif_platform.components.ImageDataset\nattributes: {{{attributes}, label: species}}\n"
    with pytest.raises(DatasetFileError) as error:
        parse_dataset(text, tmp_path / "frogs.yaml")
    assert says in error.value.cause
