"""What a fetching run is asked for."""

from typing import NamedTuple


class Wanted(NamedTuple):
    """One picture to fetch.

    Attributes:
        url_id: key of the ledger; names the picture in its shard.
        url: http or https.
        etag, last_modified: of the stored picture, as its host gave them: ask only whether it has changed.
        gbif_id: the occurrence, for GBIF's image cache; None where the picture is not GBIF's.
        rendition, rendition_url: which rendition is stored and where it is, if one is; there it is asked for changes.
    """

    url_id: str
    url: str
    etag: str | None = None
    last_modified: str | None = None
    gbif_id: str | None = None
    rendition: str | None = None
    rendition_url: str | None = None
