"""A search of GBIF as a source: planned, enumerated whole, and written down as an archive like that of a download."""
