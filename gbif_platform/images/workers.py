"""Worker processes: requests are spread over them, and one that dies is replaced."""

import asyncio
import logging
import sys
from collections.abc import Callable
from types import TracebackType

from gbif_platform.errors import PlatformError
from gbif_platform.images.asker import Answer, Ask, Message
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.transform import Transform
from gbif_platform.images.worker import STREAM_BUFFER, frame, read_frame

logger = logging.getLogger(__name__)

# -P: a file of the user's that is named like a library's is not taken for it.
COMMAND = (sys.executable, "-P", "-m", "gbif_platform.images.worker")
STARTS_IN_VAIN = 3
EXIT_SECONDS = 5
# Far more than any picture takes.
DECODING_SECONDS = 120.0
# Of what a process writes to its standard error, its end.
LAST_WORDS = 4096


class WorkersFailed(PlatformError):
    """The fetching processes end before they have done anything."""


class _Worker:
    """One place, filled by one process after another.

    Attributes:
        unsent: not yet given to a process.
        asked: given to it and not yet answered.
        has_started, ready: whether its last process has been at work, and whether it is now.
        last_words: the end of what its last process writes to its standard error.
        heard_at: when it last sent anything, or was given something to do while it had nothing.
    """

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.last_words: asyncio.Task[str] | None = None
        self.unsent: list[Ask] = []
        self.asked: dict[int, Ask] = {}
        self.has_started = False
        self.ready = False
        self.heard_at = 0.0

    @property
    def load(self) -> tuple[bool, int]:
        """The smaller, the better; a process that is yet to start comes last."""
        return not self.ready, len(self.unsent) + len(self.asked)

    def send(self) -> None:
        """Give all that is unsent to the process, if there is one."""
        if not (self.ready and self.unsent):
            return
        assert self.process is not None
        assert self.process.stdin is not None
        if not self.asked:
            self.heard_at = asyncio.get_running_loop().time()
        self.process.stdin.write(frame(self.unsent))
        self.asked.update((ask.number, ask) for ask in self.unsent)
        self.unsent.clear()


class Workers:
    """Asks and decodes in `options.processes` other processes; an asynchronous context manager, as `Asker` is.

    Args:
        deliver: gets the messages; what a dead worker had in hand is answered with `worker_lost`.
        fail: gets the error when workers cannot be had.
    """

    def __init__(
        self,
        options: FetchOptions,
        transform: Transform,
        deliver: Callable[[list[Message]], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._setup = frame((options, transform))
        self._patience = options.deadline + DECODING_SECONDS
        self._deliver = deliver
        self._fail = fail
        self._workers = [_Worker() for _ in range(options.processes)]
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Workers":
        self._tasks = [self._loop.create_task(self._keep(worker)) for worker in self._workers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(_end_of(worker.process) for worker in self._workers if worker.process is not None))

    def ask(self, ask: Ask) -> None:
        """Begin a request where there is least to do."""
        worker = min(self._workers, key=lambda worker: worker.load)
        if not worker.unsent:
            self._loop.call_soon(worker.send)  # together with those that follow at once
        worker.unsent.append(ask)

    async def _keep(self, worker: _Worker) -> None:
        """Keep one place filled."""
        in_vain = 0
        while True:
            try:
                how, last_words = await self._serve_once(worker)
            except Exception as error:
                self._fail(error)
                return
            in_vain = 0 if worker.has_started else in_vain + 1
            if in_vain == STARTS_IN_VAIN:
                self._fail(_cannot_start(how, last_words))
                return
            if worker.has_started:
                logger.warning("%s; it wrote last:\n%s", how, last_words or "(nothing)")
            lost, worker.asked = worker.asked, {}
            if lost:
                self._deliver([Answer(number, "worker_lost", how) for number in lost])

    async def _serve_once(self, worker: _Worker) -> tuple[str, str]:
        """Start a process and hear it out; returns how it ended, and what it wrote last to its standard error."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, limit=STREAM_BUFFER
        )  # fmt: skip
        worker.process, worker.has_started = process, False
        assert process.stderr is not None
        # Never cancelled: a process whose pipes are not read to their end counts as running.
        worker.last_words = self._loop.create_task(_last_words(process.stderr))
        await self._hear(worker, process)
        code = await process.wait()
        end = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        return f"a fetching process {end}", await worker.last_words

    async def _hear(self, worker: _Worker, process: asyncio.subprocess.Process) -> None:
        """Give a process its work and deliver what it answers, to its end."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._setup)
        watch = self._loop.create_task(self._watch(worker, process))
        try:
            worker.ready = worker.has_started = await read_frame(process.stdout)
            worker.send()
            while True:
                messages = await read_frame(process.stdout)
                worker.heard_at = self._loop.time()
                for message in messages:
                    if isinstance(message, Answer):
                        del worker.asked[message.number]
                self._deliver(messages)
        except asyncio.IncompleteReadError:
            pass
        finally:
            worker.ready = False
            watch.cancel()

    async def _watch(self, worker: _Worker, process: asyncio.subprocess.Process) -> None:
        """End a process that says nothing although every request in it is long over: a decoder that never ends."""
        while True:
            await asyncio.sleep(min(1.0, self._patience))
            if worker.asked and self._loop.time() - worker.heard_at > self._patience:
                process.kill()
                return


async def _last_words(stream: asyncio.StreamReader) -> str:
    """Read to the end, so that nobody waits for room in the pipe, and keep the last of it.

    Libraries in C complain there of every other picture, without its URL: what is wrong with one is in its result.
    """
    kept = b""
    while chunk := await stream.read(STREAM_BUFFER):
        kept = (kept + chunk)[-LAST_WORDS:]
    return kept.decode("utf-8", "replace").strip()


def _cannot_start(how: str, last_words: str) -> WorkersFailed:
    why = f": {last_words.splitlines()[-1]}" if last_words else ""
    heard = f"; it wrote last:\n{last_words}" if last_words else ""
    return WorkersFailed(
        f"a process for fetching cannot be started: {how}{why}", f"with fetch_processes = 1 none are needed{heard}"
    )


async def _end_of(process: asyncio.subprocess.Process) -> None:
    """End a process by ending its input; by force where that is not enough."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
