"""The Go program beside this file, built once for all tests; they skip where there is no Go that can."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "goworker"
OLDEST = (1, 26)
ENVIRONMENT = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"}


def build(folder: Path) -> Path:
    """The built program; skips the test without Go 1.26 or without its modules."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no Go: the store is not compared with omnivoice-core")
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        pytest.skip(f"omnivoice-core needs Go 1.26, and this is {said.strip()}: the store is not compared with it")
    program = folder / "goworker"
    done = subprocess.run(
        [go, "build", "-o", program, "."], cwd=SOURCE, capture_output=True, text=True, env=ENVIRONMENT
    )
    if done.returncode and re.search(r"dial tcp|proxyconnect|no such host|i/o timeout|connection refused", done.stderr):
        pytest.skip("Go cannot fetch omnivoice-core here: the store is not compared with it")
    assert done.returncode == 0, done.stderr
    return program


class GoWorker:
    """The program, run for one thing at a time.

    Args:
        program: path of the program.
        url: of Redis.
    """

    def __init__(self, program: Path, url: str = "") -> None:
        self._program, self._url = program, url

    def run(self, *args: str, stdin: bytes = b"", fails: bool = False, zone: str = "Asia/Kolkata") -> bytes:
        """What it writes; its errors when it is to fail."""
        done = subprocess.run(
            [self._program, *args], input=stdin, capture_output=True, env=os.environ | {"TZ": zone}, timeout=120
        )
        assert bool(done.returncode) == fails, done.stderr
        return done.stderr if fails else done.stdout

    def do(self, command: str, *args: str, fails: bool = False) -> bytes:
        """One command on the store."""
        return self.run(command, self._url, *args, fails=fails).strip()

    def serve(self, session_id: str) -> subprocess.Popen[bytes]:
        """A call that goes on until the process is killed."""
        process = subprocess.Popen([self._program, "serve", self._url, session_id], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        return process

    @contextmanager
    def watched(self, session_id: str, socket: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
        """The same, known to the sidecar behind a socket; it ends with the call at a line of input, and is killed afterwards."""
        with subprocess.Popen(
            [self._program, "watched", self._url, session_id, socket, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"serving\n", process.communicate()[1]
                yield process
            finally:
                process.kill()

    def remarshal(self, documents: list[bytes]) -> list[bytes]:
        """Each session as Go writes it after reading it."""
        return self.run("remarshal", stdin=b"\n".join(documents) + b"\n").splitlines()
