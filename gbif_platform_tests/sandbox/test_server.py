"""The loopback GBIF over real HTTP: the download API, the file with ranges, the image host with its faults."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gbif_platform.errors import PlatformError
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.__main__ import _USE
from gbif_platform.sandbox.downloads import Download
from gbif_platform.sandbox.records import Trouble
from gbif_platform_tests.sandbox.calls import FROG, call

DATASET = SandboxDataset(size=24)
ROOT = "/v1/occurrence/download"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def download(sandbox: Sandbox) -> Download:
    return sandbox.publish(DATASET)


def get(url: str, **headers: str) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers, refusal.read()


def get_json(url: str) -> Any:
    status, _, body = get(url)
    assert status == 200
    return json.loads(body)


def troubled_path(trouble: Trouble) -> str:
    return next(medium.path for medium in DATASET.media() if medium.trouble is trouble)


def test_key_and_doi_name_the_same_download(sandbox: Sandbox, download: Download) -> None:
    by_key = get_json(f"{sandbox.url}{ROOT}/{download.key}")
    assert by_key == get_json(f"{sandbox.url}{ROOT}/{download.doi}")
    assert by_key == get_json(f"{sandbox.url}{ROOT}/{download.doi.upper()}")
    assert by_key["doi"] == "10.15468/dl.sand01"
    assert by_key["totalRecords"] == sum(1 for _ in DATASET.occurrences())
    assert by_key["status"] == "SUCCEEDED"


def test_metadata_has_the_shape_of_a_recorded_answer(sandbox: Sandbox, download: Download, shared: Path) -> None:
    folder = shared / "api/dev/download_lifecycle"
    recorded = json.loads((folder / "rgbif__occ_download_meta_with_results__000__200.json").read_text())
    wanted = recorded["response"]["body"]
    answer = get_json(f"{sandbox.url}{ROOT}/{download.key}")
    assert answer.keys() == wanted.keys()
    assert answer["request"].keys() == wanted["request"].keys()
    assert {name: type(value) for name, value in answer.items()} == {
        name: type(value) for name, value in wanted.items()
    }
    assert len(answer["created"]) == len(wanted["created"])


def test_the_file_is_redirected_to_and_is_the_stated_archive(sandbox: Sandbox, download: Download) -> None:
    described = get_json(f"{sandbox.url}{ROOT}/{download.key}")
    connection = http.client.HTTPConnection(sandbox.url.removeprefix("http://"), timeout=10)
    connection.request("GET", described["downloadLink"])
    first = connection.getresponse()
    assert first.status == 302
    assert first.headers["Location"].startswith("/static/")
    connection.close()
    status, headers, body = get(described["downloadLink"])
    assert (status, len(body), headers["Content-Type"]) == (200, described["size"], "application/zip")
    with zipfile.ZipFile(BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert archive.read("occurrence.txt").count(b"\n") == described["totalRecords"] + 1


def test_ranges_put_together_are_the_whole_file(sandbox: Sandbox, download: Download) -> None:
    link = f"{sandbox.url}{ROOT}/request/{download.key}.zip"
    _, _, whole = get(link)
    half = len(whole) // 2
    status, headers, start = get(link, Range=f"bytes=0-{half - 1}")
    assert (status, headers["Content-Range"]) == (206, f"bytes 0-{half - 1}/{len(whole)}")
    status, _, rest = get(link, Range=f"bytes={half}-")
    assert status == 206
    assert start + rest == whole
    assert get(link, Range=f"bytes={len(whole)}-")[0] == 416


@pytest.mark.parametrize(
    "path", ["/0009999-260115090000000", "/10.15468/dl.nobody", "/request/0009999-260115090000000.zip"]
)
def test_an_unknown_download_is_404(sandbox: Sandbox, path: str) -> None:
    status, _, body = get(sandbox.url + ROOT + path)
    assert status == 404
    assert b"not found" in body


def test_datasets_come_in_pages_and_add_up(sandbox: Sandbox, download: Download) -> None:
    address = f"{sandbox.url}{ROOT}/{download.key}/datasets"
    whole = get_json(address)
    assert whole["endOfRecords"] is True
    assert sum(row["numberRecords"] for row in whole["results"]) == sum(1 for _ in DATASET.occurrences())
    pages = [get_json(f"{address}?limit=1&offset={offset}") for offset in range(whole["count"])]
    assert [row for page in pages for row in page["results"]] == whole["results"]
    assert [page["endOfRecords"] for page in pages] == [False] * (len(pages) - 1) + [True]
    assert get(f"{address}?limit=many")[0] == 400


def test_the_citation_names_the_doi(sandbox: Sandbox, download: Download) -> None:
    _, _, body = get(f"{sandbox.url}{ROOT}/{download.doi}/citation")
    assert body.decode() == "GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/10.15468/dl.sand01\n"


@pytest.mark.usefixtures("download")
def test_pictures_are_drawn_and_counted(sandbox: Sandbox) -> None:
    medium = next(medium for medium in DATASET.media() if medium.trouble is None)
    before = sandbox.counts().get(medium.path, 0)
    answers = [get(sandbox.url + medium.path) for _ in range(2)]
    assert answers[0][2] == answers[1][2]
    assert answers[0][1]["Content-Type"] == "image/jpeg"
    assert Image.open(BytesIO(answers[0][2])).size == medium.size
    assert sandbox.counts()[medium.path] == before + 2
    assert get_json(f"{sandbox.url}/_counts") == sandbox.counts()


@pytest.mark.usefixtures("download")
def test_faulty_media_fail_as_their_records_say(sandbox: Sandbox) -> None:
    assert get(sandbox.url + troubled_path(Trouble.NOT_FOUND))[0] == 404
    status, headers, body = get(sandbox.url + troubled_path(Trouble.HTML_PAGE))
    assert (status, headers.get_content_type(), body[:9]) == (200, "text/html", b"<!doctype")
    busy = sandbox.url + troubled_path(Trouble.BUSY_ONCE)
    status, headers, _ = get(busy)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert get(busy)[0] == 200
    with pytest.raises(http.client.IncompleteRead):
        get(sandbox.url + troubled_path(Trouble.TRUNCATED))
    assert get(f"{sandbox.url}/media/000000000000/original.jpg")[0] == 404


def test_a_second_snapshot_has_its_own_doi_and_the_old_pictures(sandbox: Sandbox, download: Download) -> None:
    grown = sandbox.publish(SandboxDataset(size=24, grow=0.25))
    assert grown.key != download.key
    assert grown.doi != download.doi
    tables = []
    for known in (download, grown):
        with zipfile.ZipFile(known.archive) as archive:
            tables.append(set(archive.read("multimedia.txt").decode().splitlines()))
    assert tables[0] < tables[1]


@pytest.mark.usefixtures("download")
def test_the_addresses_it_advises_to_try_answer(sandbox: Sandbox, download: Download) -> None:
    advice = _USE.format(url=sandbox.url, downloads="", doi=download.doi, key=download.key)
    addresses = re.findall(r"curl (?:-L -o \S+ )?'?(http\S+?)'?\n", advice)
    assert len(addresses) == 5
    assert {get(address)[0] for address in addresses} == {200}
    body = json.loads(advice.split("-d '")[1].split("'\n")[0])
    answer = call("POST", f"{sandbox.url}{ROOT}/request", body, FROG)
    assert answer.status == 201


def test_a_taken_port_is_said_plainly(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rsplit(":", 1)[1])
    with pytest.raises(PlatformError, match=f"127.0.0.1:{port}") as trouble, Sandbox(port):
        pass
    assert "another port" in trouble.value.next_step


def test_it_serves_by_itself_until_it_is_told_to_stop() -> None:
    command = [sys.executable, "-m", "gbif_platform.sandbox", "--port", "0", "--size", "16"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            url = next(line for line in lines if "http://" in line).split("sandbox is at ")[1].split()[0]
            assert get_json(f"{url}{ROOT}/10.15468/dl.sand02")["totalRecords"] == 16 + 2 + len(Trouble) - 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_taken_port_ends_the_command_with_one_line_and_a_next_step(sandbox: Sandbox) -> None:
    port = sandbox.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "gbif_platform.sandbox", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr
