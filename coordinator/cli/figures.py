"""Small arithmetic for what the commands measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["percentile", "rounded"]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value at or below which ``share`` (0 to 1) of ``values`` lies, by nearest rank; None when there are none."""
    if not values:
        return None
    rank = math.ceil(share * len(values) - 1e-9)
    return sorted(values)[max(0, rank - 1)]


def rounded(value: float | None, digits: int = 3) -> float | None:
    """``value`` with at most ``digits`` decimals (a whole number for 0), None as it is."""
    return None if value is None else round(value, digits or None)
