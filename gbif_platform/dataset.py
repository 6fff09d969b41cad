"""The dataset file: one YAML that names a source, a label, and how to sample, fetch, split and train."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from gbif_platform.curation.spec import NAME, Filters, Sampling, Split, Taxonomy, Value
from gbif_platform.errors import PlatformError
from gbif_platform.gbif_dl import translated
from gbif_platform.images.transform import Transform
from gbif_platform.part import Part
from gbif_platform.training.config import ModelSpec

COMPONENT = "gbif_platform.components.ImageDataset"
CHECK = "correct it; gbif-platform dataset check tries the file again"
CRON_BOUNDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


class DatasetFileError(PlatformError):
    """A dataset file is missing or wrong; the message has file, line and what was expected."""


class Selection(Part):
    """Which occurrences of GBIF: search fields, names, or both."""

    query: dict[str, Value | list[Value]] = Field(
        {}, description="GBIF's search fields; a list means any of them, 'a,b' a range: {country: [DK, SE]}"
    )
    names: list[str] = Field([], description="scientific names; those that GBIF matches exactly are taken")
    checklist: str | None = Field(
        None, description="file of names, one a line, or CSV with a column scientificName; relative to the dataset file"
    )
    checklist_key: str | None = Field(
        None, description="taxonomy of names and keys: backbone, col-xr or a checklist's UUID; empty = GBIF's default"
    )

    @property
    def selects(self) -> bool:
        """Whether anything is said."""
        return bool(self.query or self.names or self.checklist)


class Watch(Part):
    """Where new downloads come from; the dataset's sensor looks there."""

    user: str | None = Field(None, description="GBIF user whose own downloads are taken, $GBIF_USER's password needed")
    since: date | None = Field(None, description="the user's older downloads are left alone; empty = all before today")
    dois: list[str] = Field([], description="downloads to take as soon as they are finished")


class GbifDownload(Selection):
    """A GBIF download in Darwin Core Archive format: one that exists, or a request that the platform makes."""

    doi: str | None = Field(None, description="DOI, DOI URL, portal URL or download key, e.g. 10.15468/dl.xxxxxx")
    predicate: dict[str, Any] | None = Field(None, description="GBIF's download predicate, as JSON or YAML")
    verbatim_extensions: list[str] = Field([], description="row types of extensions wanted as published")
    watch: Watch | None = Field(None, description="take new downloads as they appear")
    endpoint: str | None = Field(None, description="GBIF endpoint; empty = the gbif_url setting")

    @model_validator(mode="after")
    def _one_way(self) -> "GbifDownload":
        ways = {"doi": self.doi, "predicate": self.predicate, "query, names or checklist": self.selects}
        if len(given := [way for way, value in ways.items() if value]) > 1:
            raise ValueError(f"give one of {' and '.join(given)}")
        return self

    @property
    def requests(self) -> bool:
        """Whether the platform makes the request itself."""
        return self.predicate is not None or self.selects


class GbifSearch(Selection):
    """GBIF's search, enumerated whole; for what is small. A download is for the rest."""

    max_calls: int = Field(500, ge=1, description="a search that needs more calls is refused: request a download then")
    endpoint: str | None = Field(None, description="GBIF endpoint; empty = the gbif_url setting")

    @model_validator(mode="after")
    def _not_everything(self) -> "GbifSearch":
        if not self.selects:
            raise ValueError("say what to search for: query, names or checklist")
        return self


class UrlList(Part):
    """Pictures by their URLs, each an occurrence of its own; no GBIF needed."""

    files: str = Field(
        description="txt (a URL a line), csv, tsv, parquet, json or jsonl, texts also as .gz; or a folder of them; "
        "relative to the dataset file"
    )
    url_column: str | None = Field(
        None, description="column of the URLs; empty = url, image_url, identifier, accessURI"
    )
    caption_column: str | None = Field(None, description="column of the captions, kept as the medium's description")
    label_column: str | None = Field(None, description="column of the term that `label` names; empty = so named itself")


class ImageFolder(Part):
    """Pictures on this machine; the folder that a picture lies in names its label."""

    path: str = Field(description="folder of pictures, searched to any depth; relative to the dataset file")
    table: str | None = Field(
        None,
        description="csv, tsv, parquet, json or jsonl that says more of the files, e.g. their labels, licences, dates; "
        "relative to the dataset file",
    )
    file_column: str | None = Field(
        None, description="the table's column of paths below the folder; empty = file, file_name, path or filename"
    )


