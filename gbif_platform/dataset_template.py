"""A dataset file to start from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gbif_platform.dataset import COMPONENT, DatasetFileError, parse_dataset
from gbif_platform.gbif.terms import snake_case
from gbif_platform.sources.list_files import columns_of, files_of, has_rows, no_rows
from gbif_platform.sources.url_list import LABEL, common_column

TEMPLATE = """\
type: {component}
attributes:
  name: {name}
  source: {source}
  label: {label}                      # {labels}
  filters: {{licences: {licences}}}   # open, non-commercial, any, or a list of SPDX ids
  sampling: {sampling}   # policy: all takes everything
  images: {{size: 256}}
  split: {{subsets: {{train: 0.8, validation: 0.1, test: 0.1}}}}
"""
MODELS = """\
  models:
    # any timm backbone; this tiny one learns from scratch on a CPU, {backbone: resnet18, pretrained: true} is better
    baseline: {backbone: test_resnet, image_size: 96, epochs: 60, learning_rate: 0.004}
"""
BALANCED = "{policy: balanced, per_label: 500, min_per_label: 10}"


class ListStart(NamedTuple):
    """What a dataset file says of lists of URLs, or of a folder of pictures.

    Attributes:
        source: as one line of YAML.
        label: the term; `label` where the lists have no column of labels.
        licences: the filter.
        labelled: whether there is a column of labels.
    """

    source: str
    label: str
    licences: str
    labelled: bool


def source_text(
    archive: Path | None, doi: str | None, taxa: Sequence[str], countries: Sequence[str], search: bool
) -> str:
    """The source of a dataset file, as one line of YAML.

    Args:
        taxa, countries: scientific names and ISO codes of what GBIF is asked for.
        search: ask GBIF's search, else request a download.

    Raises:
        DatasetFileError: not exactly one source is given.
    """
    if sum(map(bool, (archive, doi, taxa))) != 1:
        raise DatasetFileError(
            "name one source", "--archive FILE, --doi DOI, --taxon NAME, --urls FILE, or --images FOLDER"
        )
    if not taxa and (countries or search):
        raise DatasetFileError("--country and --search go with --taxon", "add --taxon NAME")
    if archive:
        return f"{{archive: {str(archive.absolute())!r}}}"
    if doi:
        return f"{{gbif_download: {{doi: {doi!r}}}}}"
    # quoted: YAML reads NO, Norway, as "no"
    query = {"mediaType": "StillImage", **({"country": list(countries)} if countries else {})}
    return f"{{{'gbif_search' if search else 'gbif_download'}: {{names: {list(taxa)!r}, query: {query!r}}}}}"


def list_start(path: Path, url_column: str | None = None, label_column: str | None = None) -> ListStart:
    """What to say of lists of URLs: columns that are not named are found by common names.

    Raises:
        ListUnreadable: there is no list, or not a row in it.
        DatasetFileError: it has no such column, or none that is known to hold URLs.
    """
    files = files_of(path)
    if not any(map(has_rows, files)):
        raise no_rows(path)
    columns = list(dict.fromkeys(name for file in files for name in columns_of(file)))
    has = f"it has: {', '.join(columns) or 'none'}"
    for named in (url_column, label_column):
        if named and named not in columns:
            raise DatasetFileError(f"{path} has no column {named!r}; {has}", "name one of these")
    url = url_column or common_column(columns, "url")
    if url is None:
        raise DatasetFileError(f"no column of {path} is known to hold URLs; {has}", "add --url-column NAME")
    label = label_column or common_column(columns, "label")
    caption = common_column(columns, "caption")
    said = {"files": str(path.absolute()), "url_column": url, "caption_column": caption if caption != label else None}
    return ListStart(
        json.dumps({"urls": {key: value for key, value in said.items() if value}}, ensure_ascii=False),
        snake_case(label) if label else LABEL,
        "non-commercial" if common_column(columns, "license") else "any",
        label is not None,
    )


def folder_start(path: Path) -> ListStart:
    """What to say of a folder of pictures: the folder that a picture lies in is its label."""
    return ListStart(
        json.dumps({"image_folder": {"path": str(path.absolute())}}, ensure_ascii=False), LABEL, "any", True
    )


def new_dataset(
    file: Path, source: str, label: str, *, licences: str = "non-commercial", labelled: bool = True
) -> None:
    """Write a dataset file.

    Args:
        source: one line of YAML, from `source_text`, `list_start` or `folder_start`.
        labelled: whether there is anything to learn.

    Raises:
        DatasetFileError: the file exists, or the name is no name.
    """
    if file.exists():
        raise DatasetFileError(f"{file} exists", "edit it, or choose another name")
    text = TEMPLATE.format(
        component=COMPONENT,
        name=file.stem,
        source=source,
        label=label,
        labels="any GBIF or Darwin Core term: species, speciesKey, genus, family …"
        if labelled
        else "the list has none; name a column of it to learn from",
        licences=licences,
        sampling=BALANCED if labelled else "{policy: all}",
    )
    text += MODELS if labelled else ""
    parse_dataset(text, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
