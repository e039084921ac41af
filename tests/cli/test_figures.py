"""The arithmetic of the commands."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.cli.figures import percentile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7], 0.99, 7),
        ([3, 1, 2], 0.5, 2),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 101)), 1.0, 100),
        (list(range(1, 101)), 0.0, 1),
    ],
)
def test_percentile_is_the_nearest_rank(values: Any, share: Any, expected: Any) -> None:
    """The percentile is the smallest value with that share of all at or below it."""
    assert percentile(values, share) == expected
