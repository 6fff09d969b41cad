"""What a dataset file says about curation: filters, taxonomy, sampling and split."""

from collections.abc import Callable
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator

from gbif_platform.curation import vocabulary
from gbif_platform.curation.dates import EXAMPLES, read_range
from gbif_platform.gbif.licences import LicencePolicyError, check_policy
from gbif_platform.part import Part

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
Value = str | int | float | bool
Choice = Literal["keep", "leave_out"]
MOST = 10**12
"""Of any number of media: beyond what there is, and sums stay exact."""
Quota = Annotated[int, Field(ge=1, le=MOST)]
Floor = Annotated[int, Field(ge=0, le=MOST)]
DuplicatePolicy = Literal["keep_if_labels_agree", "keep_first", "drop_all", "keep_all"]

KEYS = ("occurrence", "observer_day", "event", "url", "duplicate", "pixels", "near_duplicate")
"""Group keys that are no terms: what each is, `curation/groups.py` says."""


def _checked(check: Callable[[str], None]) -> AfterValidator:
    """A validator that leaves a text as it is where `check` raises nothing."""

    def validate(text: str) -> str:
        check(text)
        return text

    return AfterValidator(validate)


BasisOfRecord = Annotated[str, _checked(vocabulary.check_basis_of_record)]
Issue = Annotated[str, _checked(vocabulary.check_issue)]
Country = Annotated[str, _checked(vocabulary.check_country)]
DatasetKey = Annotated[str, _checked(vocabulary.check_dataset_key)]


