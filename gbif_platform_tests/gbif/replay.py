"""Servers for the client's tests: one that answers as GBIF was recorded to, one that answers by a script."""

import gzip
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer

PAGING = frozenset({"limit", "offset", "facetLimit", "facetOffset", "verbose", "strict", "statistics", "from"})
"""Parameters in which our requests may differ from the recorded ones."""
KEPT_HEADERS = ("content-type", "retry-after")


@dataclass(frozen=True)
class Recording:
    """One recorded request with GBIF's answer."""

    file: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    sent: Any
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def text(self) -> str:
        return self.body if isinstance(self.body, str) else json.dumps(self.body)

    def key(self, *, paging: bool) -> tuple[object, ...]:
        return _key(self.method, self.path, self.query, self.sent, paging=paging)


def recordings(folder: Path, pattern: str = "*/*.json*") -> list[Recording]:
    """The recorded interactions, in the order of their files."""
    return [_read(file) for file in sorted(folder.glob(pattern))]


def _read(file: Path) -> Recording:
    content = file.read_bytes()
    said = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
    request, response = said["request"], said["response"]
    address = urlsplit(request["uri"])
    return Recording(
        f"{file.parent.name}/{file.name}",
        request["method"],
        unquote(address.path),
        tuple(parse_qsl(address.query, keep_blank_values=True)),
        request["body"] or None,
        response["status"],
        {name: value for name, value in response["headers"].items() if name in KEPT_HEADERS},
        response["body"],
    )


def _key(method: str, path: str, query: Iterable[tuple[str, str]], sent: Any, *, paging: bool) -> tuple[object, ...]:
    kept = tuple(sorted(one for one in query if paging or one[0] not in PAGING))
    return method, path, kept, json.dumps(sent, sort_keys=True)


@dataclass
class Received:
    """What a server was asked."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Served:
    """A running server."""

    url: str
    requests: list[Received] = field(default_factory=list)


async def _received(request: web.Request) -> Received:
    text = await request.text()
    query = list(request.query.items())
    return Received(request.method, request.path, query, dict(request.headers), json.loads(text) if text else None)


@asynccontextmanager
async def _serving(handler: Any, served: Served) -> AsyncIterator[Served]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(application)
    await server.start_server()
    served.url = str(server.make_url("")).rstrip("/")
    try:
        yield served
    finally:
        await server.close()


@asynccontextmanager
async def replaying(recorded: Iterable[Recording], **headers: str) -> AsyncIterator[Served]:
    """GBIF as it was recorded: equal requests get the recorded answers in turn, the last one for ever.

    `headers` replace recorded ones, `retry_after="1"` for example.
    """
    turns: dict[tuple[object, ...], list[Recording]] = defaultdict(list)
    for recording in recorded:
        turns[recording.key(paging=True)].append(recording)
        turns[recording.key(paging=False)].append(recording)
    served = Served("")
    replaced = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request) -> web.Response:
        asked = await _received(request)
        served.requests.append(asked)
        for paging in (True, False):
            if turn := turns.get(_key(asked.method, asked.path, asked.query, asked.body, paging=paging)):
                recording = turn.pop(0) if len(turn) > 1 else turn[0]
                changed = {name: replaced.get(name, value) for name, value in recording.headers.items()}
                return web.Response(status=recording.status, body=recording.text.encode(), headers=changed)
        return web.Response(status=404, text=f"not recorded: {asked.method} {request.path_qs}")

    async with _serving(answer, served) as running:
        yield running


DROP = object()
"""In a script: close the connection without an answer."""


@asynccontextmanager
async def scripted(*answers: Any) -> AsyncIterator[Served]:
    """A server that gives these answers in turn, the last one for ever: (status, body, headers), or DROP."""
    served = Served("")
    waiting = list(answers)

    async def answer(request: web.Request) -> web.Response:
        served.requests.append(await _received(request))
        given = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if given is DROP:
            assert request.transport
            request.transport.abort()
            return web.Response()
        status, body, headers = given
        content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        return web.Response(status=status, body=content, headers={"Content-Type": "application/json"} | headers)

    async with _serving(answer, served) as running:
        yield running
