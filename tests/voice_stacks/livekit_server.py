"""A real LiveKit server on loopback, for one run."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import urllib.request
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.deployments import free_port
from tests.waiting import wait_until

__all__ = ["KEY", "SECRET", "LiveKitServer", "why_none"]

VERSION = "v1.13.5"
KEY, SECRET = "devkey", "a-secret-for-tests-of-at-least-32-bytes"
GOBIN = Path(os.environ.get("VOICE_STACKS_BIN", Path.home() / ".cache" / "recovery-coordinator" / "bin"))


def program() -> str:
    """The server's path; '' where it is not built yet (``make voice-stacks`` builds it)."""
    found = GOBIN / "server"
    return str(found) if found.exists() else shutil.which("livekit-server") or ""


@cache
def why_none() -> str:
    """Builds the server where that is needed and possible; why there is none, '' when there is one."""
    if program():
        return ""
    if not shutil.which("go"):
        return "neither livekit-server nor go, which builds it, is installed"
    GOBIN.mkdir(parents=True, exist_ok=True)
    built = subprocess.run(
        ["go", "install", "-p", "2", f"github.com/livekit/livekit-server/cmd/server@{VERSION}"],
        env={**os.environ, "GOBIN": str(GOBIN)}, capture_output=True, text=True,
    )  # fmt: skip
    return "" if program() else f"livekit-server could not be built: {built.stderr.strip().splitlines()[-1:]}"


class LiveKitServer:
    """A context manager."""

    def __init__(self) -> None:
        self.port, self._udp, self._tcp = free_port(), free_port(), free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._directory = tempfile.mkdtemp(prefix="livekit-")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, also again after `kill`."""
        config = f"""
port: {self.port}
bind_addresses: ["127.0.0.1"]
rtc:
  udp_port: {self._udp}
  tcp_port: {self._tcp}
  use_external_ip: false
  node_ip: 127.0.0.1
  enable_loopback_candidate: true
  interfaces: {{includes: [lo]}}
keys: {{{KEY}: {SECRET}}}
logging: {{level: warn}}
room: {{auto_create: true, empty_timeout: 60, departure_timeout: 20}}
"""
        with Path(self._directory, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program(), "--config-body", config, "--node-ip", "127.0.0.1"], stdout=log, stderr=log
            )
        wait_until(self._answers, 30, f"LiveKit answers: {self.log()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def log(self) -> str:
        path = Path(self._directory, "log")
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
