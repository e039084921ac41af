"""Tests and processes that are not traced for coverage."""

from __future__ import annotations

import os

__all__ = ["TRACED_ELSEWHERE", "UNTRACED", "is_traced_elsewhere", "untraced_environment"]

UNTRACED = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""What coverage puts into the environment so that processes trace themselves."""

TRACED_ELSEWHERE = tuple(
    f"tests/{name}"
    for name in (
        "acceptance/test_deployments.py", "acceptance/test_other_servers.py", "acceptance/test_recovery.py", "callers",
        "daemon/test_clients.py", "faults", "install", "kubernetes", "model", "property",
        "sessions/test_alike.py", "sessions/test_go.py", "sessions/test_watched_go.py",
        "sidecar/test_example_answers.py", "sidecar/test_example_faults.py", "sidecar/test_examples.py", "sidecar/test_fuzz.py",
        "sidecar/test_harm.py", "sidecar/test_unknown_outcomes.py", "sidecar/test_written.py",
        "supervisor/test_library.py", "store/test_needs.py", "store/test_rights.py", "store/test_rules.py", "store/test_twice.py",
        "unit/test_blame.py", "unit/test_ids.py", "web/test_raw_requests.py", "worker/test_data.py",
    )
)  # fmt: skip
"""Tracing takes near half of the time of these, and each line and branch that they run is run by tests that are traced."""


def is_traced_elsewhere(path: str) -> bool:
    """Whether neither the tests of this file nor the processes that they start are traced; ``path`` is from the checkout's root."""
    return any(path == one or path.startswith(f"{one}/") for one in TRACED_ELSEWHERE)


def untraced_environment() -> dict[str, str]:
    """This process's environment without that."""
    return {name: value for name, value in os.environ.items() if name not in UNTRACED}
