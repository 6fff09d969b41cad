"""python-dwca-reader's row loop with the pictures: archive_dwca_reader.py ARCHIVE. Runs in its own environment."""

import json
import sys

from dwca.read import DwCAReader

IDENTIFIER = "http://purl.org/dc/terms/identifier"


def main() -> None:
    occurrences = media = 0
    # Its best setting for this work: the third member is not indexed, the EML documents are not parsed for rows.
    with DwCAReader(sys.argv[1], extensions_to_ignore=["verbatim.txt"], skip_metadata=True) as archive:
        for row in archive:
            occurrences += bool(row.data)
            media += sum(1 for extension in row.extensions if extension.data[IDENTIFIER])
    print(json.dumps({"occurrences": occurrences, "media": media}))


if __name__ == "__main__":
    main()
