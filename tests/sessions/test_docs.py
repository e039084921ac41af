"""The page on the session store says what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from coordinator.sessions import calls
from tests.redis_server import RedisServer

PAGE = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "said"), [(0, "3 turns, 0:00:0"), (1, "2 turns, {'call_sid': 'CA123'}")])
def test_the_examples_run(redis_server: RedisServer, shared: redis.Redis, number: int, said: str) -> None:
    """Each program on the page runs as it stands there, and prints the whole conversation."""
    programs = [text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "asyncio.run" in text]
    assert len(programs) == 2
    text = programs[number].replace("redis://localhost:6379", redis_server.url)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, env=os.environ)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(said)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    """Where a package of the extra is missing, importing the store says which, and how to get it."""
    program = "import sys; sys.modules['stamina'] = None; import coordinator.sessions"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "needs the package 'stamina': install this package with its extra sessions" in done.stderr


def test_every_command_of_the_scripts_is_named() -> None:
    """The rights that the page lists are those that the scripts need."""
    called = {n for s in calls.SCRIPTS.values() for n in re.findall(r"redis\.p?call\('([A-Z]+)'", s.source.decode())}
    [always] = re.findall(r"`(GET SET [A-Z ]+)`", PAGE)
    [fenced] = re.findall(r"`(TIME [A-Z ]+)`", PAGE)
    assert called <= {*always.split(), *fenced.split()}
