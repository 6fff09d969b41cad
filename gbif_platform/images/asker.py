"""Single requests and what is made of their bodies: the part of fetching that runs beside an event loop of any process.

An `Asker` is given `Ask`s and posts what comes of them: always one `Answer`, and before it a `Released` where the body
is there and its decoding follows, or a `Hanging` where the first byte keeps us waiting.
"""

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from types import TracebackType
from typing import NamedTuple

import aiohttp
from yarl import URL

from gbif_platform.images.request import Body, FetchOptions, Redirect, Trouble, open_session, request
from gbif_platform.images.transform import ImageRefused, Picture, Transform, transform_image

# A first byte that takes longer is waited for without holding up others.
HANGING_SECONDS = 3.0


class Ask(NamedTuple):
    """One request.

    Attributes:
        number: names it in what is posted.
        url: checked and encoded (`addresses.web_url`).
        etag, last_modified: ask only for another version than this.
    """

    number: int
    url: str
    etag: str | None = None
    last_modified: str | None = None


class Released(NamedTuple):
    """The body is there: the host has no more work with it."""

    number: int


class Hanging(NamedTuple):
    """Nothing has come for HANGING_SECONDS."""

    number: int


class Answer(NamedTuple):
    """What came of a request: a picture, a redirect, nothing new (304), or a reason.

    Attributes:
        reason, detail, pause: as of `request.Trouble`; the reason is empty where there is none.
        status: HTTP.
        target: of a redirect.
        source_sha256, source_bytes: of the body.
        sha256: of the picture's data.
        original: the body, where the transform keeps originals.
        etag, last_modified: of the body.
        trace: of an error that is a fault of ours.
    """

    number: int
    reason: str = ""
    detail: str = ""
    status: int | None = None
    pause: float | None = None
    target: str = ""
    source_sha256: str | None = None
    source_bytes: int | None = None
    picture: Picture | None = None
    sha256: str | None = None
    original: bytes | None = None
    etag: str | None = None
    last_modified: str | None = None
    trace: str = ""


Message = Released | Hanging | Answer


class Outbox:
    """Collects messages from any thread and delivers them together, in the event loop.

    Args:
        delay: seconds that a message waits for others.
    """

    def __init__(self, deliver: Callable[[list[Message]], None], delay: float = 0.0) -> None:
        self._deliver = deliver
        self._delay = delay
        self._messages: deque[Message] = deque()
        self._due = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def post(self, message: Message) -> None:
        """Deliver it soon."""
        # First the message, then the look: a delivery that is on its way either sees it or is not due any more.
        self._messages.append(message)
        if not self._due:
            self._due = True
            if threading.get_ident() == self._thread:
                self._loop.call_later(self._delay, self._flush)
            else:
                self._loop.call_soon_threadsafe(self._loop.call_later, self._delay, self._flush)

    def _flush(self) -> None:
        self._due = False
        messages = [self._messages.popleft() for _ in range(len(self._messages))]
        if messages:
            self._deliver(messages)


class Asker:
    """Asks and decodes; an asynchronous context manager, whose end is the end of all its requests.

    Args:
        threads: pictures decoded at a time, beside the event loop: a slow one never holds up the network.
    """

    def __init__(self, options: FetchOptions, transform: Transform, outbox: Outbox, *, threads: int) -> None:
        self._options = options
        self._transform = transform
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Asker":
        self._session = open_session(self._options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def ask(self, ask: Ask) -> None:
        """Begin a request."""
        task = self._loop.create_task(self._request(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, ask: Ask) -> None:
        patience = self._loop.call_later(HANGING_SECONDS, self._outbox.post, Hanging(ask.number))
        try:
            answer = await request(
                self._session,
                URL(ask.url, encoded=True),
                self._options,
                etag=ask.etag,
                last_modified=ask.last_modified,
                on_answer=patience.cancel,
            )
        except Trouble as trouble:
            self._outbox.post(Answer(ask.number, trouble.reason, trouble.detail, trouble.status, trouble.pause))
        except Exception as error:
            self._outbox.post(_fault(ask.number, error))
        else:
            if isinstance(answer, Body):
                self._outbox.post(Released(ask.number))
                self._threads.submit(self._decode, ask, answer)
            elif isinstance(answer, Redirect):
                self._outbox.post(Answer(ask.number, target=str(answer.target)))
            else:
                self._outbox.post(Answer(ask.number, status=answer.status))
        finally:
            patience.cancel()

    def _decode(self, ask: Ask, body: Body) -> None:
        """Everything that costs CPU, in a thread."""
        try:
            answer = made_of(ask.number, body, self._transform, self._options.max_pixels)
        except Exception as error:
            answer = _fault(ask.number, error)
        self._outbox.post(answer)


def made_of(number: int, body: Body, transform: Transform, max_pixels: int) -> Answer:
    """The picture in a body, or why there is none."""
    received = sha256(body.data).hexdigest()
    answer = Answer(
        number, status=body.status, source_sha256=received, source_bytes=len(body.data), etag=body.etag,
        last_modified=body.last_modified,
    )  # fmt: skip
    try:
        picture = transform_image(body.data, transform, max_pixels=max_pixels)
    except ImageRefused as refusal:
        return answer._replace(reason=refusal.reason, detail=refusal.detail)
    original = body.data if transform.keep_original else None
    return answer._replace(picture=picture, sha256=sha256(picture.data).hexdigest(), original=original)


def _fault(number: int, error: Exception) -> Answer:
    # A fault of ours must not end a run of millions: it is counted like every other. Its trace is logged by the run's
    # own process: what a worker logs is heard by nobody.
    return Answer(
        number, "internal_error", f"{type(error).__name__}: {error}", trace="".join(traceback.format_exception(error))
    )
