"""The lines of the README that a person types: a worker, and a shell that is a worker behind a sidecar."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.store.keys import Keys
from tests.acceptance.processes import coordinator
from tests.redis_users import as_user
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PROMPT = re.compile(r"^\$ (.+?)(?: {3,}#.*)?$", re.MULTILINE)
URL = "redis://localhost:6379"
KEYS = Keys("recovery", 0)
EPOCH, ULID = "1795254438317", "01M7YR"  # of the day on which it was written


def block(text: str) -> str:
    """The console that has ``text`` in it."""
    return next(one for one in README.read_text().split("```")[1::2] if one.startswith("console") and text in one)


def typed(text: str) -> list[str]:
    """What is typed there."""
    return PROMPT.findall(block(text))


def shown(text: str) -> list[str]:
    """What it says is answered there."""
    return [line for line in block(text).splitlines()[1:] if not line.startswith("$ ")]


class Typed:
    """A line of the README that starts a worker, typed in a terminal of its own."""

    def __init__(self, url: str, line: str, folder: Path) -> None:
        python, path, *words = line.split()
        assert [python, path] == ["python", "examples/python/worker.py"]
        self._output = folder / words[0]
        environment = {**os.environ, "COORDINATOR_REDIS_URL": as_user(url, "worker")}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen([sys.executable, str(ROOT / path), *words], stdout=output, env=environment)

    def lines(self) -> list[str]:
        """What it has printed, as far as lines are complete: text and line end may be written one after the other."""
        complete, _, _ = self._output.read_text().rpartition("\n")
        return complete.splitlines()

    def close(self) -> None:
        """Its end, at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the command `coordinator`, as it stands on a person's PATH."""
    with tempfile.TemporaryDirectory(prefix="rc-") as name:
        command = Path(name) / "coordinator"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m coordinator "$@"\n')
        command.chmod(0o755)
        yield Path(name)


def test_what_the_readme_says_of_its_worker(url: str, folder: Path) -> None:
    """Its lines start a worker and, after a kill, another one: each prints what stands below its line."""
    first, second = (line for line in typed("worker.py") if "worker.py" in line)
    opened, adopted = shown("worker.py")[:2], [line.rpartition(" ")[0] for line in shown("worker.py")[2:]]
    with ExitStack() as stack:
        stack.enter_context(coordinator(url))
        one = Typed(url, first, folder)
        stack.callback(one.close)
        wait_until(lambda: one.lines() == opened, 20, "the calls are open")
        one.close()
        other = Typed(url, second, folder)
        stack.callback(other.close)
        wait_until(lambda: len(other.lines()) == len(adopted), 20, "the calls are adopted")
        assert sorted(line.rpartition(" ")[0] for line in other.lines()) == adopted


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_readme_says_to_a_sidecar(url: str, redis_client: redis.Redis, folder: Path) -> None:
    """Its lines as they stand there, pasted at once: a shell's call is opened and checkpointed, and moves to the worker above."""
    client: Any = redis_client
    lines = [
        line.replace(URL, as_user(url, "worker")).replace("/tmp/sidecar.sock", str(folder / "sidecar.sock"))
        for line in typed("coordinator sidecar")
    ]
    assert sum(line != typed_line for line, typed_line in zip(lines, typed("coordinator sidecar"), strict=True)) == 2
    with ExitStack() as stack:
        above = Typed(url, next(line for line in typed("worker.py") if "voice-1" in line), folder)
        stack.callback(above.close)
        wait_until(lambda: len(above.lines()) == 2, 20, "the worker above has its calls")
        done = subprocess.run(
            ["bash"],
            input="\n".join([*lines, "wait"]),
            env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        [answer], [like] = done.stdout.splitlines(), shown("coordinator sidecar")
        assert re.fullmatch(re.escape(like).replace("…", ".+").replace(EPOCH, r"\d{13,}").replace(ULID, "01"), answer)
        [said] = re.findall(r'the worker above prints "(.+)"', block("coordinator sidecar"))
        wait_until(lambda: said in above.lines(), 20, "the worker above has the shell's call")
        found = client.hgetall(KEYS.session("call-3"))
    assert json.loads(found[b"data"])["sequence"] >= 43
    assert found[b"owner"].startswith(b"voice-1~")
