import asyncio
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.download import (
    Download,
    DownloadRef,
    download,
    erased_soon,
    fetch_download,
    parse_reference,
)
from gbif_platform.gbif.download_errors import (
    DownloadDamaged,
    DownloadErased,
    DownloadError,
    DownloadFailed,
    DownloadNotReady,
    DownloadUnreachable,
    InvalidReference,
    UnknownDownload,
)
from gbif_platform.gbif.errors import GbifError
from gbif_platform.gbif.retry import Patience

KEY = "0022697-200613084148143"
DOI = "10.15468/dl.4gbcs6"
AGENT = "gbif-platform-tests (https://example.org)"
QUICK = Patience(first_wait_s=0.01)
CITATION = f"GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/{DOI}"
CREDIT_CALLS = 3  # two pages of datasets, and the citation
DATASETS = [
    {"downloadKey": KEY, "datasetKey": f"{n:08}-0000-4000-8000-000000000000", "numberRecords": n} for n in range(150)
]


def make_zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("occurrence.txt", os.urandom(300_000))
    return data.getvalue()


ZIP = make_zip()

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gbif:
    """A loopback GBIF with one download; `answers` replaces the next answers of the file, one after the other."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = {
            "key": KEY,
            "doi": DOI,
            "status": "SUCCEEDED",
            "size": len(ZIP),
            "totalRecords": 7,
            "downloadLink": f"https://api.gbif.org/v1/occurrence/download/request/{KEY}.zip",
            **metadata,
        }
        self.answers: list[Answer] = []
        self.metadata_answers: list[Answer] = []
        self.credit_is_down = False
        self.file = ZIP
        self.requests: list[web.Request] = []
        self.url = ""

    def ranges(self) -> list[str | None]:
        return [r.headers.get("Range") for r in self.requests if r.path.endswith(".zip")]

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get(f"/v1/occurrence/download/request/{KEY}.zip", self._answer_file)
        app.router.add_get(f"/v1/occurrence/download/{KEY}", self._answer_metadata)
        app.router.add_get(f"/v1/occurrence/download/{DOI}", self._answer_metadata)
        app.router.add_get(f"/v1/occurrence/download/{KEY}/datasets", self._answer_datasets)
        app.router.add_get(f"/v1/occurrence/download/{KEY}/citation", self._answer_citation)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _answer_datasets(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.credit_is_down:
            return web.Response(status=503)
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        page = DATASETS[offset : offset + limit]
        end = offset + limit >= len(DATASETS)
        return web.json_response({"offset": offset, "limit": limit, "endOfRecords": end, "results": page})

    async def _answer_citation(self, request: web.Request) -> web.StreamResponse:
        """GBIF calls the bare text JSON."""
        self.requests.append(request)
        return web.Response(text=CITATION + "\n", content_type="application/json")

    async def _answer_metadata(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.metadata_answers:
            return await self.metadata_answers.pop(0)(request)
        return web.json_response(self.metadata)

    async def _answer_file(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.answers:
            return await self.answers.pop(0)(request)
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if not start:
            return web.Response(body=self.file)
        if start >= len(self.file):
            return web.Response(status=416)
        headers = {"Content-Range": f"bytes {start}-{len(self.file) - 1}/{len(self.file)}"}
        return web.Response(status=206, body=self.file[start:], headers=headers)


async def cut_at_60_percent(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(ZIP))})
    await response.prepare(request)
    await response.write(ZIP[: len(ZIP) * 6 // 10])
    assert request.transport is not None
    request.transport.close()
    return response


def status(code: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


def fetch(gbif: Gbif, folder: Path, reference: str = KEY, times: int = 1, **kwargs: Any) -> Download:
    async def run() -> Download:
        runner = await gbif.start()
        try:
            for _ in range(times):
                result = await fetch_download(
                    parse_reference(reference), gbif.url, folder, user_agent=AGENT, patience=QUICK, **kwargs
                )
            return result
        finally:
            await runner.cleanup()

    return asyncio.run(run())


# References -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f" {KEY}\n",
        f"{KEY}.zip",
        f"https://www.gbif.org/occurrence/download/{KEY}",
        f"https://www.gbif.org/es/occurrence/download/{KEY}/?x=1",
        f"https://api.gbif.org/v1/occurrence/download/request/{KEY}.zip",
    ],
)
def test_a_key_is_read_alone_and_from_addresses(text: str) -> None:
    assert parse_reference(text) == DownloadRef(key=KEY)


@pytest.mark.parametrize(
    "text",
    [DOI, DOI.upper(), f"doi:{DOI}", f"https://doi.org/{DOI}", f"http://dx.doi.org/{DOI}/", "10.15468/DL.4gbcs6"],
)
def test_a_doi_is_read_in_each_form(text: str) -> None:
    assert parse_reference(text) == DownloadRef(doi=DOI)


@pytest.mark.parametrize(
    "text", ["", "frogs", "10.15468/0lkr3w", "0022697-20061308414814", "https://www.gbif.org", "../x"]
)
def test_anything_else_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert caught.value.next_step


def test_the_doi_of_a_dataset_is_told_apart() -> None:
    with pytest.raises(InvalidReference, match="DOI of a dataset"):
        parse_reference("https://doi.org/10.15468/0lkr3w")


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        ref = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(str(ref)) == ref


# Fetching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [KEY, DOI])
def test_a_download_comes_with_its_metadata_and_only_once(tmp_path: Path, reference: str) -> None:
    gbif = Gbif()
    seen: list[tuple[int, int | None, str]] = []
    result = fetch(gbif, tmp_path / "new", reference, progress=lambda *step: seen.append(step))
    assert (result.key, result.doi, result.total_records, result.fetched) == (KEY, DOI, 7, True)
    assert result.path == tmp_path / "new" / f"{KEY}.zip"
    assert result.path.read_bytes() == ZIP
    assert json.loads((tmp_path / "new" / f"{KEY}.json").read_text()) == gbif.metadata
    assert seen[-1] == (len(ZIP), len(ZIP), "bytes")
    assert {r.headers["User-Agent"] for r in gbif.requests} == {AGENT}
    assert not list((tmp_path / "new").glob("*.part"))

    asked = len(gbif.requests)
    again = fetch(gbif, tmp_path / "new", reference)
    assert (again.path, again.fetched, len(gbif.requests)) == (result.path, False, asked)


def test_a_file_that_is_not_sound_is_fetched_again(tmp_path: Path) -> None:
    gbif = Gbif()
    path = fetch(gbif, tmp_path).path
    path.write_bytes(ZIP[:1000])
    assert fetch(gbif, tmp_path).fetched
    assert path.read_bytes() == ZIP


def test_a_connection_cut_at_60_percent_is_resumed_from_there(tmp_path: Path) -> None:
    gbif = Gbif()
    gbif.answers = [cut_at_60_percent]
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP
    assert gbif.ranges() == [None, f"bytes={len(ZIP) * 6 // 10}-"]


def test_a_later_call_resumes_what_an_earlier_one_left(tmp_path: Path) -> None:
    gbif = Gbif()
    (tmp_path / f"{KEY}.zip.part").write_bytes(ZIP[:1234])
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP
    assert gbif.ranges() == ["bytes=1234-"]


def test_a_server_that_knows_no_range_starts_over(tmp_path: Path) -> None:
    async def whole(_: web.Request) -> web.StreamResponse:
        return web.Response(body=ZIP)

    gbif = Gbif()
    gbif.answers = [cut_at_60_percent, whole]
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP


def test_the_part_of_another_file_is_thrown_away(tmp_path: Path) -> None:
    for junk in (b"x" * 1234, b"x" * len(ZIP), b"x" * (len(ZIP) + 5)):
        gbif = Gbif()
        (tmp_path / f"{KEY}.zip.part").write_bytes(junk)
        (tmp_path / f"{KEY}.zip").unlink(missing_ok=True)
        assert fetch(gbif, tmp_path).path.read_bytes() == ZIP


@pytest.mark.parametrize("code", [420, 429, 503])
def test_a_busy_server_is_asked_again(tmp_path: Path, code: int) -> None:
    gbif = Gbif()
    gbif.metadata_answers = [status(code), status(code)]
    gbif.answers = [status(code)]
    assert fetch(gbif, tmp_path).fetched
    assert len(gbif.requests) == 5 + CREDIT_CALLS


def test_retry_after_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("gbif_platform.gbif.retry.asyncio.sleep", noted)
    gbif = Gbif()
    gbif.metadata_answers = [
        status(429, **{"Retry-After": "7"}),
        status(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        status(503, **{"Retry-After": "100000"}),
    ]
    fetch(gbif, tmp_path)
    assert [wait for wait in waits if wait >= 1 or wait == 0][:3] == [7, 0, 120]


def test_a_server_that_never_answers_is_given_up_and_the_part_kept(tmp_path: Path) -> None:
    gbif = Gbif()
    gbif.answers = [cut_at_60_percent, *[status(503)] * 20]
    seen: list[str] = []
    with pytest.raises(DownloadUnreachable, match="503"):
        fetch(gbif, tmp_path, progress=lambda _done, _total, note: seen.append(note))
    assert [note for note in seen if note != "bytes"] == [f"waiting for GBIF, try {n} of 6" for n in range(2, 7)]
    assert (tmp_path / f"{KEY}.zip.part").stat().st_size == len(ZIP) * 6 // 10


def test_no_server_at_all(tmp_path: Path) -> None:
    async def run() -> None:
        await fetch_download(DownloadRef(key=KEY), "http://127.0.0.1:1", tmp_path, user_agent=AGENT, patience=QUICK)

    with pytest.raises(DownloadUnreachable, match="cannot be reached"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("download_status", "error"),
    [
        ("PREPARING", DownloadNotReady),
        ("RUNNING", DownloadNotReady),
        ("SUSPENDED", DownloadNotReady),
        ("FILE_ERASED", DownloadErased),
        ("CANCELLED", DownloadFailed),
        ("KILLED", DownloadFailed),
        ("FAILED", DownloadFailed),
    ],
)
def test_a_download_without_a_file_says_why(tmp_path: Path, download_status: str, error: type[DownloadError]) -> None:
    with pytest.raises(error, match=KEY) as caught:
        fetch(Gbif(status=download_status), tmp_path)
    assert caught.value.next_step
    assert not list(tmp_path.glob("*.zip*"))


def test_an_unknown_key_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownDownload, match="0000000-000000000000000"):
        fetch(Gbif(), tmp_path, "0000000-000000000000000")


def test_a_file_that_went_away_is_said(tmp_path: Path) -> None:
    for code, error in ((404, DownloadNotReady), (410, DownloadErased), (403, DownloadError)):
        gbif = Gbif()
        gbif.answers = [status(code)]
        with pytest.raises(error):
            fetch(gbif, tmp_path)


@pytest.mark.parametrize("metadata", [{"key": "../../etc/x"}, {"key": "0000001-000000000000000"}])
def test_metadata_of_another_download_is_refused(tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(DownloadError, match="download key"):
        fetch(Gbif(**metadata), tmp_path)


def test_wrong_size_and_damaged_content_are_refused(tmp_path: Path) -> None:
    flipped = bytearray(ZIP)
    flipped[1000] ^= 0xFF
    for gbif, says in ((Gbif(size=len(ZIP) - 7), "instead of"), (Gbif(), "checksum|CRC")):
        gbif.file = bytes(flipped)
        with pytest.raises(DownloadDamaged, match=says):
            fetch(gbif, tmp_path)
        assert not list(tmp_path.glob("*.zip*"))
        assert len(gbif.ranges()) == 2  # once more, then no further


def test_a_log_in_page_instead_of_the_zip_costs_nothing_of_what_has_come(tmp_path: Path) -> None:
    async def portal(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>Please log in</html>", content_type="text/html")

    gbif = Gbif()
    part = tmp_path / f"{KEY}.zip.part"
    part.write_bytes(ZIP[:1234])
    gbif.answers = [portal]
    with pytest.raises(DownloadDamaged, match="text/html"):
        fetch(gbif, tmp_path)
    assert part.read_bytes() == ZIP[:1234]
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP
    assert gbif.ranges() == ["bytes=1234-"] * 2


def test_an_api_that_answers_with_a_page_is_told(tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html></html>", content_type="text/html")

    gbif = Gbif()
    gbif.metadata_answers = [page]
    with pytest.raises(DownloadUnreachable, match="not GBIF's"):
        fetch(gbif, tmp_path)


FETCH = """
import resource, sys
from pathlib import Path
from gbif_platform.gbif.download import download
from gbif_platform.gbif.download_errors import DownloadError
key, url, folder, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
try:
    download(key, url, Path(folder), user_agent="test")
