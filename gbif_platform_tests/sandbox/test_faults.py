"""Planned faults of the sandbox: refusals with both forms of Retry-After, dropped and cut answers, wrong bytes."""

import http.client
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO

import pytest

from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.downloads import Download
from gbif_platform_tests.sandbox.calls import FROG, call, get

SEARCH = "/v1/occurrence/search"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture
def download(sandbox: Sandbox) -> Download:
    return sandbox.publish(SandboxDataset(size=40))


def test_failures_come_as_often_as_planned_and_where_planned(sandbox: Sandbox) -> None:
    sandbox.fail_next(SEARCH, status=429, retry_after="1", times=2)
    assert get(f"{sandbox.url}/v1/species/match").status == 200
    answers = [get(sandbox.url + SEARCH) for _ in range(3)]
    assert [answer.status for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert isinstance(answers[0].json, list)
    assert sandbox.counts()[SEARCH] == 3


def test_retry_after_can_be_a_date(sandbox: Sandbox) -> None:
    sandbox.fail_next("/v1/*", status=503, retry_after=datetime(2026, 11, 20, 8, 30, tzinfo=UTC))
    assert get(sandbox.url + SEARCH).headers["Retry-After"] == "Fri, 20 Nov 2026 08:30:00 GMT"


def test_one_method_can_fail_alone(sandbox: Sandbox) -> None:
    address = f"{sandbox.url}/v1/derivedDataset"
    sandbox.fail_next("/v1/derivedDataset", status=420, method="POST", text="slowly")
    assert get(address).status == 405
    refused = call("POST", address, {}, FROG)
    assert (refused.status, refused.text) == (420, "slowly")
    assert call("POST", address, {}, FROG).status == 400


@pytest.mark.parametrize("after_headers", [False, True])
def test_connections_can_be_dropped(sandbox: Sandbox, after_headers: bool) -> None:
    sandbox.drop_next(SEARCH, after_headers=after_headers)
    wanted = http.client.IncompleteRead if after_headers else http.client.RemoteDisconnected
    with pytest.raises(wanted):
        get(sandbox.url + SEARCH)
    assert get(sandbox.url + SEARCH).status == 200


def test_a_cut_file_goes_on_with_a_range(sandbox: Sandbox, download: Download) -> None:
    address, path = f"{sandbox.url}/static/occurrence/download/{download.key}.zip", download.archive
    sandbox.truncate_next("*.zip", fraction=0.6)
    connection = http.client.HTTPConnection(sandbox.url.removeprefix("http://"), timeout=10)
    connection.request("GET", address)
    response = connection.getresponse()
    with pytest.raises(http.client.IncompleteRead) as cut:
        response.read()
    size = path.stat().st_size
    assert int(response.headers["Content-Length"]) == size
    assert len(cut.value.partial) == int(size * 0.6)
    etag = response.headers["ETag"]
    rest = get(address, Range=f"bytes={len(cut.value.partial)}-", If_Range=etag)
    assert (rest.status, rest.headers["ETag"]) == (206, etag)
    assert cut.value.partial + rest.body == path.read_bytes()


def test_a_range_can_be_cut_too(sandbox: Sandbox, download: Download) -> None:
    whole = download.archive.read_bytes()
    sandbox.truncate_next("*.zip", fraction=0.5)
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(f"{sandbox.url}/v1/occurrence/download/request/{download.key}.zip", Range="bytes=1000-")
    assert cut.value.partial == whole[1000 : 1000 + (len(whole) - 1000) // 2]


def test_wrong_bytes_are_a_crc_error(sandbox: Sandbox, download: Download) -> None:
    address = f"{sandbox.url}/v1/occurrence/download/request/{download.key}.zip"
    sandbox.corrupt_next("*.zip")
    wrong, right = get(address).body, get(address).body
    assert right == download.archive.read_bytes()
    assert len(wrong) == len(right)
    assert wrong != right
    with zipfile.ZipFile(BytesIO(wrong)) as archive, pytest.raises((zipfile.BadZipFile, zlib.error)):
        [archive.read(name) for name in archive.namelist()]


def test_a_json_answer_can_be_cut(sandbox: Sandbox, download: Download) -> None:
    sandbox.truncate_next(f"/v1/occurrence/download/{download.key}")
    with pytest.raises(http.client.IncompleteRead):
        get(f"{sandbox.url}/v1/occurrence/download/{download.key}")


def test_gbif_can_be_down_or_out_of_reach(sandbox: Sandbox) -> None:
    sandbox.down = True
    assert get(sandbox.url + SEARCH).status == 503
    sandbox.down, sandbox.network_lost = False, True
    with pytest.raises(http.client.RemoteDisconnected):
        get(sandbox.url + SEARCH)
    sandbox.network_lost = False
    assert get(sandbox.url + SEARCH).status == 200


def test_requests_are_kept_with_user_agent_and_body(sandbox: Sandbox) -> None:
    get(sandbox.url + SEARCH, {"year": 2021}, User_Agent="gbif-platform/0.1 (me@example.org)")
    call("POST", f"{sandbox.url}/v1/occurrence/download/request", {"format": "DWCA"}, FROG)
    search, request = sandbox.requests
    assert (search.method, search.path, search.query) == ("GET", SEARCH, "year=2021")
    assert search.user_agent == "gbif-platform/0.1 (me@example.org)"
    assert request.body == b'{"format": "DWCA"}'
    assert request.headers["Authorization"].startswith("Basic ")
    assert sandbox.counts() == {SEARCH: 1, "POST /v1/occurrence/download/request": 1}
