"""The example workers in Go, JavaScript and Python, as processes."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.processes import Process

EXAMPLES = Path(__file__).parents[2] / "examples"


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


@contextmanager
def example(
    language: str, socket: str, url: str, name: str, *calls: str, pool: str = "default", capacity: int = 500
) -> Iterator[Process]:
    """A worker that opened its calls and serves them."""
    process = start(language, socket, url, name, *calls, pool=pool, capacity=capacity)
    try:
        if language != "python":
            process.wait_for("attached")
            process.wait_for("ready", timeout=60)
        yield process
    finally:
        process.close()


def start(
    language: str, socket: str, url: str, name: str, *calls: str, pool: str = "default", capacity: int = 500
) -> Process:
    """The same, without waiting."""
    match language:
        case "go":
            command: list[str] = [go_program(), "-socket", socket, "-checkpoint", "100ms"]
        case "node":
            command = [*node_program(), "--socket", socket, "--checkpoint", "100"]
        case _:
            command = [sys.executable, str(EXAMPLES / "python" / "worker.py"), name]
    if language != "python":
        command += ["--name", name, "--pool", pool, "--capacity", str(capacity)]
    return Process(program=[*command, *calls], REDIS_URL=url, COORDINATOR_POOL=pool)
