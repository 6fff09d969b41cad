"""One spelling for each URL, and the identities hashed from it; in SQL, because media rows come by the million.

The url id ignores scheme, host case, default port and fragment, so that `http`/`https` twins are one picture; and the
sizes in which a known host offers a picture (renditions.py).
"""

import re

import duckdb
import polars as pl
from yarl import URL

from gbif_platform.curation.renditions import rendition_sql

UNUSUAL = r"[^!-~]"
"""A blank or a letter outside ASCII: such URLs are percent-encoded first, as a browser would."""

PARTS = r"^(https?)://([^/?#]*)([^#]*)"

_PLAIN_LETTER = r"[!-\"$-.0-9;-~]"
PLAIN = rf"https?://[a-z0-9.-]+(:[0-9][0-9][0-9][0-9]+)?/({_PLAIN_LETTER}|/|:/?{_PLAIN_LETTER})*"
"""A URL that is spelt as `url_spelling` would spell it, with no other one behind it: so are nearly all. Ports of four
digits are no default ports."""

SEVERAL = r"(?:\s*[;|,]\s*|\s+)(https?://)"
"""A separator before a further URL; a comma inside one URL (IIIF sizes) is none."""


def percent_encode(url: str) -> str:
    """The URL with blanks and non-ASCII letters percent-encoded; what is encoded already stays."""
    try:
        return str(URL(url))
    except ValueError:
        return re.sub(UNUSUAL, lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), url)


def encoded(identifiers: pl.Series) -> pl.DataFrame:
    """Columns `raw`, `encoded` for the few distinct identifiers that need percent-encoding."""
    raw = identifiers.unique().sort()
    return pl.DataFrame(
        {"raw": raw, "encoded": [percent_encode(text) for text in raw]},
        schema={"raw": pl.String, "encoded": pl.String},
    )


def define_macros(con: duckdb.DuckDBPyConnection) -> None:
    """Define `url_spelling(text)`, `url_key(text)`, `picture_key(key)`, `identity(text)` and `key64(id)`.

    - `url_spelling`: scheme and host in lower case, no default port, no fragment.
    - `url_key`: the same without the scheme.
    - `picture_key`: the canonical spelling of such a key, the same for all sizes of a picture.
    - `identity`: first 128 bits of SHA-256 as 32 hex digits.
    - `key64`: the first 64 bits of such an identity as UBIGINT.
    """
    con.execute(rf"""
        CREATE OR REPLACE TEMP MACRO url_host(url) AS
            CASE WHEN url ILIKE 'https:%'
                 THEN regexp_replace(lower(regexp_extract(url, '{PARTS}', 2, 'i')), ':443$', '')
                 ELSE regexp_replace(lower(regexp_extract(url, '{PARTS}', 2, 'i')), ':80$', '') END;
        CREATE OR REPLACE TEMP MACRO url_path(url) AS
            CASE WHEN regexp_extract(url, '{PARTS}', 3, 'i') = '' THEN '/'
                 ELSE regexp_extract(url, '{PARTS}', 3, 'i') END;
        CREATE OR REPLACE TEMP MACRO url_key(url) AS url_host(url) || url_path(url);
        CREATE OR REPLACE TEMP MACRO url_spelling(url) AS
            lower(regexp_extract(url, '{PARTS}', 1, 'i')) || '://' || url_key(url);
        CREATE OR REPLACE TEMP MACRO picture_key(key) AS {rendition_sql("key")};
        CREATE OR REPLACE TEMP MACRO identity(text) AS left(sha256(text), 32);
        CREATE OR REPLACE TEMP MACRO key64(id) AS ('0x' || left(id, 16))::UBIGINT;
    """)
