"""One HTTP request: the bytes of a body, a redirect, or a typed trouble. It always ends within its deadline."""

import asyncio
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import urljoin

import aiohttp
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from gbif_platform.images.addresses import BadURLError, ForbiddenAddressError, guarded_connector, web_url
from gbif_platform.images.robots import refused_by
from gbif_platform.retry_after import retry_after

CHUNK = 256 * 1024
# Of a body, before the transport is asked to pause: most pictures come without a pause.
READ_AHEAD = 1024 * 1024
VALIDATOR_LENGTH = 200
GZIP_MAGIC = b"\x1f\x8b"
REDIRECTS = {301, 302, 303, 307, 308}
# RFC 9110: what says when to come back.
RETRY_AFTER_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class FetchOptions(BaseModel):
    """How pictures are asked for. Times in seconds.

    Attributes:
        concurrency: pictures in work at a time, all hosts together. At worst each holds `max_bytes` of memory.
        per_host: requests in flight to one host, at most; a few at first, more while it answers well.
        processes: 1 = ask and decode in this process; more = in so many others, each with an event loop of its own.
        connect_timeout: for the name look-up, TCP and TLS together.
        stall_timeout: longest wait for the next byte, the first included; None = half of the deadline, at least 15.
        deadline: for one request as a whole.
        retries: further tries within a run; time-outs get one at most.
        backoff: longest wait before the second try, drawn at random below it; doubles with each further one.
        max_pause: a host that asks for a longer pause (Retry-After) is left alone for the rest of the run.
        max_bytes: of a body, also after decompression.
        decode_threads: pictures decoded at a time where `processes` is 1; None = one per CPU.
        robots: directives in an answer's headers that keep its picture from being taken; see `images.robots`.
        gbif_cache: base address of GBIF's image cache, asked where a host fails; None = it is not asked.
        contact: an address or a page that a host's people can turn to; goes into the user agent.
        allow_private: also ask machines that are not on the open internet (sandbox, tests).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=32, ge=1)
    per_host: int = Field(default=16, ge=1)
    processes: int = Field(default=1, ge=1)
    connect_timeout: float = Field(default=10, gt=0)
    stall_timeout: float | None = Field(default=None, gt=0)
    deadline: float = Field(default=30, gt=0)
    retries: int = Field(default=3, ge=0)
    backoff: float = Field(default=1.0, ge=0)
    max_pause: float = Field(default=120, ge=0)
    max_redirects: int = Field(default=5, ge=0)
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    max_pixels: int = Field(default=100_000_000, ge=1)
    decode_threads: int | None = Field(default=None, ge=1)
    user_agent: str = f"gbif-platform/{version('gbif-platform')}"
    contact: str = ""
    robots: frozenset[str] = frozenset()
    gbif_cache: str | None = None
    allow_private: bool = False

    @property
    def patience(self) -> float:
        """The `stall_timeout` in force."""
        return max(15.0, self.deadline / 2) if self.stall_timeout is None else self.stall_timeout

    @property
    def headers(self) -> dict[str, str]:
        """What every request says about us and about what we take."""
        agent = f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent
        return {"User-Agent": agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}


class Trouble(Exception):
    """Why a request gave no body. `reason` is one of `images.reasons`; `pause` is the Retry-After in seconds."""

    def __init__(self, reason: str, detail: str = "", status: int | None = None, pause: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.status = status
        self.pause = pause


@dataclass(frozen=True)
class Body:
    """The bytes of an answer, after content-decoding, and how the host tells this version from others."""

    data: bytes
    status: int
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True)
class Unchanged:
    """The answer to a conditional request: what we have is what there is."""

    status: int = 304


@dataclass(frozen=True)
class Redirect:
    """Where the host sends us; checked by the next request."""

    target: URL


def open_session(options: FetchOptions) -> aiohttp.ClientSession:
    """A session that keeps connections but no cookies, takes nothing from the environment and connects as allowed."""
    return aiohttp.ClientSession(
        connector=guarded_connector(options.allow_private),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=options.headers,
        # Decompression is done here, under the byte limit.
        auto_decompress=False,
        read_bufsize=READ_AHEAD,
        timeout=aiohttp.ClientTimeout(total=None, connect=options.connect_timeout, sock_read=options.patience),
    )


async def request(
    session: aiohttp.ClientSession,
    target: URL,
    options: FetchOptions,
    *,
    etag: str | None = None,
    last_modified: str | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> Body | Redirect | Unchanged:
    """Ask once, following nothing.

    Args:
        etag, last_modified: of what we have; the host then sends a body only if it is another (RFC 9110, 13.1).
        on_answer: called when the head of an answer is there.

    Raises:
        Trouble: for every other outcome.
    """
    conditions = {"If-None-Match": etag, "If-Modified-Since": last_modified}
    headers = {name: value for name, value in conditions.items() if value}
    try:
        async with (
            asyncio.timeout(options.deadline),
            session.get(target, allow_redirects=False, headers=headers) as response,
        ):
            on_answer()
            try:
                if response.status == 304 and headers:
                    return Unchanged()
                return await _answer(response, options)
            finally:
                # What is not read to its end is not worth reading: the connection goes.
                if not response.content.is_eof():
                    response.close()
    except TimeoutError as error:  # aiohttp's own time-outs are subclasses
        raise Trouble("timeout", _limit_met(error, options)) from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise Trouble(_reason_of(error), f"{type(error).__name__}: {error}") from error


def _limit_met(error: TimeoutError, options: FetchOptions) -> str:
    if isinstance(error, aiohttp.SocketTimeoutError):
        return f"no byte for {options.patience:g} s"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {options.connect_timeout:g} s"
    return str(error) or f"not complete after {options.deadline:g} s"


async def _answer(response: aiohttp.ClientResponse, options: FetchOptions) -> Body | Redirect:
    status = response.status
    if status in REDIRECTS:
        return Redirect(_redirect_target(response))
    if status == 204:
        raise Trouble("empty_body", "HTTP 204", status)
    if status not in (200, 203):
        pause = retry_after(response.headers.get("Retry-After")) if status in RETRY_AFTER_STATUSES else None
        raise Trouble(f"http_{status}", response.reason or "", status, pause)
    if directive := refused_by(response.headers.items(), options.robots):
        raise Trouble("robots", directive, status)
    if (response.content_length or 0) > options.max_bytes:
        raise Trouble("too_many_bytes", f"{response.content_length} bytes announced", status)
    decoder = _Decoder(response.headers.get("Content-Encoding", ""), options.max_bytes)
    async for chunk in response.content.iter_chunked(CHUNK):
        decoder.feed(chunk)
    return Body(decoder.finish(), status, _validator(response, "ETag"), _validator(response, "Last-Modified"))


def _validator(response: aiohttp.ClientResponse, name: str) -> str | None:
    """A header that is sent back one day; None where it is nothing that one would send."""
    value = response.headers.get(name, "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= VALIDATOR_LENGTH else None


def _redirect_target(response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location", "")
    if not location:
        raise Trouble("bad_redirect", "no Location", response.status)
    try:
        return web_url(urljoin(str(response.url), location))
    except BadURLError as error:
        raise Trouble(error.reason, f"redirected to {location[:200]!r}: {error.detail}", response.status) from error
    except ValueError as error:
        raise Trouble("bad_redirect", f"{location[:200]!r}: {error}", response.status) from error


class _Decoder:
    """Collects a body, undoing gzip or deflate, and never holds more than the limit."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._name = encoding.strip().lower()
        self._max_bytes = max_bytes
        self._received = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._zlib = self._decompressor()

    def feed(self, chunk: bytes) -> None:
        self._received += len(chunk)
        self._check(self._received)
        for part in self._decoded(chunk):
            self._size += len(part)
            self._check(self._size)
            self._parts.append(part)

    def finish(self) -> bytes:
        if self._zlib is not None and self._received:
            self._parts.append(self._zlib.flush())
            if not self._zlib.eof:
                raise Trouble("truncated_transfer", f"the {self._name} stream has no end", 200)
        return b"".join(self._parts)

    def _decompressor(self) -> "zlib._Decompress | None":
        if self._name in ("", "identity"):
            return None
        if self._name in ("gzip", "x-gzip", "deflate"):
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
        raise Trouble("bad_encoding", f"Content-Encoding: {self._name}, which was not asked for", 200)

    def _decoded(self, chunk: bytes) -> Iterator[bytes]:
        if self._zlib is None:
            yield chunk
            return
        try:
            while chunk:
                if self._zlib.eof:
                    if not chunk.startswith(GZIP_MAGIC):  # padding, which browsers pass over too
                        return
                    # Several members in a row are one stream (RFC 1952, 2.2).
                    self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
                yield self._zlib.decompress(chunk, CHUNK)
                chunk = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        except zlib.error as error:
            raise Trouble("bad_encoding", f"{self._name}: {error}", 200) from error

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise Trouble("too_many_bytes", f"more than {self._max_bytes}", 200)


