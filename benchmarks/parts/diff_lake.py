"""The platform's `snapshot diff` of two snapshots in the lake: diff_lake.py HOME. The changes as rows of the lake."""

import json
import sys
import time
from pathlib import Path

from gbif_platform.dataset import Dataset, Source
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps.snapshot_changes import diff


def main() -> None:
    platform = Platform(Settings(home=Path(sys.argv[1])))
    dataset = Dataset(name="media", source=Source(archive="none"), label="species")
    start = time.monotonic()
    counts, _ = diff(platform, dataset, "old", "new")
    seconds = time.monotonic() - start
    changes = {change: media for change, media in counts.iter_rows() if media and change != "unchanged"}
    print(json.dumps({"seconds": seconds, "counts": changes}))


if __name__ == "__main__":
    main()
