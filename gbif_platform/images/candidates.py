"""Where a picture may be had: at a size that its host offers, at its URL, and last in GBIF's own cache."""

import logging
from typing import NamedTuple

from gbif_platform.images.plan import Wanted
from gbif_platform.images.renditions import cache_url, renditions
from gbif_platform.images.transform import Picture, Transform

logger = logging.getLogger(__name__)

GBIF_CACHE = "gbif_cache"


class Candidate(NamedTuple):
    """One address of a picture.

    Attributes:
        rendition: what is stored if it is taken: a rendition's name, `gbif_cache`, or None = the URL itself.
        longest: pixels that the longer side of a rendition has at most; None = unknown.
    """

    url: str
    rendition: str | None = None
    longest: int | None = None


def candidates(wanted: Wanted, transform: Transform) -> list[Candidate]:
    """A host's renditions, the smallest sufficient one first, then the URL itself.

    Whether a picture has changed is asked where the stored one came from, and nowhere else.
    """
    if wanted.etag or wanted.last_modified:
        return [Candidate(wanted.rendition_url or wanted.url, wanted.rendition)]
    return [*_offered(wanted.url, transform), Candidate(wanted.url)]


def _offered(url: str, transform: Transform) -> list[Candidate]:
    try:
        return [Candidate(there, name, longest) for name, there, longest in renditions(url, transform)]
    except Exception:  # a URL that no rule foresaw must not end a run
        logger.exception("no rendition can be told of %s", url[:300])
        return []


def cached(wanted: Wanted, base: str | None) -> Candidate | None:
    """GBIF's copy of a picture, where it may have one."""
    if base is None or wanted.gbif_id is None or wanted.etag or wanted.last_modified:
        return None
    return Candidate(cache_url(base, wanted.gbif_id, wanted.url), GBIF_CACHE)


def too_small(candidate: Candidate, picture: Picture, transform: Transform) -> bool:
    """Whether a rendition is below the target, and not because the original is so small."""
    if candidate.rendition in (None, GBIF_CACHE) or transform.size is None:
        return False
    sides = picture.source_width, picture.source_height
    measured = min(sides) if transform.resize in ("keep_ratio", "center_crop") else max(sides)
    scaled_down = candidate.longest is None or max(sides) >= candidate.longest - 1
    return measured < transform.size and scaled_down
