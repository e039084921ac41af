"""An heir that takes whatever it is offered."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator import Worker
from tests.waiting import within

__all__ = ["all_adopted"]


async def all_adopted(heir: Worker, calls: Sequence[str]) -> None:
    """It adopts these calls, with the data that each was opened with: its own id."""
    adopted = {}
    with within(60):
        async for offer in heir.offers():
            session = await offer.adopt()
            assert session is not None
            adopted[session.id] = session.recovery_data
            if len(adopted) == len(calls):
                break
    assert adopted == {call: call.encode() for call in calls}
