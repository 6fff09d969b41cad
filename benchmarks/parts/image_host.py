"""A loopback image host: image_host.py FOLDER prints its port, and serves the folder's files until it is ended.

Files are held in memory and answered with as little work as HTTP/1.1 allows: the host is not what is measured.
"""

import asyncio
import sys
from pathlib import Path


class Host(asyncio.Protocol):
    """One connection; kept open unless the client says otherwise. Query strings are ignored."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            name = head.split(b" ", 2)[1].partition(b"?")[0].decode().lstrip("/")
            body = self._files.get(name)
            status = "200 OK" if body is not None else "404 Not Found"
            self._transport.write(
                f"HTTP/1.1 {status}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode()
            )
            self._transport.write(body or b"")
            if b"connection: close" in head.lower():
                self._transport.close()


async def serve(files: dict[str, bytes]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Host(files), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve({path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}))
