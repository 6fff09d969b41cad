"""The same picture in the size that is needed, where its host offers sizes: less to send, less to decode.

The rules are data: `renditions.yaml` beside this file.
"""

import hashlib
import re
from functools import lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gbif_platform.images.transform import Transform

# Where the target measures the shorter side: most cameras' pictures are 4:3 or 3:2.
USUAL_ASPECT = 1.5
# A size that is missing costs a request; after two the original is the kinder choice.
OFFERED = 2


class Rendition(NamedTuple):
    """A picture at one of its host's sizes.

    Attributes:
        name: `rule/size`, such as `inaturalist/medium`; for the ledger.
        url: where it is.
        longest: pixels that its longer side has at most; None = unknown.
    """

    name: str
    url: str
    longest: int | None


class Size(BaseModel):
    """One of the sizes that a host offers.

    Attributes:
        name: in the ledger.
        pixels: as the rule measures.
        token: how a URL spells it; by default the name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    pixels: int = Field(ge=1)
    token: str | None = None

    @property
    def spelt(self) -> str:
        """Its spelling in a URL."""
        return self.name if self.token is None else self.token


class Rule(BaseModel):
    """The sizes of one host.

    Attributes:
        host: pattern of the whole host name, in any case.
        path: pattern of all that follows it. A group `size` (a token) or `pixels` (a number) says which size a URL is
            of already: only smaller ones are offered then.
        url: where a size is; `{scheme}`, `{host}`, `{token}`, `{pixels}` and the groups of `path` are filled in.
        measures: what `pixels` are of; `width` and `about` leave the longer side unknown.
        sizes: from small to large.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    host: str
    path: str
    url: str
    measures: Literal["longest", "width", "about"] = "longest"
    sizes: tuple[Size, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _well_formed(self) -> "Rule":
        known = {"scheme", "host", "token", "pixels", *self.pattern.groupindex}
        self.url.format_map(dict.fromkeys(known, ""))
        if list(self.sizes) != sorted(self.sizes, key=lambda size: size.pixels):
            raise ValueError("sizes are listed from small to large")
        return self

    @property
    def pattern(self) -> re.Pattern[str]:
        """Of a whole URL; `re` keeps it compiled."""
        return re.compile(rf"(?P<scheme>(?i:https?))://(?P<host>(?i:{self.host}))(?:{self.path})")

    def offers(self, url: str) -> list[tuple[Size, str]]:
        """What there is of this picture below the size of `url`, from small to large."""
        match = self.pattern.fullmatch(url)
        if match is None:
            return []
        groups = {name: value or "" for name, value in match.groupdict().items()}
        limit = self._pixels_of(match)
        return [
            (size, self.url.format_map(groups | {"token": size.spelt, "pixels": str(size.pixels)}))
            for size in self.sizes
            if limit is None or size.pixels < limit
        ]

    def _pixels_of(self, match: re.Match[str]) -> int | None:
        groups = match.groupdict()
        if number := groups.get("pixels"):
            return int(number)
        return next((size.pixels for size in self.sizes if size.spelt == groups.get("size")), None)


@lru_cache(maxsize=1)
def load_rules() -> tuple[Rule, ...]:
    """The rules of `renditions.yaml`, read once."""
    text = (files("gbif_platform.images") / "renditions.yaml").read_text(encoding="utf-8")
    return tuple(Rule.model_validate(rule) for rule in yaml.safe_load(text))


def renditions(url: str, transform: Transform) -> list[Rendition]:
    """The smallest rendition that is probably large enough for the transform, then the next larger one.

    Never the URL itself, never one larger than it; [] where no rule fits or where the original is wanted.
    """
    if transform.resize == "no" or transform.size is None or transform.keep_original or not transform.renditions:
        return []
    shorter = transform.resize in ("keep_ratio", "center_crop")
    # A width is at most the longer side, and for pictures on their side equal to it: both are asked for alike.
    needed = transform.size * (USUAL_ASPECT if shorter else 1)
    for rule in load_rules():
        offers = rule.offers(url)
        if offers:
            return [
                Rendition(f"{rule.name}/{size.name}", there, size.pixels if rule.measures == "longest" else None)
                for size, there in offers
                if size.pixels >= needed and there != url
            ][:OFFERED]
    return []


def cache_url(base: str, gbif_id: str, url: str) -> str:
    """GBIF's own copy of a picture, at most 1200 px (https://techdocs.gbif.org/en/openapi/images; one connection only).

    Args:
        base: `https://api.gbif.org/v1/image/cache`.
        gbif_id: of the occurrence.
        url: the medium's identifier, letter for letter as GBIF has it.
    """
    digest = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
    return f"{base.rstrip('/')}/occurrence/{gbif_id}/media/{digest}"
