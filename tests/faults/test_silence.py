"""Many instances that fall silent at once are declared together. Short form; `make faults`: a thousand."""

from __future__ import annotations

import pytest

from tests.faults.silence import fall_silent


@pytest.mark.parametrize("lost_connection_after", [None, 0])
def test_a_hundred_at_once(lost_connection_after: float | None) -> None:
    """All of them are declared, nobody else is, not even while they start; and survivors serve every call."""
    silence = fall_silent(
        100, {} if lost_connection_after is None else {"lost_connection_after": lost_connection_after}
    )
    assert silence.wrongly == []
    assert silence.declared == 100