def _reason_of(error: BaseException) -> str:
    """The reason for a failure below HTTP: the first link in the chain of causes that names one."""
    # aiohttp reports a reset within a body as an incomplete payload and names the reset only in the text.
    if isinstance(error, aiohttp.ClientPayloadError) and "ConnectionResetError" in str(error):
        return "connection_reset"
    link: BaseException | None = error
    while link is not None:
        for kind, reason in NETWORK_REASONS:
            if isinstance(link, kind):
                return reason
        link = getattr(link, "os_error", None) or link.__cause__ or link.__context__
    return "network_error"


# Special before general: several of these are subclasses of OSError and of each other.
NETWORK_REASONS: list[tuple[type[BaseException], str]] = [
    (ForbiddenAddressError, "forbidden_address"),
    (socket.gaierror, "host_not_found"),
    (ssl.SSLError, "tls_error"),
    (ssl.CertificateError, "tls_error"),
    (ConnectionRefusedError, "connection_refused"),
    (ConnectionResetError, "connection_reset"),
    (BrokenPipeError, "connection_reset"),
    (aiohttp.ServerDisconnectedError, "connection_reset"),
    (TimeoutError, "timeout"),  # the kernel gave up connecting
    (aiohttp.InvalidURL, "invalid_url"),
    (UnicodeError, "invalid_url"),  # a host name that IDNA refuses
    (aiohttp.ClientPayloadError, "truncated_transfer"),
    (aiohttp.ClientResponseError, "bad_response"),
]
