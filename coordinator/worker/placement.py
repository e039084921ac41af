"""Which of the instances that have room an offer suits best: a pure comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["suits"]


def suits(
    labels: Mapping[str, str], started_at_ms: int, requires: Sequence[str], restarted_since_ms: int
) -> tuple[bool, bool]:
    """How well an offer suits an instance; the greater the better.

    Args:
        labels: of the instance.
        started_at_ms: of the instance, server's clock.
        requires: labels that the session asks for, each ``name`` or ``name=value``.
        restarted_since_ms: whoever was started since then is not restarted again by the rollout under way; 0 for none.

    Returns:
        Whether it has the labels, and whether it stays: labels count more.
    """
    wanted = [text.partition("=") for text in requires]
    fits = all(name in labels and (not equals or labels[name] == value) for name, equals, value in wanted)
    return fits, started_at_ms >= restarted_since_ms