class Filters(Part):
    """Which media may enter the sample."""

    media_type: Literal["StillImage"] = Field("StillImage", description="kind of media")
    licences: Literal["open", "non-commercial", "any"] | list[str] = Field(
        "open", description="open, non-commercial, any, or a list of SPDX ids"
    )
    licence_fallback: Literal["none", "occurrence"] = Field(
        "none", description="what a medium without any licence text is under: unknown, or its occurrence's licence"
    )
    basis_of_record: list[BasisOfRecord] | None = Field(None, description="kinds of record allowed; empty = all")
    absence: Choice = Field("leave_out", description="records that a taxon was not there: occurrenceStatus ABSENT")
    captive: Choice = Field("keep", description="in captivity or cultivation: living specimens, managed establishment")
    fossil: Choice = Field("keep", description="basisOfRecord FOSSIL_SPECIMEN")
    coordinates: Literal["any", "required", "sound"] = Field(
        "any", description="sound = there, not 0/0, and without geospatial issues at GBIF"
    )
    zero_coordinates: Choice = Field("keep", description="latitude and longitude both 0")
    max_coordinate_uncertainty: float | None = Field(
        None, gt=0, description="metres; what states more, or nothing, is left out"
    )
    exclude_issue: list[Issue] = Field([], description="GBIF issues that rule a record out, e.g. TAXON_MATCH_FUZZY")
    event_date: str | None = Field(
        None, description="GBIF's range: '2010,2020', '2015-06-01,*'; the record's whole date must lie in it"
    )
    country: list[Country] | None = Field(None, description="ISO codes allowed, e.g. [DK, 'NO']")
    exclude_country: list[Country] = Field([], description="ISO codes ruled out")
    life_stage: list[str] | None = Field(None, description="life stages allowed, e.g. [Adult]")
    exclude_life_stage: list[str] = Field([], description="life stages ruled out")
    dataset_key: list[DatasetKey] | None = Field(None, description="GBIF datasets allowed")
    exclude_dataset_key: list[DatasetKey] = Field([], description="GBIF datasets ruled out")
    duplicates: DuplicatePolicy = Field(
        "keep_if_labels_agree",
        description="one URL under several occurrences: one of them, or none where their labels differ; or …",
    )
    duplicate_images: DuplicatePolicy = Field(
        "keep_all", description="the same or nearly the same picture at several URLs, once they have arrived"
    )
    near_duplicate_bits: int = Field(
        4, ge=0, le=8, description="of 64 bits of the perceptual hash, how many may differ in near duplicates"
    )
    min_side: int = Field(0, ge=0, description="smallest side of the original picture, pixels")

    @field_validator("country", "exclude_country", mode="before")
    @classmethod
    def _no_is_norway(cls, codes: Any) -> Any:
        if isinstance(codes, list) and any(isinstance(code, bool) for code in codes):
            raise ValueError("YAML reads NO as false; quote it: 'NO'")
        return codes

    @field_validator("licences")
    @classmethod
    def _is_policy(cls, licences: str | list[str]) -> str | list[str]:
        try:
            check_policy(licences)
        except LicencePolicyError as error:
            raise ValueError(f"{error.cause}; {error.next_step}") from error
        return licences

    @field_validator("event_date")
    @classmethod
    def _is_range(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                read_range(text)
            except ValueError as error:
                raise ValueError(f"{error}; {EXAMPLES}") from error
        return text

    @property
    def doubts(self) -> list[str]:
        """Words that GBIF did not have when this was written, each in a sentence that names its key."""
        issues = [word for word in self.exclude_issue if vocabulary.issue(word) not in vocabulary.ISSUES]
        bases = [
            word
            for word in self.basis_of_record or []
            if vocabulary.basis_of_record(word) not in vocabulary.BASES_OF_RECORD
        ]
        return [
            *(f"filters.exclude_issue: {word!r} is no issue of GBIF that is known here" for word in issues),
            *(f"filters.basis_of_record: {word!r} is no basis of record that is known here" for word in bases),
        ]


class Taxonomy(Part):
    """What becomes of names that are no plain accepted species when they are labels."""

    synonyms: Literal["accepted", "as_identified", "leave_out"] = Field(
        "accepted", description="the accepted taxon's name, the name that the record has, or no such record"
    )
    subspecies: Literal["roll_up", "keep", "leave_out"] = Field(
        "roll_up", description="subspecies, varieties and forms: their species, a label of their own, or none"
    )
    hybrids: Choice = Field("keep", description="hybrids, by the hybrid sign or 'x' in the name")
    vernacular_names: str | None = Field(
        None, description="CSV with scientificName, vernacularName for captions; relative to the dataset file"
    )


class Sampling(Part):
    """How many media of each label, or of each stratum of it."""

    policy: Literal["all", "balanced", "natural", "sqrt", "temperature"] = Field(
        "all",
        description="all = everything, also what has no label; balanced = equally many; natural, sqrt, temperature = "
        "`total` in proportion to n, its root, or n^(1/temperature)",
    )
    temperature: float | None = Field(None, gt=0, description="for policy temperature: 1 = natural, 2 = sqrt")
    split_streams_by: list[str] = Field(
        [], description="terms whose product makes the strata, e.g. [species, datasetKey]; empty = the label"
    )
    total: Quota | None = Field(None, description="media in all, at most")
    per_label: Quota | None = Field(
        None, description="media a label, at most; balanced without any quota = as many as the smallest has"
    )
    per_stratum: Quota | None = Field(None, description="media a stratum, at most")
    min_per_label: Floor = Field(
        0, description="labels with fewer are left out and listed; the others get as many, as far as quotas allow"
    )
    min_per_stratum: Floor = Field(0, description="the same for strata")
    downsample: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {}, description="share of a label's media that is kept, e.g. {blank: 0.1}"
    )
    media_per_occurrence: Quota | None = Field(None, description="media of one occurrence, at most")
    prefer: list[Literal["licence", "resolution", "newest", "oldest"]] = Field(
        [], description="which media come first, before the draw: freer licence, larger rendition, date"
    )
    seed: int = Field(17, description="another seed draws another sample")

    @model_validator(mode="after")
    def _policy_has_what_it_needs(self) -> "Sampling":
        if self.policy == "all" and (quotas := self._given("total", "per_label", "per_stratum")):
            raise ValueError(f"{quotas[0]} needs policy: balanced")
        if self.policy in ("natural", "sqrt", "temperature") and self.total is None:
            raise ValueError(f"policy {self.policy} needs total: how many media in all")
        if (self.policy == "temperature") != (self.temperature is not None):
            raise ValueError("policy: temperature and the key temperature go together")
        if {"newest", "oldest"} <= set(self.prefer):
            raise ValueError("prefer: newest or oldest, not both")
        return self

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]


class Nested(Part):
    """A subset of a subset."""

    of: str = Field(description="the subset that it is part of")
    fraction: float = Field(gt=0, le=1, description="of its groups")


Share = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("<share>")] | Annotated[Nested, Tag("<nested>")],
    Discriminator(lambda value: "<nested>" if isinstance(value, dict | Nested) else "<share>"),
]
"""A share of all groups, or a part of another subset; the tags keep mistakes to the one that was meant."""


