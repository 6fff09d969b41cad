"""The whole scenario: real photographs behind real troubles, each row with the fate that the truth gives it."""

import csv
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.images.request import FetchOptions
from gbif_platform.images.run import fetch_images
from gbif_platform.images.shards import verify_shard
from gbif_platform.storage.objects import ObjectStore

OPTIONS = FetchOptions(stall_timeout=2, backoff=0.1, allow_private=True)

# The truth's words and the reasons that name them. Orphans and several URLs in one cell are no matter of fetching.
REASONS = {
    "HTTP 403": {"http_403"},
    "HTTP 404": {"http_404"},
    "HTTP 410": {"http_410"},
    "HTTP 500": {"http_500"},
    "HTML page, no picture": {"html_page"},
    "empty body": {"empty_body"},
    "truncated transfer": {"truncated_transfer"},
    "connection reset": {"connection_reset"},
    "connection refused": {"connection_refused"},
    "timeout": {"timeout"},
    "redirect loop": {"redirect_loop"},
    "too many bytes": {"too_many_bytes"},
    "too many pixels": {"too_many_pixels"},
    "host does not resolve": {"host_not_found"},
    "unsupported scheme": {"unsupported_scheme"},
    "must be refused": {"unsupported_scheme"},
    "no scheme": {"unsupported_scheme"},
    "relative URL": {"unsupported_scheme"},
    "no identifier": {"unsupported_scheme"},
    "not a still image": {"not_an_image"},
    "difficult: reject by default as truncated": {"truncated_image"},
    "difficult: reject with a typed error": {
        "corrupt_image",
        "truncated_image",
        "too_many_pixels",
        "unsupported_format",
    },
    "difficult: reject: not an image": {"not_an_image", "html_page"},
    "difficult: refuse before decoding": {"too_many_pixels"},
    "difficult: decode if the codec is installed": {"", "unsupported_format"},
    "difficult: decode": {""},
    "difficult: take the first frame": {""},
    "difficult: the still picture is small and fine": {""},
    "picture": {""},
    "orphan": {""},
}


@pytest.fixture
def base(shared: Path) -> Iterator[str]:
    """Where the scenario is served."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scenario = shared / "scenario" / "dev"
    command = [sys.executable, str(shared / "make_scenario.py"), "serve", "--dir", str(scenario), "--port", str(port)]
    server = subprocess.Popen([*command, "--time-scale", "0.05"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline().startswith("serving")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def expected_reasons(fate: str) -> set[str] | None:
    matching = [words for words in REASONS if fate.startswith(words)]
    return REASONS[max(matching, key=len)] if matching else None


def test_every_row_has_its_fate(shared: Path, base: str, tmp_path: Path) -> None:
    with (shared / "scenario" / "dev" / "truth.csv").open(encoding="utf-8", newline="") as file:
        truth = list(csv.DictReader(file))
    plan: dict[str, str] = {}
    for row in truth:
        url = row["identifier"].replace("://127.0.0.1:8099", base.removeprefix("http"))
        row["url_id"] = sha256(url.encode()).hexdigest()[:16]
        plan[row["url_id"]] = url
    rows: list[dict[str, Any]] = []
    objects = ObjectStore(str(tmp_path))
    summary = fetch_images(
        plan.items(), total=len(plan), objects=objects, commit=rows.extend, options=OPTIONS, shard_images=500
    )
    by_id = {row["url_id"]: row for row in rows}
    assert len(rows) == len(by_id) == len(plan) == summary.done

    pictures = [row for row in truth if row["fate"] == "picture"]
    assert len(pictures) == 1174
    wrong = [
        (row["identifier"], by_id[row["url_id"]]["reason"])
        for row in pictures
        if (by_id[row["url_id"]]["status"], by_id[row["url_id"]]["source_sha256"]) != ("ok", row["sha256"])
    ]
    assert wrong == []
    others = [(row["fate"], row["note"], by_id[row["url_id"]]["reason"]) for row in truth]
    unexpected = [
        other for other in others if (reasons := expected_reasons(other[0])) is not None and other[2] not in reasons
    ]
    assert unexpected == []
    for shard in summary.shards:
        assert verify_shard(objects, shard, [row for row in rows if row["shard"] == shard]) == []
