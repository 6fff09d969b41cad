"""A process that asks and decodes for another one: `python -m gbif_platform.images.worker`.

It reads frames of `Ask`s from its standard input and writes frames of messages to its standard output; a frame is a
length and a pickled list, so that many messages cost little more than one. It ends with its input: nobody is left
behind when the process it works for is killed.
"""

import asyncio
import logging
import os
import pickle
import signal
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from gbif_platform.images.asker import Asker, Message, Outbox
from gbif_platform.images.request import FetchOptions
from gbif_platform.images.transform import Transform

LENGTH = struct.Struct("!Q")
# Said once, when all is loaded.
READY = True
STREAM_BUFFER = 2**20
# Long enough to send several messages together, short beside any answer from the internet.
GATHER_SECONDS = 0.002


def frame(value: object) -> bytes:
    """A value as it goes through the pipe."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(data)) + data


async def read_frame(stream: asyncio.StreamReader) -> Any:
    """The next value.

    Raises:
        asyncio.IncompleteReadError: the pipe has ended.
    """
    (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
    return pickle.loads(await stream.readexactly(length))  # noqa: S301 - from our own process


async def serve(incoming: int, outgoing: int) -> None:
    """Work for the process behind these file descriptors until it closes its end."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(STREAM_BUFFER)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(incoming, "rb", 0))
    pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(outgoing, "wb", 0))

    def deliver(messages: list[Message]) -> None:
        pipe.write(frame(messages))

    with suppress(asyncio.IncompleteReadError):
        options, transform = await read_frame(stream)
        pipe.write(frame(READY))
        await _work(stream, options, transform, Outbox(deliver, GATHER_SECONDS))


async def _work(stream: asyncio.StreamReader, options: FetchOptions, transform: Transform, outbox: Outbox) -> None:
    # Name look-ups block: as many as pictures in work, so that dead names do not hold up the others.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(options.concurrency))
    async with Asker(options, transform, outbox, threads=1) as asker:
        while True:
            for ask in await read_frame(stream):
                asker.ask(ask)


def main() -> None:
    """Serve standard input and output, and keep everybody else away from them."""
    # numba would load a good part of scipy, a third of this process's start, for products of matrices: none are here.
    sys.modules["scipy"] = None  # type: ignore[assignment]
    # Standard error is kept for what ends a process; Pillow's remarks on single pictures would drive it out.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that we work for
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    asyncio.run(_until_end(incoming, outgoing))


async def _until_end(incoming: int, outgoing: int) -> None:
    try:
        await serve(incoming, outgoing)
    finally:
        # A name look-up or a decoder may be busy for long yet: nobody waits for it.
        os._exit(0)


if __name__ == "__main__":
    main()
