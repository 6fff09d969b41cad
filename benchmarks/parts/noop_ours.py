"""Run the step `downloaded_images` over a home: noop_ours.py HOME."""

import json
import sys
import time
from pathlib import Path

from gbif_platform.dataset import Dataset, parse_dataset

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: known
  source: {gbif_download: {doi: 10.15468/dl.sand01}}
  label: species
"""


def dataset() -> Dataset:
    """The dataset of the benchmark."""
    return parse_dataset(FILE, Path("known.yaml"))


def main() -> None:
    from gbif_platform.platform import Platform
    from gbif_platform.settings import Settings
    from gbif_platform.steps.downloaded_images import downloaded_images
    from gbif_platform.steps.run import Run

    started = time.monotonic()
    report = downloaded_images(Run(Platform(Settings(home=Path(sys.argv[1]))), dataset(), "first", "benchmark"))
    sound = all(check.passed for check in report.checks)
    told = {"requested": report.numbers["requested_now"], "written": report.written, "sound": sound}
    print(json.dumps(told | {"rows": report.numbers["rows"], "step_s": time.monotonic() - started}))


if __name__ == "__main__":
    main()
