"""LiveKit agents whose calls outlive them: ``pip install "recovery-coordinator[livekit]"``; see docs/livekit.md."""

from coordinator.adapters.livekit.agent import recover
from coordinator.adapters.livekit.call import LiveKitCall
from coordinator.adapters.livekit.server import RecoveringServer

__all__ = ["LiveKitCall", "RecoveringServer", "recover"]
