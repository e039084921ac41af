"""`pip install .` on a Python with nothing else, with the newest versions of what the project requires."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.install.conftest import every
from tests.install.pythons import PROMISED, found
from tests.redis_server import RedisServer, server_path

pytestmark = [every, pytest.mark.timeout(300)]


@pytest.mark.usefixtures("pip_wheels")  # skips without an index
@pytest.mark.parametrize("version", PROMISED, ids=lambda version: ".".join(map(str, version)))
def test_the_command_works_in_a_bare_environment(
    version: tuple[int, int], source: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """After `pip install .` the command prints its help, `doctor` finds a Redis fit and the demo is OK, without a warning."""
    python = found().get(version)
    if python is None:
        pytest.skip(f"there is no Python {version[0]}.{version[1]} with its venv module on this machine")
    subprocess.run([python, "-Im", "venv", tmp_path / "bare"], check=True)
    subprocess.run([tmp_path / "bare/bin/pip", "install", "--quiet", source], check=True, stdin=subprocess.DEVNULL)

    def coordinator(*words: str) -> str:
        done = subprocess.run(
            [tmp_path / "bare/bin/coordinator", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONWARNINGS": "error", "PATH": f"{Path(server_path()).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    assert "demo" in coordinator("--help")
    assert "This Redis is fit." in coordinator("doctor", "--redis-url", redis_server.url)
    assert coordinator("demo").splitlines()[-1] == "OK"
    assert not list(tmp_path.glob("bare/lib/python3*/site-packages/*pytest*"))
