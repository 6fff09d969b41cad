"""Which media come first in a label, before the draw: freer licence, larger rendition, date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gbif_platform.curation.filters import licence_counted, literal
from gbif_platform.curation.spec import Filters
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.licences import from_spdx

FREEDOM = (
    ("attribution",),
    ("attribution", "share_alike"),
    ("attribution", "no_derivatives"),
    ("attribution", "non_commercial"),
    ("attribution", "non_commercial", "share_alike"),
    ("attribution", "non_commercial", "no_derivatives"),
)
"""What a licence asks for, least first; before these come those that ask for nothing, after them unknown ones."""
UNKNOWN_LICENCE = len(FREEDOM) + 1

UNKNOWN_SIZE = 2
SIZES = (  # host, pattern of the URL, place: 0 the original … 5 a thumbnail; what no pattern knows is in the middle
    ("inaturalist", r"/original\.\w+", 0),
    ("inaturalist", r"/large\.\w+", 1),
    ("inaturalist", r"/medium\.\w+", 3),
    ("inaturalist", r"/small\.\w+", 4),
    ("inaturalist", r"/(square|thumb)\.\w+", 5),
    ("flickr.com/", r"_o\.\w+$", 0),
    ("flickr.com/", r"_([bhk]|[3-6]k)\.jpg$", 1),
    ("flickr.com/", r"_(z|c)\.jpg$|/\d+_[0-9a-f]+\.jpg$", 3),
    ("flickr.com/", r"_[mnw]\.jpg$", 4),
    ("flickr.com/", r"_[sqt]\.jpg$", 5),
    ("upload.wikimedia.org/", r"/thumb/.*/(\w+-)*\d{4,}px-", 1),
    ("upload.wikimedia.org/", r"/thumb/.*/(\w+-)*[3-9]\d\dpx-", 3),
    ("upload.wikimedia.org/", r"/thumb/", 5),
    ("upload.wikimedia.org/", r"/", 0),
)
"""How large a picture is by the words of its host, as far as curation/renditions.py knows the host."""

NO_YEAR = 10_000


@dataclass(frozen=True)
class Preference:
    """SQL of the place of a medium, 0 first: a part over `m` (media_urls) plus one over `o` (its occurrence)."""

    of_medium: str
    of_occurrence: str


def preference(
    columns: Mapping[str, str], prefer: Sequence[str], filters: Filters, licences: Sequence[str | None]
) -> Preference:
    """The place of a medium by `sampling.prefer`; what is named first counts most.

    Args:
        columns: DuckDB types of the occurrences' columns, by name.
        licences: the distinct values of `licence_counted(filters)`.

    Raises:
        PlatformError: a date is asked for, and the occurrences have neither year nor eventDate.
    """
    medium, occurrence, weight = ["0"], ["0"], 1
    for name in reversed(prefer):
        if name == "licence":
            medium.append(f"{weight} * {_licence(filters, licences)}")
            weight *= UNKNOWN_LICENCE + 1
        elif name == "resolution":
            medium.append(f"{weight} * {_size()}")
            weight *= 6
        else:
            occurrence.append(f"{weight} * {_age(columns, newest=name == 'newest')}")
            weight *= NO_YEAR + 1
    return Preference(" + ".join(medium), " + ".join(occurrence))


def freedom(spdx: str | None) -> int:
    """The place of a licence, 0 the freest: public domain, BY, BY-SA, BY-ND, BY-NC, …, unknown."""
    licence = from_spdx(spdx or "")
    if licence.unknown:
        return UNKNOWN_LICENCE
    asked = [
        name for name in ("attribution", "non_commercial", "share_alike", "no_derivatives") if getattr(licence, name)
    ]
    places = [place for place, terms in enumerate(FREEDOM, 1) if set(asked) == set(terms)]
    return places[0] if places else (0 if not asked else UNKNOWN_LICENCE)


def _licence(filters: Filters, licences: Sequence[str | None]) -> str:
    known = [f"WHEN {literal(spdx)} THEN {freedom(spdx)}" for spdx in licences if spdx]
    cases = " ".join(known) or "WHEN '' THEN 0"
    return f"CASE {licence_counted(filters, 'm')} {cases} ELSE {UNKNOWN_LICENCE} END"


def _size() -> str:
    cases = [
        f"WHEN contains(m.url, '{host}') AND regexp_matches(m.url, '{pattern}') THEN {place}"
        for host, pattern, place in SIZES
    ]
    return f"CASE {' '.join(cases)} ELSE {UNKNOWN_SIZE} END"


def _age(columns: Mapping[str, str], *, newest: bool) -> str:
    if not {"year", "event_date"} & set(columns):
        raise PlatformError(
            "sampling.prefer: newest and oldest need year or eventDate, which the occurrences do not have",
            "remove it from sampling.prefer",
        )
    years = []
    if "year" in columns:
        years.append('try_cast(o."year" AS INTEGER)')
    if "event_date" in columns:
        years.append('try_cast(left(o."event_date"::VARCHAR, 4) AS INTEGER)')
    year = f"coalesce({', '.join(years)})"
    place = f"9999 - {year}" if newest else year
    return f"CASE WHEN {year} BETWEEN 0 AND 9999 THEN {place} ELSE {NO_YEAR} END"
