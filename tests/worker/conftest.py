"""What tests of workers in this process have in common."""

from __future__ import annotations

import pytest


@pytest.fixture
def leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is left while it owns calls offers them at once; else it looks for heirs for the length of a lease first."""
    monkeypatch.setenv("COORDINATOR_DRAIN_TIMEOUT", "1s")
