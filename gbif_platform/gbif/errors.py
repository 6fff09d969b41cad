"""What can go wrong between us and GBIF; each error carries GBIF's own words."""

from gbif_platform.errors import PlatformError


class GbifError(PlatformError):
    """GBIF did not do what was asked."""


class BadRequest(GbifError):
    """GBIF refuses the request as it stands (HTTP 400, 413 and their like)."""


class NotAuthorised(GbifError):
    """User name or password are wrong or missing, or the thing belongs to somebody else (HTTP 401, 403)."""


class NotFound(GbifError):
    """GBIF has no such thing (HTTP 404, 410)."""


class TooManyDownloads(GbifError):
    """GBIF prepares as many downloads for this user as it allows (HTTP 420, or 429 to a request)."""


class Unreachable(GbifError):
    """GBIF does not answer, or not in a way that can be understood."""


class WrongChecklist(GbifError):
    """A taxon key of one checklist is used with another one, where it would match nothing, in silence."""


class UnknownField(GbifError):
    """GBIF's search has no such field; GBIF itself would ignore it and return everything."""
