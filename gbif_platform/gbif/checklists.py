"""GBIF's two taxonomies. Their taxon keys are text, look different, and mean nothing without their checklistKey."""

import re
from collections.abc import Mapping
from typing import Any

from gbif_platform.gbif.errors import WrongChecklist

BACKBONE = "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"
"""GBIF Backbone Taxonomy: numeric keys, frozen; the API's default where no checklistKey is given."""
COL_XR = "7ddf754f-d193-4cc9-b351-99906754a03b"
"""Catalogue of Life eXtended Release: short alphanumeric keys; the web site's default since June 2026."""

NAMES = {"backbone": BACKBONE, "col-xr": COL_XR}
_RANKS = ("taxon", "acceptedTaxon", "kingdom", "phylum", "class", "order", "family", "genus", "subgenus", "species")
TAXON_FIELDS = frozenset(f"{rank}Key" for rank in _RANKS)


def checklist_key(name: str | None) -> str | None:
    """The key of `backbone`, `col-xr` or a checklist's own UUID; None stays None, GBIF's default.

    Raises:
        WrongChecklist: it is none of these.
    """
    if name is None:
        return None
    key = NAMES.get(name.lower(), name.lower())
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", key):
        raise WrongChecklist(f"{name!r} names no checklist", f"say {' or '.join(NAMES)}, or give a checklist's UUID")
    return key


def check_taxon_keys(query: Mapping[str, Any], checklist: str | None) -> None:
    """Refuse taxon keys that cannot be of the checklist: GBIF would match nothing, and say nothing.

    Args:
        query: values by search parameter, each one value or a list.
        checklist: a checklist's UUID; None = the backbone, GBIF's default.

    Raises:
        WrongChecklist
    """
    for name in TAXON_FIELDS.intersection(query):
        values = query[name] if isinstance(query[name], list) else [query[name]]
        for value in map(str, values):
            if checklist == COL_XR and value.isdigit():
                raise WrongChecklist(
                    f"{name} {value} is a key of the GBIF backbone, but the checklist is COL XR: nothing would match",
                    "give the COL XR key (gbif.org shows it), the name (names: […]), or checklist_key: backbone",
                )
            if checklist in (None, BACKBONE) and not value.isdigit():
                raise WrongChecklist(
                    f"{name} {value} is no key of the GBIF backbone, whose keys are numbers: nothing would match",
                    "add checklist_key: col-xr where it is a COL XR key, or give the name (names: […])",
                )
