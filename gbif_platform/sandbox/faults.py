"""What goes wrong on the way to the sandbox when a test asks for it: refusals, dropped and cut answers, wrong bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase
from threading import Lock

from aiohttp import web
from aiohttp.typedefs import Handler

from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.downloads import ArchiveFile

_REASONS = {420: "Enhance Your Calm"}
_WRONG_BYTES = 64
_TOO_MANY = ["To download GBIF occurrence data in bulk, please request a download.", "This is the sandbox's GBIF."]


@dataclass
class Fault:
    """One planned fault for paths of a pattern, for the next `times` requests; subclasses say what happens."""

    pattern: str
    times: int = 1
    method: str = ""

    def meets(self, request: web.Request) -> bool:
        """Whether it is still to come and meant for this request."""
        return (
            self.times > 0 and fnmatchcase(request.path, self.pattern) and self.method.upper() in ("", request.method)
        )


@dataclass
class Failure(Fault):
    """An error answer."""

    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    def response(self) -> web.Response:
        """What is answered instead; a 429 has the form that was recorded, a JSON list of sentences."""
        if self.status == 429 and not self.text:
            return web.json_response(_TOO_MANY, status=429, headers=self.headers)
        return web.Response(
            status=self.status, reason=_REASONS.get(self.status), headers=self.headers, text=self.text or None
        )


@dataclass
class Drop(Fault):
    """A connection closed before anything, or after the headers."""

    after_headers: bool = False


@dataclass
class Cut(Fault):
    """A body that ends at a fraction of its stated length."""

    fraction: float = 0.5


@dataclass
class Corruption(Fault):
    """A body with some wrong bytes at a fraction of its length."""

    at: float = 0.5


class Faults:
    """The planned faults; of several for one request the one planned first comes first."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._planned: list[Fault] = []
        self._lock = Lock()

    def plan(self, fault: Fault) -> None:
        """Let it happen at the next requests that it is meant for."""
        with self._lock:
            self._planned.append(fault)

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, with its fault if one is due."""
        if self._behaviour.network_lost:
            return _dropped(request)
        if self._behaviour.down:
            return web.Response(status=503, text="Service Unavailable")
        early = self._due(request, Failure, Drop)
        if isinstance(early, Failure):
            return early.response()
        if isinstance(early, Drop):
            return await _headers_only(request) if early.after_headers else _dropped(request)
        response = await handler(request)
        # A fault of the body waits for an answer that has one: redirects do not use it up.
        if _has_body(response) and (late := self._due(request, Cut, Corruption)):
            return await _spoilt(request, response, late)
        return response

    def _due(self, request: web.Request, *kinds: type[Fault]) -> Fault | None:
        with self._lock:
            fault = next((each for each in self._planned if isinstance(each, kinds) and each.meets(request)), None)
            if fault:
                fault.times -= 1
            self._planned = [each for each in self._planned if each.times > 0]
            return fault


def retry_header(value: float | str | datetime | None) -> dict[str, str]:
    """The header in either form: seconds, or an HTTP date made of an aware (UTC) moment."""
    if value is None:
        return {}
    return {"Retry-After": format_datetime(value, usegmt=True) if isinstance(value, datetime) else str(value)}


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=500)  # never arrives


async def _headers_only(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    _dropped(request)
    return response


def _has_body(response: web.StreamResponse) -> bool:
    return isinstance(response, ArchiveFile) or (isinstance(response, web.Response) and bool(response.body))


async def _spoilt(request: web.Request, whole: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    """The same answer, range and all, with wrong bytes or cut short."""
    body = _body(whole)
    if isinstance(fault, Corruption):
        body = _corrupted(body, fault.at)
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    if isinstance(whole, ArchiveFile):
        body = _ranged(request, response, body, whole)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: int(len(body) * fault.fraction)] if isinstance(fault, Cut) else body)
    if isinstance(fault, Cut):
        _dropped(request)
    return response


def _body(whole: web.StreamResponse) -> bytes:
    if isinstance(whole, ArchiveFile):
        return whole.file.read_bytes()
    body = whole.body if isinstance(whole, web.Response) else b""
    return bytes(body) if isinstance(body, bytes | bytearray) else b""


def _corrupted(body: bytes, at: float) -> bytes:
    start = int(len(body) * at)
    wrong = bytes(byte ^ 0xFF for byte in body[start : start + _WRONG_BYTES])
    return body[:start] + wrong + body[start + _WRONG_BYTES :]


def _ranged(request: web.Request, response: web.StreamResponse, body: bytes, file: ArchiveFile) -> bytes:
    """The asked part of a file and its headers, the ETag as aiohttp's file response would write it."""
    known = file.file.stat()
    response.etag = f"{known.st_mtime_ns:x}-{known.st_size:x}"
    response.last_modified = known.st_mtime
    response.headers["Accept-Ranges"] = "bytes"
    start, stop, _ = request.http_range.indices(len(body))
    if "Range" in request.headers and start < stop:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        return body[start:stop]
    return body
