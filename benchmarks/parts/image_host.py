"""A loopback image host: image_host.py FOLDER [--rough | --dead | --rate N] prints its port, serves the folder.

Files are held in memory and answered with as little work as HTTP/1.1 allows: the host is not what is measured. Query
strings are ignored, but for what `--rough` does to an address.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

# Of each thousand addresses, how many: the rough web of the fact sheet.
MISSING, HANGING, SLOW, RESET, BROKEN = 20, 11, 11, 10, 5
SLOW_SECONDS = 3
RETRY_AFTER = 2
COUNTS = "/answers.json"


@dataclass
class Manner:
    """How the host treats requests: with faults, not at all, or with a limit (requests per second, as many at once)."""

    files: dict[str, bytes]
    rough: bool = False
    dead: bool = False
    rate: float = 0.0
    tokens: float = 0.0  # at first as many as a second gives
    filled_at: float = field(default_factory=time.monotonic)
    answers: Counter[str] = field(default_factory=Counter)

    def over_limit(self) -> bool:
        """Whether a request comes too soon; one that does not takes its token."""
        now = time.monotonic()
        self.tokens = min(self.rate, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens < 1:
            return True
        self.tokens -= 1
        return False

    def fault(self, target: str) -> str:
        """What goes wrong with an address, always the same: empty for most."""
        place = crc32(target.encode()) % 1000
        for name, share in (("404", MISSING), ("hang", HANGING), ("slow", SLOW), ("reset", RESET), ("500", BROKEN)):
            if place < share:
                return name
            place -= share
        return ""


class Host(asyncio.Protocol):
    """One connection; kept open unless the client says otherwise."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            self._closes = b"connection: close" in head.lower()
            self._treat(target)

    def _treat(self, target: str) -> None:
        if target == COUNTS:
            self._answer("200 OK", json.dumps(self._manner.answers).encode())
            return
        fault = self._manner.fault(target) if self._manner.rough else "hang" if self._manner.dead else ""
        if self._manner.rate and self._manner.over_limit():
            self._answer("429 Too Many Requests", b"", f"Retry-After: {RETRY_AFTER}\r\n")
        elif fault == "hang":
            return
        elif fault == "reset":
            self._transport.abort()
        elif fault == "slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._file, target)
        elif fault:
            self._answer(f"{fault} Fault", b"")
        else:
            self._file(target)

    def _file(self, target: str) -> None:
        body = self._manner.files.get(target.partition("?")[0].lstrip("/"))
        self._answer("200 OK" if body is not None else "404 Not Found", body or b"")

    def _answer(self, status: str, body: bytes, more: str = "") -> None:
        self._manner.answers[status[:3]] += 1
        self._transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: image/jpeg\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode()
        )
        self._transport.write(body)
        if self._closes:
            self._transport.close()


async def serve(manner: Manner, addresses: int) -> None:
    """Listen at one port of 127.0.0.1, 127.0.0.2, …"""
    loop, port = asyncio.get_running_loop(), 0
    for number in range(1, addresses + 1):
        server = await loop.create_server(lambda: Host(manner), f"127.0.0.{number}", port, backlog=1024)
        port = server.sockets[0].getsockname()[1]
    print(port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rough", action="store_true")
    parser.add_argument("--dead", action="store_true")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--addresses", type=int, default=1)
    given = parser.parse_args()
    files = {str(path.relative_to(given.folder)): path.read_bytes() for path in given.folder.rglob("*.*")}
    asyncio.run(serve(Manner(files, given.rough, given.dead, given.rate, given.rate), given.addresses))


if __name__ == "__main__":
    main()