except DownloadError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_a_disk_that_is_full_at_80_percent(tmp_path: Path) -> None:
    gbif = Gbif()

    async def run() -> subprocess.CompletedProcess[str]:
        runner = await gbif.start()
        limit = str(len(ZIP) * 8 // 10)
        command = [sys.executable, "-c", FETCH, KEY, gbif.url, str(tmp_path), limit]
        result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        await runner.cleanup()
        return result

    result = asyncio.run(run())
    assert result.returncode == 1
    assert f"DownloadError: cannot write {tmp_path}" in result.stderr
    assert "free space" in result.stderr
    assert (tmp_path / f"{KEY}.zip.part").read_bytes() == ZIP[: len(ZIP) * 8 // 10]
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP
    assert gbif.ranges()[-1] == f"bytes={len(ZIP) * 8 // 10}-"


# Credit ---------------------------------------------------------------------------------------------------------------


def test_the_contributing_datasets_and_the_citation_lie_beside_the_file(tmp_path: Path) -> None:
    gbif = Gbif()
    for result in (fetch(gbif, tmp_path), fetch(gbif, tmp_path)):
        assert (result.datasets, result.citation) == (DATASETS, CITATION)
        assert not result.warnings
    assert json.loads((tmp_path / f"{KEY}.credit.json").read_text()) == {
        "datasets": DATASETS,
        "citation": CITATION,
        "missing": [],
    }


def test_credit_that_cannot_be_had_loses_no_file_and_is_asked_for_the_next_time(tmp_path: Path) -> None:
    gbif = Gbif()
    gbif.credit_is_down = True
    first = fetch(gbif, tmp_path)
    assert (first.path.read_bytes(), first.datasets, first.citation) == (ZIP, [], CITATION)
    assert first.warnings == [f"GBIF did not give the datasets of {KEY}"]
    gbif.credit_is_down, asked = False, len(gbif.requests)
    again = fetch(gbif, tmp_path)
    assert (again.datasets, again.fetched) == (DATASETS, False)
    assert [r.path.rpartition("/")[2] for r in gbif.requests[asked:]] == ["datasets", "datasets"]


@pytest.mark.parametrize(
    ("erase_after", "says"),
    [
        ("2026-07-15T15:05:52.916+00:00", "2026-07-15 (in 14 days)"),
        ("2026-06-30T00:00:00", "that is past"),
        ("2026-12-15T15:05:52.916+00:00", None),
        (None, None),
        ("soon", None),
    ],
)
def test_a_file_that_gbif_deletes_soon_is_warned_of(erase_after: str | None, says: str | None) -> None:
    warning = erased_soon({"key": KEY, "eraseAfter": erase_after}, datetime(2026, 7, 1, 12, tzinfo=UTC))
    assert (says in warning) if says and warning else warning is says


def test_an_erased_download_names_the_command_that_repeats_its_request(tmp_path: Path) -> None:
    with pytest.raises(DownloadErased) as caught:
        fetch(Gbif(status="FILE_ERASED"), tmp_path, DOI)
    assert f"gbif-platform snapshot replay DATASET {DOI}" in caught.value.next_step
    assert isinstance(caught.value, GbifError)


def test_a_link_of_the_endpoint_is_followed(tmp_path: Path) -> None:
    gbif = Gbif()

    async def moved(_: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"/v1/occurrence/download/request/{KEY}.zip?static")

    gbif.answers = [moved]
    assert fetch(gbif, tmp_path).path.read_bytes() == ZIP


def test_two_calls_at_once_fetch_it_once(tmp_path: Path) -> None:
    gbif = Gbif()

    async def run() -> tuple[Download, Download]:
        runner = await gbif.start()
        try:
            one = fetch_download(DownloadRef(key=KEY), gbif.url, tmp_path, user_agent=AGENT)
            two = fetch_download(DownloadRef(doi=DOI), gbif.url, tmp_path, user_agent=AGENT)
            return await asyncio.gather(one, two)
        finally:
            await runner.cleanup()

    results = asyncio.run(run())
    assert sorted(result.fetched for result in results) == [False, True]
    assert results[0].path.read_bytes() == ZIP
    assert len(gbif.ranges()) == 1


@pytest.mark.parametrize("in_a_loop", [True, False])
def test_the_plain_function_works_in_a_script_and_in_a_notebook(tmp_path: Path, in_a_loop: bool) -> None:
    gbif = Gbif()

    def call() -> Download:
        return download(DOI, gbif.url, tmp_path, user_agent=AGENT)

    async def cell() -> Download:
        """As in a notebook: a loop runs, and the code calls a plain function. The server needs a loop of its own."""
        return call()

    async def serve(ready: asyncio.Event, done: asyncio.Event) -> None:
        runner = await gbif.start()
        ready.set()
        await done.wait()
        await runner.cleanup()

    async def run() -> Download:
        ready, done = asyncio.Event(), asyncio.Event()
        server = asyncio.create_task(serve(ready, done))
        await ready.wait()
        result = await (asyncio.to_thread(asyncio.run, cell()) if in_a_loop else asyncio.to_thread(call))
        done.set()
        await server
        return result

    assert asyncio.run(run()).path.read_bytes() == ZIP
