"""The dataset file: one YAML that names a source, a label, and how to sample, fetch, split and train."""

import difflib
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gbif_platform.errors import PlatformError
from gbif_platform.images.transform import Transform
from gbif_platform.training.config import ModelSpec

COMPONENT = "gbif_platform.components.ImageDataset"
CHECK = "correct it; gbif-platform dataset check tries the file again"
NAME = r"^[a-z][a-z0-9_]*$"
CRON_BOUNDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


class DatasetFileError(PlatformError):
    """A dataset file is missing or wrong; the message has file, line and what was expected."""


class Part(BaseModel):
    """A mapping in a dataset file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def stated(part: BaseModel) -> str:
    """What a part of a dataset file says beyond the defaults: a key added to the platform changes no version."""
    return part.model_dump_json(exclude_defaults=True)


Value = str | int | float | bool


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


class Source(Part):
    """Where occurrences and media come from; exactly one kind."""

    archive: str | None = Field(None, description="path of a Darwin Core Archive; relative to the dataset file")
    gbif_download: GbifDownload | None = Field(None, description="a download at GBIF")
    gbif_search: GbifSearch | None = Field(None, description="GBIF's search, up to some 100 000 occurrences")
    verbatim: bool = Field(False, description="keep the records as their publishers wrote them too: table verbatim")

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if sum(kind is not None for kind in (self.archive, self.gbif_download, self.gbif_search)) != 1:
            raise ValueError("name exactly one source: archive, gbif_download or gbif_search")
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


class Filters(Part):
    """Which media may enter the sample."""

    media_type: Literal["StillImage"] = Field("StillImage", description="kind of media")
    licences: Literal["open", "non-commercial", "any"] | list[str] = Field(
        "open", description="open, non-commercial, any, or a list of SPDX ids"
    )
    licence_fallback: Literal["none", "occurrence"] = Field(
        "none", description="what a medium without any licence text is under: unknown, or its occurrence's licence"
    )
    duplicates: Literal["keep_if_labels_agree", "keep_first", "drop_all", "keep_all"] = Field(
        "keep_if_labels_agree",
        description="one URL under several occurrences: one of them, or none where their labels differ; or …",
    )
    basis_of_record: list[str] | None = Field(None, description="kinds of record allowed; empty = all")
    min_side: int = Field(0, ge=0, description="smallest side of the original picture, pixels")


class Sampling(Part):
    """How many media of each label."""

    policy: Literal["all", "balanced"] = Field(
        "all", description="all = everything, also what has no label; balanced = equally many a label"
    )
    per_label: int | None = Field(None, ge=1, description="media a label; empty = as many as the smallest label has")
    min_per_label: int = Field(1, ge=1, description="labels with fewer media are left out, and listed")
    seed: int = Field(17, description="another seed draws another sample")

    @model_validator(mode="after")
    def _quota_needs_balance(self) -> "Sampling":
        if self.policy == "all" and self.per_label is not None:
            raise ValueError("per_label needs policy: balanced")
        return self


class Split(Part):
    """Which subset a picture belongs to; groups are never torn apart."""

    subsets: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {"train": 0.8, "validation": 0.1, "test": 0.1}, description="shares that sum to 1"
    )
    group_by: list[Literal["occurrence", "url", "duplicate"]] = Field(
        ["occurrence", "url", "duplicate"],
        min_length=1,
        description="media that share one of these stay together; duplicate = the same bytes",
    )
    seed: int = Field(17, description="another seed assigns groups anew")

    @field_validator("subsets")
    @classmethod
    def _whole(cls, subsets: dict[str, float]) -> dict[str, float]:
        if "train" not in subsets:
            raise ValueError("a subset called train is needed")
        if abs(sum(subsets.values()) - 1) > 1e-6:
            raise ValueError(f"the shares sum to {sum(subsets.values()):g}, expected 1")
        return subsets


class Dataset(Part):
    """One dataset: everything but `source` and `label` has a default."""

    name: Annotated[str, Field(pattern=NAME, description="lower case, digits and _")]
    source: Source
    label: str = Field(description="GBIF or Darwin Core term that is learnt, e.g. species, speciesKey, family")
    description: str = Field("", description="for people; shown in the UI")
    owners: list[str] = Field([], description="e-mail addresses or team:name, shown in the UI")
    filters: Filters = Filters()
    sampling: Sampling = Sampling()
    images: Transform = Transform()
    split: Split = Split()
    models: dict[Annotated[str, Field(pattern=NAME)], ModelSpec] = Field({}, description="models by name")
    refresh: Refresh | None = Field(None, description="ask GBIF again on a schedule")

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
    """Keys that the model at `path`'s parent knows."""
    model: Any = Dataset
    for step in path[:-1]:
        field = model.model_fields.get(str(step)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else ModelSpec
        model = next((part for part in getattr(model, "__args__", ()) if isinstance(part, type)), model)
    return list(getattr(model, "model_fields", {}))


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
            f"{file}:{_line_of(node, ('attributes', *mistake['loc']))}: "
            f"{'.'.join(map(str, mistake['loc']))}: {_expected(mistake)}"
            for mistake in error.errors()
        ]
        raise DatasetFileError("\n".join(lines), CHECK) from error
    return at_home(dataset, file.parent)


def at_home(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset with the paths in its source made absolute, relative to the folder of its file."""

    def absolute(path: str) -> str:
        return str((folder / Path(path).expanduser()).resolve())

    source = dataset.source
    if source.archive:
        source = source.model_copy(update={"archive": absolute(source.archive)})
    for kind in ("gbif_download", "gbif_search"):
        selection = getattr(source, kind)
        if selection and selection.checklist:
            moved = selection.model_copy(update={"checklist": absolute(selection.checklist)})
            source = source.model_copy(update={kind: moved})
    return dataset.model_copy(update={"source": source})


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
