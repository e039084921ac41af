"""LiveKit agents whose calls outlive them: ``pip install "recovery-coordinator[livekit]"``; see docs/livekit.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.adapters.livekit.agent import recover
    from coordinator.adapters.livekit.call import LiveKitCall
    from coordinator.adapters.livekit.server import RecoveringServer

__all__ = ["LiveKitCall", "RecoveringServer", "recover"]

_WHERE = {"LiveKitCall": "call", "RecoveringServer": "server", "recover": "agent"}


def __getattr__(name: str) -> Any:
    """What is decided here can be used, and tested, without the framework."""
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
