"""The lines of the README that a person types to a sidecar."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coordinator.store.keys import Keys
from tests.redis_server import RedisServer
from tests.sidecar.conftest import Sidecar

README = Path(__file__).parents[2] / "README.md"
PROMPT = re.compile(r"^\$ (.+?)(?: {3,}#.*)?$", re.MULTILINE)


def typed(text: str) -> list[str]:
    """What is typed in the console that begins with ``text``."""
    block = next(one for one in README.read_text().split("```") if one.startswith(f"console\n$ {text}"))
    return PROMPT.findall(block)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_readme_says_to_a_sidecar(server: RedisServer) -> None:
    """Its lines one after the other, with this sidecar's socket, token and epoch: registered, opened, checkpointed."""
    start, *lines = typed("coordinator sidecar")
    flags = [
        f"--{word}"
        for word in start.removesuffix(" &").split(" --")[1:]
        if not word.startswith(("redis", "http-socket"))
    ]
    with contextlib.closing(Sidecar(server, *[part for flag in flags for part in flag.split(" ")])) as sidecar:
        aliases, answers = ["shopt -s expand_aliases"], list[Any]()
        for line in lines:
            own = line.replace("/tmp/sidecar.sock", sidecar.path).replace("'$$'", str(os.getpid()))
            if answers:
                own = own.replace("OKqGYz…", answers[0]["worker_token"])
                own = re.sub(r'(?<=If-Match: ")\d+', str(answers[-1].get("epoch")), own)
            if own.startswith("alias "):
                aliases.append(own)
                continue
            done = subprocess.run(
                ["bash"], input="\n".join([*aliases, own]), capture_output=True, text=True, timeout=120, check=True
            )
            answers.append(json.loads(done.stdout or "{}"))
        assert [len(answers), answers[1]["session"], answers[-1]] == [3, "call-1", {}]
        found: Any = server.client().hgetall(Keys("recovery", 0).session("call-1"))
    assert json.loads(found[b"data"])["sequence"] == 43
