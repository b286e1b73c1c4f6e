"""A proxy on 127.0.0.1 that does to a connection what networks and servers do: refuse, swallow, reset, delay, break.

`TcpProxy(port)` passes bytes on to a server on 127.0.0.1; `mode` may be changed at any time and holds for what comes
next. Without a server behind it, it answers every request itself in the modes that end in a number.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

MODES = ("pass", "refuse", "black-hole", "reset", "delay", "500", "429", "503", "close-in-body", "lose-answer")


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


class TcpProxy:
    """One listening port; a thread for each direction of each connection, all ended by `close`."""

    def __init__(
        self, upstream: int | None = None, *, mode: str = "pass", delay_s: float = 0.5, passing: int = 0
    ) -> None:
        """`passing` requests go through before the mode begins."""
        self.upstream, self.delay_s, self.passing = upstream, delay_s, passing
        self.num_requests = 0
        """Chunks that clients sent, which is about the number of requests."""
        self._is_answer_lost = False
        self._mode = mode
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._reserved = _bound(0)  # while nobody listens, the port must not become that of somebody's connection
        self.port = self._reserved.getsockname()[1]
        self._listen()
        self.mode = mode

    @property
    def uri(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> str:
        """What happens to connections and requests."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        assert mode in MODES, mode
        self._mode = mode
        if mode == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listen()
        if mode != "pass":
            self._drop()  # clients keep connections; what comes next must meet the fault

    def begin(self, mode: str, *, passing: int = 0) -> None:
        """Count requests anew, and begin `mode` once `passing` of them went through."""
        self.mode = "pass"
        self._drop()
        self.num_requests, self.passing = 0, passing
        self._mode = mode
        if not passing:
            self.mode = mode

    def close(self) -> None:
        """End every connection and thread."""
        self._over.set()
        self._stop_listening()
        self._drop()
        self._reserved.close()

    def _listen(self) -> None:
        listener = _bound(self.port)
        listener.listen(64)
        listener.settimeout(0.1)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # the accepting thread would keep it listening a while
            self._listener.close()
            self._listener = None

    def _drop(self) -> None:
        for connection in list(self._open):
            self._end(connection)

    def _accept(self, listener: socket.socket) -> None:
        while not self._over.is_set() and self._listener is listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            client.settimeout(None)
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.num_requests += 1
                mode = "pass" if self.num_requests <= self.passing else self.mode
                if mode == "refuse":
                    self._stop_listening()
                    break
                if mode == "black-hole":
                    self._over.wait()
                    break
                if mode == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if mode.isdigit():
                    client.sendall(_answer(int(mode)))
                    break
                if mode == "close-in-body":
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
                    break
                if mode == "delay":
                    self._over.wait(self.delay_s)
                if self.upstream is None:
                    client.sendall(_answer(200))
                    continue
                if server is None:
                    server = socket.create_connection(("127.0.0.1", self.upstream))
                    self._open.add(server)
                    threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()
                self._is_answer_lost = mode == "lose-answer"
                server.sendall(data)
        self._end(client)
        if server is not None:
            self._end(server)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65536)) and not self._is_answer_lost:
                client.sendall(data)
        self._end(client)

    def _end(self, connection: socket.socket) -> None:
        self._open.discard(connection)
        with contextlib.suppress(OSError):
            if self.mode != "reset":
                connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextlib.contextmanager
def tcp_proxy(upstream: int | None = None, **options: Any) -> Iterator[TcpProxy]:
    """A proxy that is closed at the end."""
    proxy = TcpProxy(upstream, **options)
    try:
        yield proxy
    finally:
        proxy.close()


def _answer(status: int) -> bytes:
    body = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "planted"}'
    retry = b"Retry-After: 30\r\n" if status in (429, 503) else b""
    head = f"HTTP/1.1 {status} Planted\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + retry + b"Connection: close\r\n\r\n" + body
