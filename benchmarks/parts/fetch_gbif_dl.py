"""gbif-dl's downloader: fetch_gbif_dl.py URL_LIST FOLDER. Stores originals. Runs in gbif-dl's environment."""

import json
import sys
import time
from pathlib import Path

from gbif_dl.stores import dl_async  # type: ignore[import-not-found]


def main() -> None:
    urls, folder = Path(sys.argv[1]).read_text().split(), Path(sys.argv[2]) / "files"
    started = time.monotonic()
    dl_async.download(
        [{"url": url, "basename": f"{number:06}", "label": "all"} for number, url in enumerate(urls)],
        root=str(folder),
        loglevel="CRITICAL",
    )
    seconds = time.monotonic() - started
    print(json.dumps({"pictures": sum(path.is_file() for path in folder.rglob("*")), "fetch_s": seconds}))


if __name__ == "__main__":
    main()