class Rare(Part):
    """Labels too rare to be learnt, kept as a benchmark of their own."""

    below: int = Field(ge=2, le=MOST, description="labels with fewer pictures")
    subset: Name = Field("rare", description="name of their subset")


Wanted = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Value], Field(min_length=1), Tag("<list>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<list>"),
]
"""A value or a range, or a list of them; an empty one would mean nothing."""
Terms = Annotated[dict[str, Wanted], Field(min_length=1)]


class Split(Part):
    """Which subset a picture belongs to; groups are never torn apart."""

    subsets: dict[Name, Share] = Field(
        {"train": 0.8, "validation": 0.1, "test": 0.1},
        description="shares that sum to 1; and nested ones: train_small: {of: train, fraction: 0.1}",
    )
    group_by: list[str] = Field(
        ["occurrence", "url", "duplicate", "near_duplicate"],
        min_length=1,
        description=f"media that share one of these stay together: {', '.join(KEYS)}, or any term, e.g. locationID",
    )
    holdout: dict[Name, Terms] = Field(
        {}, description="subsets by terms: {test: {year: [2024]}, abroad: {country: [SE]}, late: {eventDate: '2024,*'}}"
    )
    min_per_label: dict[Name, Quota] = Field(
        {}, description="pictures of each label that a subset has at least: {validation: 2, test: 2}"
    )
    rare: Rare | None = Field(None, description="hold out rare labels: {below: 20}")
    seed: int = Field(17, description="another seed assigns groups anew")

    @field_validator("group_by")
    @classmethod
    def _no_slips(cls, keys: list[str]) -> list[str]:
        """A key that is nearly one of KEYS would be looked for among the terms, long after."""
        for key in keys:
            close = get_close_matches(key, KEYS, 1, 0.85)
            if close and key not in KEYS:
                raise ValueError(f"{key!r} is no group key; did you mean {close[0]}?")
        return keys

    @property
    def shares(self) -> dict[str, float]:
        """The subsets that divide the groups among them, with their shares."""
        return {name: share for name, share in self.subsets.items() if not isinstance(share, Nested)}

    @property
    def nested(self) -> dict[str, Nested]:
        """The subsets of subsets."""
        return {name: part for name, part in self.subsets.items() if isinstance(part, Nested)}

    @property
    def outside_in(self) -> list[str]:
        """The nested subsets, each after the one that it is part of.

        Raises graphlib.CycleError where one is part of itself; no Split is so.
        """
        nested = self.nested
        order = TopologicalSorter({name: [part.of] for name, part in nested.items()}).static_order()
        return [name for name in order if name in nested]

    @property
    def names(self) -> list[str]:
        """Every subset that a picture can be in, one of them: no nested ones."""
        rare = [self.rare.subset] if self.rare else []
        return list(dict.fromkeys([*self.shares, *self.holdout, *rare]))

    @field_validator("subsets")
    @classmethod
    def _whole(cls, subsets: dict[str, float | Nested]) -> dict[str, float | Nested]:
        shares = {name: share for name, share in subsets.items() if not isinstance(share, Nested)}
        if "train" not in shares:
            raise ValueError("a subset called train is needed, with a share of its own")
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"the shares sum to {sum(shares.values()):g}, expected 1")
        return subsets

    @model_validator(mode="after")
    def _names_agree(self) -> "Split":
        known = {*self.names, *self.nested}
        for name, part in self.nested.items():
            if name in self.names:
                raise ValueError(f"{name}: a hold-out or the rare labels have this name already")
            if part.of not in known:
                others = ", ".join(sorted(known - {name}))
                raise ValueError(f"{name}: {part.of!r} is no subset; there are {others}")
        try:
            self.outside_in  # noqa: B018
        except CycleError as error:
            raise ValueError(f"{' of '.join(reversed(error.args[1]))}: a subset cannot be part of itself") from error
        for name in self.min_per_label:
            if name == "train" or name not in self.shares:
                raise ValueError(f"min_per_label: {name!r} is no subset with a share beside train")
        if "train" in self.holdout or (self.rare and self.rare.subset in self.shares):
            raise ValueError("neither a hold-out nor the rare labels go into a subset that is drawn, or into train")
        return self
