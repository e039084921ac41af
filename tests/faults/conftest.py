"""The processes of a deployment that is tried are not traced for coverage: they are many, and it takes half of their time."""

from __future__ import annotations

import pytest

from tests.untraced import UNTRACED


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a test of this folder starts."""
    for name in UNTRACED:
        monkeypatch.delenv(name, raising=False)
