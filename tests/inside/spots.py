"""Where a method without a public way in stands: `Spot`, for tests that put another one there.

``monkeypatch.setattr(*spot, another)`` does so, ``setattr(*spot, another)`` does so for good in a program of its own, and
``getattr(*spot)`` is what stands there now.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Spot"]

Spot: TypeAlias = tuple[object, str]
