"""Keeps the parts of Pipecat that face the outside world from acting on a call that this worker does not hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["guard_serializer", "guard_transport"]

Serializer = TypeVar("Serializer")
Transport = TypeVar("Transport")


def guard_serializer(serializer: Serializer, may_hang_up: Callable[[], Awaitable[bool]]) -> Serializer:
    """Keeps a serializer from hanging up unless it may; returns it.

    Serializers of telephony providers end the call over the provider's API when the frame comes to them that ends the pipeline,
    whatever ended it.

    Args:
        may_hang_up: is asked each time.
    """
    from pipecat.frames.frames import CancelFrame, EndFrame

    guarded: Any = serializer
    inner = guarded.serialize

    async def serialize(frame: Any) -> Any:
        if isinstance(frame, EndFrame | CancelFrame) and not await may_hang_up():
            return None
        return await inner(frame)

    guarded.serialize = serialize
    return serializer


def guard_transport(transport: Transport, may_speak: Callable[[], bool], heard: Callable[[], None]) -> Transport:
    """Keeps a transport's audio in unless the bot may speak; returns it.

    Args:
        may_speak: is asked for each piece of audio, in the moment in which it would go out.
        heard: is called once, when the first went out.
    """
    guarded: Any = transport
    output = guarded.output()
    inner = output.write_audio_frame
    silent_before = True

    async def write_audio_frame(frame: Any) -> Any:
        nonlocal silent_before
        if not may_speak():
            return False
        written = await inner(frame)
        if written and silent_before:
            silent_before = False
            heard()
        return written

    output.write_audio_frame = write_audio_frame
    return transport
