"""What a call is doing and how fast its turns are: plain values that need neither Redis nor the session store's extra."""

from coordinator.voice.latencies import LatencyTotals, PartTotal, TurnLatencies
from coordinator.voice.progress import CallProgress, CallState

__all__ = ["CallProgress", "CallState", "LatencyTotals", "PartTotal", "TurnLatencies"]
