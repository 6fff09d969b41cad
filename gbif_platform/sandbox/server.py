"""The loopback GBIF: one aiohttp server in a thread of this process that publishes sandbox data sets."""

import asyncio
import socket
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from gbif_platform.errors import PlatformError
from gbif_platform.sandbox.archive import SandboxDataset, write_archive
from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.downloads import Download, DownloadApi
from gbif_platform.sandbox.media import ImageHost

DEFAULT_PORT = 8765
_HOST = "127.0.0.1"
_START_SECONDS = 10


class SandboxError(PlatformError):
    """The sandbox cannot serve."""


class Sandbox:
    """A GBIF of one's own on the loopback interface, for as long as the context lasts.

    Args:
        port: 0 takes a free one. Media URLs hold the port, so a later run knows the same pictures again
            only at the same port; `DEFAULT_PORT` is what the demo uses.

    Entering it raises SandboxError when the port is taken.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._downloads, self._images = DownloadApi(), ImageHost()
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

    def publish(self, dataset: SandboxDataset) -> Download:
        """Make a finished download of a data set; its `key` and `doi` depend only on how many were published before."""
        self._published += 1
        identity = DownloadIdentity.nth(self._published)
        archive = Path(self._folder.name) / f"{identity.key}.zip"
        write_archive(dataset, archive, self.url, identity)
        download = Download(identity, archive, dataset.records_by_publisher())
        self._images.add(dataset.media())
        self._downloads.add(download)
        return download

    def counts(self) -> dict[str, int]:
        """Requests answered so far, by path; the same as `GET /_counts`."""
        return dict(self._counts)

    def application(self) -> web.Application:
        """The routes of everything the sandbox serves."""
        application = web.Application(middlewares=[self._count])
        application.add_routes([*self._downloads.routes(), *self._images.routes(), web.get("/_counts", self._report)])
        return application

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/_counts":
            self._counts[request.path] += 1
        return await handler(request)

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
