"""The example workers in Go, JavaScript and Python, as processes: the files as they are, started as their users start them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Process

EXAMPLES = Path(__file__).parents[2] / "examples"
LANGUAGES = ("go", "node", "kubernetes")
"""Those that live behind a sidecar; "kubernetes" is the worker of the chart, in Python."""


@functools.cache
def go_program() -> str:
    """The Go worker, built once; skips the test where there is no Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed (Debian's package golang-go)")
    program = str(Path(tempfile.mkdtemp(prefix="rc-go-")) / "voice-worker")
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run([go, "build", "-o", program, "."], cwd=EXAMPLES / "go", env=environment, check=True, timeout=300)
    return program


def node_program() -> tuple[str, str]:
    """The command of the worker in JavaScript; skips the test where there is no Node."""
    node = shutil.which("node") or shutil.which("nodejs")
    if node is None:
        pytest.skip("Node is not installed (Debian's package nodejs)")
    return node, str(EXAMPLES / "node" / "worker.mjs")


class ExampleWorker(Process):
    """One of them, and the telephone network in front of it.

    Args:
        language: of `LANGUAGES`.
        socket: of its sidecar; '' if it knows it by ``url``.
        url: of its sidecar.
        calls: that it opens at its start (not in the chart's).
        checkpoint_ms: between two checkpoints of a call (the chart's has its own).
        variables: more of its environment.
    """

    def __init__(
        self, language: str, name: str, *calls: str, socket: str = "", url: str = "", pool: str = "", capacity: int = 500,
        checkpoint_ms: int = 100, variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.language, self.name = language, name
        where = {"RECOVERY_SOCKET": socket, "RECOVERY_URL": url}
        environment = {k: v for k, v in where.items() if v} | dict(variables or {})
        if language == "kubernetes":
            program = [sys.executable, str(EXAMPLES / "kubernetes" / "files" / "worker.py")]
            environment |= {"HOSTNAME": name, "CAPACITY": str(capacity), "TELEPHONE_PORT": "0"}
            environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        else:
            dash, command = ("-", [go_program()]) if language == "go" else ("--", [*node_program()])
            options = {"name": name, "capacity": str(capacity), "telephone": ":0" if language == "go" else "0"}
            options |= {"checkpoint": f"{checkpoint_ms}ms" if language == "go" else str(checkpoint_ms)}
            options |= {"pool": pool} if pool else {}
            program = [*command, *(word for k, v in options.items() for word in (f"{dash}{k}", v)), *calls]
        self.variables = set(environment)
        super().__init__(program=program, **environment)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Of its own interface: status and document."""
        port = self.wait_for("telephone")[0]["port"]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, data=data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def ring(self, session: str, media_port: int = 0) -> int:
        """An incoming call; the status of the answer to it."""
        body = {"media": f"127.0.0.1:{media_port}"} if media_port else {}
        return self.ask("POST", f"/calls/{session}", body)[0]

    def hang_up(self, session: str) -> int:
        """The end of a call."""
        return self.ask("DELETE", f"/calls/{session}")[0]

    def speaks_for(self) -> list[str]:
        """Calls for which it speaks at this moment."""
        found: list[str] = sorted(self.ask("GET", "/calls")[1]["calls"])
        return found

    def silent_for(self) -> list[str]:
        """Calls that it has, and for which it may not speak."""
        found: list[str] = sorted(self.ask("GET", "/calls")[1]["silent"])
        return found

    def output(self) -> list[dict[str, Any]]:
        """All lines so far."""
        self.told("")
        return self.lines


@contextmanager
def example(
    language: str, socket: str, url: str, name: str, *calls: str, pool: str = "default", capacity: int = 500
) -> Iterator[Process]:
    """A worker that opened its calls and serves them.

    Args:
        socket: of its sidecar.
        url: of Redis, for "python", which has the library.
        pool: for the worker of the chart it must be its sidecar's.
    """
    process = start(language, socket, url, name, *calls, pool=pool, capacity=capacity)
    try:
        if isinstance(process, ExampleWorker):
            process.wait_for("attached")
            if language == "kubernetes":
                assert {process.ring(call) for call in calls} <= {201}
            else:
                process.wait_for("ready", timeout=60)
        yield process
    finally:
        process.close()


def start(
    language: str, socket: str, url: str, name: str, *calls: str, pool: str = "default", capacity: int = 500
) -> Process:
    """The same, without waiting."""
    if language == "python":
        program = [sys.executable, str(EXAMPLES / "python" / "worker.py"), name, *calls]
        return Process(
            program=program, COORDINATOR_REDIS_URL=url, COORDINATOR_POOL=pool, COORDINATOR_CAPACITY=str(capacity)
        )
    return ExampleWorker(language, name, *calls, socket=socket, pool=pool, capacity=capacity)
