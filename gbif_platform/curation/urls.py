"""One spelling for each URL, and the identities hashed from it; in SQL, because media rows come by the million.

The url id ignores scheme, host case, default port and fragment, so that `http`/`https` twins are one picture.
"""

import re

import duckdb
import polars as pl
from yarl import URL

UNUSUAL = r"[^!-~]"
"""A blank or a letter outside ASCII: such URLs are percent-encoded first, as a browser would."""

PARTS = r"^(https?)://([^/?#]*)([^#]*)"

SEVERAL = r"[;|,]\s*https?://"
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
    """Define `url_spelling(text)`, `url_key(text)`, `identity(text)` and `key64(id)` on a connection.

    - `url_spelling`: scheme and host in lower case, no default port, no fragment.
    - `url_key`: the same without the scheme.
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
        CREATE OR REPLACE TEMP MACRO identity(text) AS sha256(text)[1:32];
        CREATE OR REPLACE TEMP MACRO key64(id) AS ('0x' || id[1:16])::UBIGINT;
    """)
