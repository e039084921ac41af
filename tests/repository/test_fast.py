"""The fast tests: chosen by what they reach, and held to it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fast import NothingStarts, fast_tests, why_slow

TESTS = Path(__file__).parents[1]

PROBE = """
import subprocess as programs
from tests.redis_server import RedisServer
from tests.waiting import wait_until

def helper() -> None:
    programs.run(["true"])

def test_pure() -> None:
    wait_until(lambda: True)

def test_annotated(server: "RedisServer | None" = None) -> None:
    pass

def test_by_a_helper() -> None:
    [helper for _ in range(1)]

def test_by_a_class() -> None:
    RedisServer()

def test_by_a_fixture(redis_client) -> None:
    pass

def test_by_a_fixture_of_a_fixture(url) -> None:
    pass

def test_by_an_import_inside() -> None:
    import socket as line
    line.socket()
"""


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    """A file of tests of every kind."""
    path = tmp_path / "test_probe.py"
    path.write_text(PROBE)
    return path


def test_what_reaches_a_start_is_slow(probe: Path) -> None:
    """By a helper, a class, a fixture, a fixture's fixture, or an import in the function; annotations start nothing."""
    assert fast_tests(probe) == {"test_pure", "test_annotated"}
    assert why_slow(probe, "test_by_a_helper") == "subprocess.run"


def test_most_files_of_pure_rules_are_fast_throughout() -> None:
    """Else something that all tests use would have made all of them slow, unnoticed."""
    assert len(fast_tests(TESTS / "unit" / "test_policy.py")) > 20
    assert not fast_tests(TESTS / "worker" / "test_worker.py")


@pytest.mark.parametrize("event", ["connect", "bind", "program"])
def test_a_fast_test_that_starts_something_fails(watch_for_starts: NothingStarts, event: str) -> None:
    """Also when it catches the error: what it caused is told afterwards. Nothing is refused outside."""
    with watch_for_starts.watching() as caused, socket.socket() as one:
        with pytest.raises(AssertionError, match="a fast test caused"):
            if event == "connect":
                one.connect(("127.0.0.1", 9))
            elif event == "bind":
                one.bind(("127.0.0.1", 0))
            else:
                subprocess.run([sys.executable, "-c", ""], check=True)
        assert len(caused) == 1
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
