"""A TCP relay that can go down and come back: what stands between us and a server that is lost for a while."""

import socket
import threading
import time
from contextlib import suppress

CHUNK = 2**16
PORT_SECONDS = 10.0


class Relay:
    """Listens on a port of its own and passes everything on to `target`; a context manager.

    While it is down new connections are refused and those that were open are cut.

    Attributes:
        port: where it listens, on this machine.
        requests: how many HTTP requests have passed.
        passed: bytes, either way.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._left: int | None = None
        self._guard = threading.Lock()
        self.port = int(self._listener.getsockname()[1])
        self.requests = self.passed = 0
        self._listen()

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """Refuse, and cut what is open."""
        with self._guard:
            self._left = None
            sockets, self._sockets = [self._listener, *self._sockets], []
            for one in sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it; close() would not
                one.close()

    def down_after(self, size: int) -> None:
        """Go down when so many bytes more have passed, either way."""
        self._left = size

    def up(self) -> None:
        """Listen again, on the same port."""
        deadline = time.monotonic() + PORT_SECONDS
        while True:
            try:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                break
            except OSError:  # somebody's outgoing connection has the port for the moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                with self._guard:
                    self._sockets += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self.requests += data.count(b" HTTP/1.1\r\n")
                self.passed += len(data)
                sink.sendall(data)
                if self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.down()
            sink.shutdown(socket.SHUT_WR)
