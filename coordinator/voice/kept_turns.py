"""What a call is doing and what its turns took, together, as adapters keep them in recovery data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.errors import CallStateError, InvalidDataError
from coordinator.voice.latencies import LatencyTotals
from coordinator.voice.progress import CallProgress, CallState

__all__ = ["KeptTurns"]


class KeptTurns:
    """One per call. What it knows goes to an heir as `to_data` has it.

    Args:
        data: what the worker before kept, if there was one; fields besides are left alone, and what cannot be read is left out.

    Attributes:
        progress: what the call is doing; ``interrupted`` is what was cut off.
        totals: of the latencies of all its turns.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self.progress = CallProgress() if data is None else CallProgress.inherited(data.get("progress"))
        if self.progress.state is CallState.DISCONNECTED:  # it goes on here, whatever its last worker took for its end
            self.progress = CallProgress().recovered()
        try:
            self.totals = LatencyTotals.from_data((data or {}).get("latencies", {}))
        except InvalidDataError:  # another program's
            self.totals = LatencyTotals()

    def to_data(self) -> dict[str, Any]:
        """A JSON-able mapping."""
        return {"progress": self.progress.to_data(), "latencies": self.totals.to_data()}

    def moves_to(self, state: CallState) -> None:
        """The call does something else; what may not follow is left out, as a framework's events come in its own order."""
        try:
            self.progress.move_to(state)
        except CallStateError:
            return
