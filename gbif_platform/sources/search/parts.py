"""A part of a search: a query, and fields that have to be empty; asked by address, or by predicate where it has to be.

Source: https://techdocs.gbif.org/en/openapi/v1/occurrence, `GET /occurrence/search` and `POST …/search/predicate`.
"""

import re
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from gbif_platform.gbif.checklists import check_taxon_keys
from gbif_platform.gbif.client import GbifClient, Json
from gbif_platform.gbif.errors import BadRequest
from gbif_platform.gbif.predicates import from_query
from gbif_platform.gbif.search_fields import predicate_key

LONGEST_ADDRESS = 4000
"""Characters of a query that are sent in an address; servers commonly refuse above 8 KB of headers."""


@dataclass(frozen=True)
class Part:
    """Occurrences of one query.

    Attributes:
        query: as `as_query` gives it, without checklistKey.
        count: how many there are, as GBIF said when it was planned.
        checklist_key: taxonomy of the taxon keys, None = GBIF's default.
        empty: fields that have no value.
    """

    query: Json
    count: int
    checklist_key: str | None = None
    empty: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Json) -> "Part":
        """A part that was written as JSON."""
        return cls(**content | {"empty": tuple(content["empty"])})

    def narrowed(self, field: str, values: list[str], count: int) -> "Part":
        """Those with one of these values."""
        return replace(self, query=self.query | {field: values}, count=count)

    def without(self, field: str, count: int) -> "Part":
        """Those without a value; nothing else is asked of the field, because nothing was."""
        return replace(self, empty=(*self.empty, field), count=count)

    @property
    def fixed(self) -> set[str]:
        """Fields that cannot divide the part, because at most one value is left."""
        lists = {name: value if isinstance(value, list) else [value] for name, value in self.query.items()}
        single = {name for name, values in lists.items() if len(values) == 1 and not re.search(r",|^\*$", values[0])}
        return single | set(self.empty)

    @property
    def by_predicate(self) -> bool:
        """Whether an address cannot say it."""
        return bool(self.empty) or len(urlencode(self.query, doseq=True)) > LONGEST_ADDRESS

    async def page(self, gbif: GbifClient, limit: int, offset: int = 0) -> Json:
        """One page of records; `count` of all is in it."""
        if self.by_predicate:
            return await gbif.search_predicate(self.predicate(), limit=limit, offset=offset)
        return await gbif.search(self.query, checklist_key=self.checklist_key, limit=limit, offset=offset)

    async def counted(self, gbif: GbifClient) -> int:
        """How many there are now."""
        return int((await self.page(gbif, 0))["count"])

    async def facet(self, gbif: GbifClient, field: str) -> dict[str, int]:
        """How many have which value of a field."""
        if self.by_predicate:
            return await gbif.facet_predicate(self.predicate(), field, checklist_key=self.checklist_key)
        return await gbif.facet(self.query, field, checklist_key=self.checklist_key)

    def predicate(self) -> Json:
        """The part in GBIF's predicate language.

        Raises:
            BadRequest: it holds `q`, for which there is no predicate.
            WrongChecklist: a taxon key cannot be of the checklist.
        """
        if "q" in self.query:
            raise BadRequest(
                "a search with q cannot be divided, and it holds too many records, or values, for one",
                "say it with other search fields",
            )
        check_taxon_keys(self.query, self.checklist_key)
        found = [from_query(self.query, self.checklist_key)] if self.query else []
        found += [{"type": "isNull", "parameter": predicate_key(name)} for name in self.empty]
        return found[0] if len(found) == 1 else {"type": "and", "predicates": found}