class Source(Part):
    """Where occurrences and media come from; exactly one kind."""

    archive: str | None = Field(None, description="path of a Darwin Core Archive; relative to the dataset file")
    urls: UrlList | None = Field(None, description="lists of URLs")
    image_folder: ImageFolder | None = Field(None, description="pictures on this machine")
    gbif_download: GbifDownload | None = Field(None, description="a download at GBIF")
    gbif_search: GbifSearch | None = Field(None, description="GBIF's search, up to some 100 000 occurrences")
    verbatim: bool = Field(False, description="keep the records as their publishers wrote them too: table verbatim")

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        kinds = (self.archive, self.urls, self.image_folder, self.gbif_download, self.gbif_search)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("name exactly one source: archive, urls, image_folder, gbif_download or gbif_search")
        if (self.urls or self.image_folder) and self.verbatim:
            raise ValueError("verbatim is for archives; a list is kept as it was written anyway")
        return self

    @property
    def gbif(self) -> GbifDownload | GbifSearch | None:
        """The source at GBIF, where it is one."""
        return self.gbif_download or self.gbif_search


class Refresh(Part):
    """When to ask GBIF anew."""

    cron: str = Field(description="when, as cron says it: '0 4 1 * *' is the first of each month at four")
    timezone: str = Field("UTC", description="time zone of `cron`, e.g. Europe/Copenhagen")

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        """Five fields in their bounds: Dagster would refuse the whole code location for one that is not."""
        fields = cron.split()
        if len(fields) != len(CRON_BOUNDS):
            raise ValueError("cron has five fields: minute hour day month weekday, e.g. '0 4 1 * *'")
        for text, (name, low, high) in zip(fields, CRON_BOUNDS, strict=True):
            for part in text.split(","):
                found = re.fullmatch(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?", part)
                if not found or any(not low <= int(number) <= high for number in found.groups()[:2] if number):
                    raise ValueError(f"cron: {name} {part!r} is not a number from {low} to {high}, a range or *")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("no such time zone; e.g. UTC or Europe/Copenhagen") from error
        return timezone


class Dataset(Part):
    """One dataset: everything but `source` and `label` has a default."""

    name: Annotated[str, Field(pattern=NAME, description="lower case, digits and _")]
    source: Source
    label: str = Field(
        description="GBIF or Darwin Core term that is learnt, e.g. species, speciesKey, family; of a list of URLs any "
        "column, by itself `label`, which a list need not have"
    )
    description: str = Field("", description="for people; shown in the UI")
    owners: list[str] = Field([], description="e-mail addresses or team:name, shown in the UI")
    taxonomy: Taxonomy = Taxonomy()
    filters: Filters = Filters()
    sampling: Sampling = Sampling()
    images: Transform = Transform()
    split: Split = Split()
    models: dict[Annotated[str, Field(pattern=NAME)], ModelSpec] = Field({}, description="models by name")
    refresh: Refresh | None = Field(None, description="ask GBIF again on a schedule")

    @model_validator(mode="before")
    @classmethod
    def _from_gbif_dl(cls, attributes: Any) -> Any:
        return translated(attributes) if isinstance(attributes, Mapping) else attributes

    @model_validator(mode="before")
    @classmethod
    def _lists_need_no_label(cls, attributes: Any) -> Any:
        source = attributes.get("source") if isinstance(attributes, Mapping) else None
        listed = isinstance(source, Mapping) and ("urls" in source or "image_folder" in source)
        return {"label": "label", **attributes} if listed else attributes

    @field_validator("images", mode="before")
    @classmethod
    def _no_is_a_word(cls, images: Any) -> Any:
        """YAML reads `resize: no` as false."""
        return {**images, "resize": "no"} if isinstance(images, Mapping) and images.get("resize") is False else images

    @model_validator(mode="after")
    def _models_learn_from_train(self) -> "Dataset":
        for name, model in self.models.items():
            subset = model.train_on
            while subset in self.split.nested:
                subset = self.split.nested[subset].of
            if subset != "train":
                raise ValueError(f"models.{name}.train_on: {model.train_on!r} is neither train nor a nested part of it")
        return self

    @model_validator(mode="after")
    def _something_to_ask(self) -> "Dataset":
        download = self.source.gbif_download
        if self.refresh and not (self.source.gbif_search or (download and download.requests)):
            raise ValueError("refresh needs a question to ask GBIF again: source with query, names or predicate")
        return self


def _line_of(node: yaml.Node, path: tuple[str | int, ...]) -> int:
    """1-based line of the deepest part of `path` that exists under a YAML node; a key's line, where it is a key."""
    line = node.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Keys that the model at `path`'s parent knows; a step that is no key of a model is a name, e.g. a model's."""
    model: Any = Dataset
    for step in path[:-1]:
        if field := getattr(model, "model_fields", {}).get(str(step)):
            model = next(_models(field.annotation), None)
    return list(getattr(model, "model_fields", None) or getattr(model, "__dataclass_fields__", {}))


def _models(annotation: Any) -> Iterator[Any]:
    """The models within a type such as `dict[str, float | Nested]`."""
    if isinstance(annotation, type) and (hasattr(annotation, "model_fields") or is_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _expected(error: Any) -> str:
    """What was expected in place of what a validation error found."""
    path = error["loc"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(path)
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        return f"unknown key; did you mean {close[0]}?" if close else f"unknown key; known: {', '.join(known)}"
    if error["type"] == "missing":
        return "this key is needed"
    message = error["msg"].removeprefix("Value error, ").replace("\n", "; ")
    return f"{message} (found {error['input']!r})" if not isinstance(error["input"], dict) else message


def parse_dataset(text: str, file: Path) -> Dataset:
    """Read the text of a dataset file.

    Args:
        file: its path: for messages, for relative paths in it, and for the name where none is given.

    Raises:
        DatasetFileError: with `file:line: key: what was expected` for every mistake.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise DatasetFileError(f"{place}: not YAML: {getattr(error, 'problem', error)}", CHECK) from error
    if (
        node is None
        or not isinstance(content, dict)
        or content.get("type") != COMPONENT
        or not isinstance(content.get("attributes"), dict)
    ):
        raise DatasetFileError(f"{file}:1: a dataset file starts with 'type: {COMPONENT}' and 'attributes:'", CHECK)
    attributes = {"name": re.sub(r"\W", "_", file.stem.lower()), **content["attributes"]}
    try:
        dataset = Dataset.model_validate(attributes)
    except ValidationError as error:
        lines = [
            f"{file}:{_line_of(node, ('attributes', *place))}: {'.'.join(map(str, place))}: {_expected(mistake)}"
            for mistake in error.errors()
            for place in [[step for step in mistake["loc"] if not str(step).startswith("<")]]  # <tag> of a union
        ]
        raise DatasetFileError("\n".join(lines), CHECK) from error
    return at_home(dataset, file.parent)


def at_home(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with the paths in it made absolute, relative to the folder of its file."""

    def absolute(path: str) -> str:
        return str((folder / Path(path).expanduser()).resolve())

    source = dataset.source
    if source.archive:
        source = source.model_copy(update={"archive": absolute(source.archive)})
    if source.urls:
        moved_list = source.urls.model_copy(update={"files": absolute(source.urls.files)})
        source = source.model_copy(update={"urls": moved_list})
    if source.image_folder:
        paths = {name: value and absolute(value) for name, value in source.image_folder if name != "file_column"}
        source = source.model_copy(update={"image_folder": source.image_folder.model_copy(update=paths)})
    for kind in ("gbif_download", "gbif_search"):
        selection = getattr(source, kind)
        if selection and selection.checklist:
            moved = selection.model_copy(update={"checklist": absolute(selection.checklist)})
            source = source.model_copy(update={kind: moved})
    taxonomy = dataset.taxonomy
    if taxonomy.vernacular_names:
        taxonomy = taxonomy.model_copy(update={"vernacular_names": absolute(taxonomy.vernacular_names)})
    return dataset.model_copy(update={"source": source, "taxonomy": taxonomy})


def read_dataset(file: Path) -> Dataset:
    """Read one dataset file; raises DatasetFileError."""
    try:
        return parse_dataset(file.read_text(encoding="utf-8"), file)
    except OSError as error:
        raise DatasetFileError(
            f"cannot read {file}: {error.strerror}", "gbif-platform dataset list shows the files that there are"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetFileError(f"{file} is not UTF-8: {error.reason} at byte {error.start}", CHECK) from error


def dataset_files(folder: Path) -> dict[str, Path]:
    """Dataset files of a folder by dataset name (= the file's stem)."""
    return {file.stem: file for file in sorted(folder.glob("*.y*ml"))}


def named_datasets(folder: Path) -> dict[str, Dataset]:
    """All datasets of a folder by name.

    Raises:
        DatasetFileError: a file is wrong, or its `name:` is not the file's own.
    """
    return {name: read_named(name, file) for name, file in dataset_files(folder).items()}


def read_named(name: str, file: Path) -> Dataset:
    """Read the file of the dataset of that name.

    Raises:
        DatasetFileError: the file is wrong, or its `name:` is another one.
    """
    dataset = read_dataset(file)
    if dataset.name != name:
        raise DatasetFileError(f"{file}: name: {dataset.name!r} differs from the file's name {name!r}", CHECK)
    return dataset
