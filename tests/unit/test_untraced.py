"""What is not traced for coverage."""

from __future__ import annotations

import os
from pathlib import Path

import coverage
import pytest

from tests.untraced import TRACED_ELSEWHERE, UNTRACED, is_traced_elsewhere

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", TRACED_ELSEWHERE)
def test_each_file_of_the_list_is_there(path: str) -> None:
    """One that is gone, or has another name, would be traced again unnoticed."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", ["tests/unit", "tests/fault", "tests/unit/test_untraced.py"])
def test_what_is_not_in_the_list_is_traced(path: str) -> None:
    """Neither a folder above one of the list nor a longer name counts."""
    assert not is_traced_elsewhere(path)
    assert not is_traced_elsewhere("tests/faultsmore/test_one.py")


@pytest.mark.no_cover
def test_no_process_of_an_untraced_test_is_traced() -> None:
    """Coverage finds nothing in their environment that it would begin with."""
    assert not set(UNTRACED) & os.environ.keys()


def test_processes_of_other_tests_are_traced_with_them() -> None:
    """Where there is coverage at all."""
    assert ("COVERAGE_PROCESS_CONFIG" in os.environ) == (coverage.Coverage.current() is not None)
