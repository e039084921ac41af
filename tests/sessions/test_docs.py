"""The page on the session store says what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import redis

from coordinator.sessions import scripts
from tests.redis_server import RedisServer

PAGE = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text(encoding="utf-8")


def test_the_example_runs(redis_server: RedisServer, db: redis.Redis) -> None:
    """The program on the page runs as it stands there, and prints the whole conversation."""
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    text = program.replace("redis://localhost:6379", redis_server.url)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.stderr == ""
    assert done.stdout.startswith("3 turns, 0:00:0")


def test_without_the_extra_the_error_says_what_to_install() -> None:
    """Where a package of the extra is missing, importing the store says which, and how to get it."""
    program = "import sys; sys.modules['stamina'] = None; import coordinator.sessions"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "needs the package 'stamina': pip install 'recovery-coordinator[sessions]'" in done.stderr


def test_every_command_of_the_scripts_is_named() -> None:
    """The rights that the page lists are those that the scripts need."""
    called = {n for s in scripts.SCRIPTS.values() for n in re.findall(r"redis\.call\('([A-Z]+)'", s.source.decode())}
    [listed] = re.findall(r"`(GET SET [A-Z ]+)`", PAGE)
    assert called <= set(listed.split())
