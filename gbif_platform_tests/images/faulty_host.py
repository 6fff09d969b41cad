"""A loopback web server that misbehaves on request: the path says how. Runs in a thread of its own."""

import asyncio
import gzip
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from io import BytesIO

from PIL import Image


@cache
def picture(number: int = 0, side: int = 64) -> bytes:
    """A JPEG; every number gives other bytes."""
    image = Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 10 + number).convert("RGB")
    buffer = BytesIO()
    image.save(buffer, "JPEG", comment=str(number).encode())
    return buffer.getvalue()


PAGE = b"<!DOCTYPE html><html><head><title>Terms of use</title></head><body>Please agree.</body></html>"
BOMB_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Seen:
    """One request as the host saw it."""

    time: float
    target: str
    headers: dict[str, str]


class Bucket:
    """A limit of `rate` requests a second, of which `burst` may be saved up."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = float(burst), time.monotonic()
        self.refusals: list[float] = []

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            self.refusals.append(now)
            return False
        self._tokens -= 1
        return True


class FaultyHost:
    """Use as a context manager. `url(path)` gives an address, `seen` lists the requests."""

    def __init__(self, address: str = "127.0.0.1", delay: float = 0.0, bucket: Bucket | None = None) -> None:
        self.address = address
        self.delay = delay
        self.bucket = bucket
        self.seen: list[Seen] = []
        self._counts: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "FaultyHost":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def url(self, path: str) -> str:
        return f"http://{self.address}:{self.port}/{path}"

    def targets(self) -> list[str]:
        return [seen.target.removeprefix("/") for seen in self.seen]

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await self._connection(reader, writer)

        server = await asyncio.start_server(connected, self.address, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                target = head[0].split(" ")[1]
                headers = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
                self.seen.append(Seen(time.monotonic(), target, headers))
                kind, _, rest = target.strip("/").partition("?")[0].partition("/")
                if self.delay:
                    await asyncio.sleep(self.delay)
                self._counts[target] += 1
                reply = Reply(writer, rest, self._counts[target], headers)
                if self.bucket is not None and not self.bucket.take():
                    reply.send(429, Retry_After="2")
                else:
                    await BEHAVIOURS[kind](reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@dataclass(frozen=True)
class Reply:
    """What a behaviour needs: where to write, the rest of the path, how often it was asked for, the headers."""

    writer: asyncio.StreamWriter
    rest: str
    times: int
    headers: dict[str, str]

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode("utf-8") + body)

    def hang_up(self) -> None:
        raise ConnectionAbortedError

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()
        raise ConnectionAbortedError


async def good(reply: Reply) -> None:
    reply.send(200, picture(int(reply.rest or 0)), Content_Type="image/jpeg")


async def status(reply: Reply) -> None:
    reply.send(int(reply.rest), b"" if reply.rest == "204" else b"<html>no</html>")


async def flaky(reply: Reply) -> None:
    reply.send(500) if reply.times == 1 else reply.send(200, picture())


async def busy_seconds(reply: Reply) -> None:
    reply.send(429, Retry_After="1") if reply.times == 1 else reply.send(200, picture())


async def busy_date(reply: Reply) -> None:
    later = formatdate(time.time() + 2, usegmt=True)
    reply.send(503, Retry_After=later) if reply.times == 1 else reply.send(200, picture())


async def closed_for_hours(reply: Reply) -> None:
    reply.send(429, Retry_After="7200")


async def closed_for_ever(reply: Reply) -> None:
    reply.send(429, Retry_After="Fri, 31 Dec 9999 23:59:59 -1200")


async def busy_nonsense(reply: Reply) -> None:
    reply.send(429, Retry_After="Fri, 31 Dec 2027 23:59:59 +99999999999999999999")


async def drip(reply: Reply) -> None:
    reply.send(200, length=100_000)
    while True:
        reply.writer.write(b"\xff")
        await reply.writer.drain()
        await asyncio.sleep(0.05)


async def drip_headers(reply: Reply) -> None:
    reply.writer.write(b"HTTP/1.1 200 X\r\nX-Slow: ")
    while True:
        reply.writer.write(b"x")
        await reply.writer.drain()
        await asyncio.sleep(0.05)


async def silent(_: Reply) -> None:
    await asyncio.sleep(60)


async def stall(reply: Reply) -> None:
    reply.send(200, length=100_000)
    await reply.writer.drain()
    await asyncio.sleep(60)


async def reset(reply: Reply) -> None:
    reply.send(200, picture()[:1000], length=100_000)
    await reply.writer.drain()
    await asyncio.sleep(0.05)
    reply.reset()


async def hang_up(reply: Reply) -> None:
    reply.hang_up()


async def cut(reply: Reply) -> None:
    reply.send(200, picture()[:1000], length=len(picture()))
    await reply.writer.drain()
    reply.hang_up()


async def cut_chunks(reply: Reply) -> None:
    reply.writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + picture()[:16] + b"\r\n")
    await reply.writer.drain()
    reply.hang_up()


async def half(reply: Reply) -> None:
    reply.send(200, picture(side=200)[:2000])


async def garbage(reply: Reply) -> None:
    reply.writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
    await reply.writer.drain()
    reply.hang_up()


async def endless(reply: Reply) -> None:
    reply.writer.write(b"HTTP/1.1 200 X\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff\xe0")
    while True:
        reply.writer.write(bytes(65536))
        await reply.writer.drain()


async def announced(reply: Reply) -> None:
    reply.send(200, length=8 * 2**30)
    await reply.writer.drain()
    await asyncio.sleep(60)


async def zipped(reply: Reply) -> None:
    reply.send(200, gzip.compress(picture(7)), Content_Encoding="gzip")


@cache
def bomb() -> bytes:
    return gzip.compress(bytes(BOMB_BYTES))


async def zip_bomb(reply: Reply) -> None:
    reply.send(200, bomb(), Content_Encoding="gzip")


async def zip_cut(reply: Reply) -> None:
    reply.send(200, gzip.compress(picture())[:-200], Content_Encoding="gzip")


async def zip_wrong(reply: Reply) -> None:
    reply.send(200, picture(), Content_Encoding="gzip")


async def brotli(reply: Reply) -> None:
    reply.send(200, picture(), Content_Encoding="br")


async def loop(reply: Reply) -> None:
    reply.send(302, Location="/loop")


async def hops(reply: Reply) -> None:
    left = int(reply.rest)
    reply.send(301, Location=f"/hops/{left - 1}" if left > 1 else "/good/1")


async def to(reply: Reply) -> None:
    reply.send(302, Location=reply.rest)


async def nowhere(reply: Reply) -> None:
    reply.send(302)


async def page(reply: Reply) -> None:
    reply.send(200, PAGE, Content_Type="image/jpeg")


async def empty(reply: Reply) -> None:
    reply.send(200)


async def noise(reply: Reply) -> None:
    reply.send(200, bytes(range(256)) * 20, Content_Type="image/jpeg")


async def longer(reply: Reply) -> None:
    reply.send(200, picture() + b"more than was announced", length=len(picture()))


async def robots(reply: Reply) -> None:
    reply.send(200, length=8_000_000, X_Robots_Tag=reply.rest.replace("%20", " "))
    await reply.writer.drain()
    await asyncio.sleep(60)  # who waits for the body gets none


async def reserved(reply: Reply) -> None:
    reply.send(200, picture(), TDM_Reservation="1")


async def versioned(reply: Reply) -> None:
    if reply.headers.get("If-None-Match") == '"v1"' or "If-Modified-Since" in reply.headers:
        reply.send(304)
    else:
        reply.send(200, picture(3), ETag='"v1"', Last_Modified="Thu, 01 Oct 2026 10:00:00 GMT")


async def sized(reply: Reply) -> None:
    """A picture with sides as long as the rest of the path says."""
    reply.send(200, picture(1, int(reply.rest.partition("/")[0])))


async def cached(reply: Reply) -> None:
    reply.send(200, picture(2))


BEHAVIOURS: dict[str, Callable[[Reply], Awaitable[None]]] = {
    behaviour.__name__: behaviour
    for behaviour in (
        good, status, flaky, busy_seconds, busy_date, busy_nonsense, closed_for_hours, closed_for_ever, drip,
        drip_headers, silent, stall, reset, hang_up, cut, cut_chunks, half, garbage, endless, announced, zipped,
        zip_bomb, zip_cut, zip_wrong, brotli, loop, hops, to, nowhere, page, empty, noise, longer, robots, reserved,
        versioned, sized, cached,
    )
}  # fmt: skip
