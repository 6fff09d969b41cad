"""A picture that somebody wants to be gone: not read any more, never asked for again, deleted by the next compact."""

from collections.abc import Sequence

from gbif_platform.errors import PlatformError
from gbif_platform.storage.lake import Lake
from gbif_platform.storage.tables import TAKEN_DOWN

ANY = "any"
"""The transform of the row that keeps a picture away which was never fetched."""
FOUND = (
    "SELECT DISTINCT named, url_id, url FROM ("
    "SELECT unnest([media_id, url_id, url]) AS named, url_id, url FROM lake.media_urls UNION ALL "
    "SELECT unnest([url_id, url]) AS named, url_id, url FROM lake.images) WHERE list_contains(?, named)"
)


def take_down(lake: Lake, names: Sequence[str], reason: str, author: str) -> int:
    """Take pictures down, in every size they are stored in; returns how many.

    The index keeps where the bytes lie until the next compact has removed them.

    Args:
        names: media ids, url ids or URLs.
        reason: who asked for it, and why; it stays in the ledger.

    Raises:
        PlatformError: a name is not known; nothing is taken down then.
    """
    with lake.transaction(author, f"images: {len(names)} taken down") as con:
        con.execute(f"CREATE OR REPLACE TEMP TABLE found AS {FOUND}", [list(names)])
        known = {name for (name,) in con.execute("SELECT named FROM found").fetchall()}
        if unknown := [name for name in names if name not in known]:
            raise PlatformError(
                f"no medium is known by {unknown[0]}" + (f" and {len(unknown) - 1} others" if unknown[1:] else ""),
                "give a media_id, a url_id or a URL as the table media_urls has it",
            )
        con.execute(
            "UPDATE lake.images SET status = 'refused', reason = ?, detail = ?, retry_at = NULL, sha256 = NULL, "
            "shard_offset = NULL, shard_size = NULL, etag = NULL, last_modified = NULL, checked_at = NULL "
            "WHERE url_id IN (SELECT url_id FROM found)",
            [TAKEN_DOWN, reason],
        )
        con.execute(
            "INSERT INTO lake.images (url_id, transform, url, status, reason, detail) "
            "SELECT url_id, ?, max(url), 'refused', ?, ? FROM found "
            "WHERE url_id NOT IN (SELECT url_id FROM lake.images WHERE transform = ?) GROUP BY url_id",
            [ANY, TAKEN_DOWN, reason, ANY],
        )
        row = con.execute("SELECT count(DISTINCT url_id) FROM found").fetchone()
    return int(row[0]) if row else 0
