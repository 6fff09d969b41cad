"""The loopback GBIF: one aiohttp server in a thread of this process that publishes sandbox data sets."""

import asyncio
import dataclasses
import socket
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from gbif_platform.errors import PlatformError
from gbif_platform.sandbox import descriptions, matching, registry
from gbif_platform.sandbox.answers import Refusal
from gbif_platform.sandbox.archive import SandboxDataset, write_archive
from gbif_platform.sandbox.behaviour import Behaviour
from gbif_platform.sandbox.derived import DerivedApi
from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.download_requests import RequestApi
from gbif_platform.sandbox.downloads import STATUSES, Download, DownloadApi
from gbif_platform.sandbox.faults import Corruption, Cut, Drop, Failure, Faults, retry_header
from gbif_platform.sandbox.media import ImageHost
from gbif_platform.sandbox.search import SearchApi
from gbif_platform.sandbox.world import World

DEFAULT_PORT = 8765
_HOST = "127.0.0.1"
_START_SECONDS = 10


class SandboxError(PlatformError):
    """The sandbox cannot serve."""


@dataclass(frozen=True)
class Received:
    """One request as it came in; `body` is empty for GET."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def user_agent(self) -> str:
        """The User-Agent that the client gave, empty without one."""
        return self.headers.get("User-Agent", "")


class Sandbox(Behaviour):
    """A GBIF of one's own on the loopback interface, for as long as the context lasts.

    Args:
        port: 0 takes a free one. Media URLs hold the port, so a later run knows the same pictures again
            only at the same port; `DEFAULT_PORT` is what the demo uses.
        users: names and passwords; by default `{"frog": "secret"}`.
        search_limit: the largest `offset + limit` of a search.

    The attributes of `Behaviour` may be set at any time; `requests` lists what came in, in order.
    Entering it raises SandboxError when the port is taken.
    """

    def __init__(self, port: int = 0, *, users: Mapping[str, str] | None = None, search_limit: int = 100_000) -> None:
        super().__init__(search_limit=search_limit)
        if users is not None:
            self.users = dict(users)
        self.requests: list[Received] = []
        self._port = port
        self._world, self._images = World(), ImageHost()
        self._downloads, self._derived, self._faults = DownloadApi(self), DerivedApi(self), Faults(self)
        self._counts: Counter[str] = Counter()
        self._published = 0

    def __enter__(self) -> Self:
        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        self._folder = TemporaryDirectory(prefix="gbif-sandbox-")
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve(listener, started)), name="sandbox", daemon=True)
        self._thread.start()
        self._loop, self._stopping = started.result(_START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8765`; GBIF's API is at `/v1` below."""
        return f"http://{_HOST}:{self._port}"

    def publish(self, dataset: SandboxDataset, *, user: str = "", created: datetime | None = None) -> Download:
        """Make a finished download of a data set, its records searchable from now on.

        Args:
            dataset: the records; of a gbifID published before, the new state replaces the old one.
            user: whose list of downloads it appears in; nobody's by default.
            created: its (aware) moment instead of the invented one.

        Its `key` and `doi` depend only on how many were published before.
        """
        self._published += 1
        identity = DownloadIdentity.nth(self._published)
        if created is not None:
            identity = dataclasses.replace(identity, created=created)
        archive = Path(self._folder.name) / f"{identity.key}.zip"
        write_archive(dataset, archive, self.url, identity)
        download = Download(identity, archive, dataset.records_by_publisher(), owner=user)
        if user:
            download.request |= {"creator": user, "notificationAddresses": []}
        self._images.add(dataset.media())
        self._world.add(dataset.occurrences())
        self._downloads.add(download)
        return download

    def records(self, dataset: SandboxDataset) -> None:
        """Let searches and requested downloads know these records alone, as after deletions; nothing is published."""
        self._images.add(dataset.media())
        self._world.replace(dataset.occurrences())

    def set_status(self, key: str, status: str) -> None:
        """Give a download (by key or DOI) any of GBIF's statuses, to stay until the next call."""
        if status not in STATUSES:
            raise ValueError(f"{status} is none of {', '.join(STATUSES)}")
        try:
            self._downloads.get(key).hold(status)
        except Refusal as unknown:
            raise KeyError(key) from unknown

    def fail_next(
        self,
        path: str,
        *,
        status: int = 503,
        retry_after: float | str | datetime | None = None,
        times: int = 1,
        method: str = "",
        text: str = "",
    ) -> None:
        """Answer the next requests with an error.

        Args:
            path: which paths, such as `/v1/occurrence/search`; `*` stands for anything.
            status: such as 429, 503 or 420.
            retry_after: seconds, or an aware UTC moment for the form of an HTTP date; no header by default.
            times: how many requests.
            method: of this method only, such as `POST`.
            text: the body.
        """
        self._faults.plan(Failure(path, times, method, status, retry_header(retry_after), text))

    def drop_next(self, path: str, *, after_headers: bool = False, times: int = 1) -> None:
        """Close the connection of the next requests before the answer, or after its headers."""
        self._faults.plan(Drop(path, times, after_headers=after_headers))

    def truncate_next(self, path: str, *, fraction: float = 0.5, times: int = 1) -> None:
        """State the right length of the next bodies, send a fraction and hang up; ranges are honoured before and after.

        A download's file is at `/static/occurrence/download/<key>.zip`; a pattern such as `*.zip` meets it too,
        since the redirect before it has no body.
        """
        self._faults.plan(Cut(path, times, fraction=fraction))

    def corrupt_next(self, path: str, *, at: float = 0.5, times: int = 1) -> None:
        """Send 64 wrong bytes at a fraction of the next bodies, whose length is right."""
        self._faults.plan(Corruption(path, times, at=at))

    def counts(self) -> dict[str, int]:
        """Requests answered so far, by path, with the method before it unless that is GET; as `GET /_counts`."""
        return dict(self._counts)

    def application(self) -> web.Application:
        """The routes of everything the sandbox serves."""
        requests = RequestApi(self._downloads, self._world, self, Path(self._folder.name), self.url)
        application = web.Application(middlewares=[self._receive, self._refuse])
        application.add_routes(
            [
                *requests.routes(),
                *descriptions.routes(),
                *self._downloads.routes(),
                *SearchApi(self._world, self).routes(),
                *matching.routes(),
                *registry.routes(),
                *self._derived.routes(),
                *self._images.routes(),
                web.get("/_counts", self._report),
            ]
        )
        return application

    @web.middleware
    async def _receive(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count and keep a request, then answer it with its fault if one is due."""
        if request.path == "/_counts":
            return await handler(request)
        plain = request.method in ("GET", "HEAD")
        self._counts[request.path if plain else f"{request.method} {request.path}"] += 1
        body = b"" if plain else await request.read()
        self.requests.append(Received(request.method, request.path, request.query_string, request.headers.copy(), body))
        return await self._faults.answer(request, handler)

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()

    async def _report(self, request: web.Request) -> web.Response:
        return web.json_response(self._counts)

    async def _serve(
        self, listener: socket.socket, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
    ) -> None:
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1)
        stopping = asyncio.Event()
        try:
            await runner.setup()
            await web.SockSite(runner, listener).start()
            started.set_result((asyncio.get_running_loop(), stopping))
            await stopping.wait()
        finally:
            await runner.cleanup()


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as trouble:
        raise SandboxError(
            f"the sandbox cannot listen on {_HOST}:{port}: {trouble.strerror}",
            "stop what uses that port (perhaps another sandbox), or choose another port",
        ) from trouble
