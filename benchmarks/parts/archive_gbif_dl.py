"""gbif-dl's generator over a local archive: archive_gbif_dl.py ARCHIVE. Runs in gbif-dl's environment."""

import json
import sys
from pathlib import Path

from gbif_dl.generators import dwca  # type: ignore[import-not-found]

# generate_urls asks DataCite for the key of the DOI that it takes every identifier for, a key too. The archive is there
# already, so this look-up is all that it needs the network for.
dwca.doi_to_gbif_key = lambda identifier: identifier


def main() -> None:
    path = Path(sys.argv[1])
    # Every picture, as the platform keeps; the default keeps one of each occurrence, at random.
    items = dwca.generate_urls(path.stem, path.parent, label="speciesKey", one_media_per_occurrence=False)
    print(json.dumps({"media": sum(1 for item in items if item["url"])}))


if __name__ == "__main__":
    main()
