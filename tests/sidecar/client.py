"""A worker behind the sidecar, as a test plays it: plain HTTP over a unix socket."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from typing import Any

import httpx

from tests.waiting import wait_until


class Client:
    """Requests over a unix socket, as one worker or as nobody.

    Attributes:
        instance, token: of the worker, once it is registered.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.instance = self.token = ""
        self._streams: list[Stream] = []
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=path), base_url="http://sidecar", timeout=httpx.Timeout(60)
        )

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request; header names with underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            named.setdefault("Worker-Token", self.token)
        return self._http.request(method, path, json=body, headers=named)

    def register(self, name: str, **fields: Any) -> httpx.Response:
        """Becomes a worker."""
        answer = self("POST", "/v1/workers", {"name": name, **fields})
        if answer.status_code == 201:
            self.instance, self.token = answer.json()["instance"], answer.json()["worker_token"]
        return answer

    def open(self, session: str, data: Any) -> int:
        """Opens a call; its epoch."""
        answer = self("PUT", f"/v1/sessions/{session}", {"recovery_data": data})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["epoch"])

    def stream(self, *, answering: bool = True, reading: bool = True) -> Stream:
        """The worker's open stream."""
        self._streams.append(Stream(self, answering=answering, reading=reading))
        return self._streams[-1]

    @property
    def newest(self) -> Stream:
        """The stream that was opened last."""
        return self._streams[-1]

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._http.close()


class Stream:
    """The events of a worker, read by a thread; pings are answered unless told otherwise.

    Attributes:
        over: the connection ended.
    """

    def __init__(self, client: Client, *, answering: bool = True, reading: bool = True) -> None:
        self._client, self.answering = client, answering
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(client.path)
        except OSError:
            self._socket.close()
            raise
        self._socket.sendall(
            f"GET /v1/workers/{client.instance}/events HTTP/1.1\r\nHost: x\r\nWorker-Token: {client.token}\r\n\r\n".encode()
        )
        self.seen: list[dict[str, Any]] = []
        self.status = 0
        self.over = False
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if reading:
            self._thread.start()

    def _run(self) -> None:
        with self._socket.makefile("rb") as file:
            try:
                self.status = int(file.readline().split()[1])
            except (OSError, IndexError):
                self.over = True
                return
            while file.readline() not in (b"\r\n", b""):
                pass
            while True:
                try:
                    size = int(file.readline() or b"0", 16)
                    chunk = file.read(size)
                    file.readline()
                except (OSError, ValueError):
                    break
                if not size:
                    break
                for line in chunk.splitlines():
                    self._take(json.loads(line))
        self.over = True

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] == "ping" and self.answering:
            self._answer()
        self._queue.put(event)

    def _answer(self) -> None:
        client = self._client
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            if link.connect_ex(client.path) == 0:  # else the sidecar was killed
                head = (
                    f"POST /v1/workers/{client.instance}/alive HTTP/1.1\r\nHost: x\r\nWorker-Token: {client.token}\r\n"
                )
                with contextlib.suppress(OSError):
                    link.sendall(f"{head}Connection: close\r\n\r\n".encode())
                    while link.recv(4096):
                        pass

    def told(self, event: str) -> list[dict[str, Any]]:
        """All events of a kind so far."""
        while not self._queue.empty():
            self.seen.append(self._queue.get())
        return [one for one in self.seen if one["event"] == event]

    def wait_for(self, event: str, count: int = 1, timeout: float = 15.0) -> list[dict[str, Any]]:
        """The events of a kind, as soon as there are so many."""
        wait_until(lambda: len(self.told(event)) >= count, timeout, f"{count} events {event!r}, of {self.seen[-3:]}")
        return self.told(event)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread.is_alive():
            self._thread.join()
