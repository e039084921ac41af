"""What Pipecat shows of a pipeline, for the call that it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from pipecat.frames.frames import ControlFrame
from pipecat.observers.base_observer import BaseObserver

from coordinator import clock
from coordinator.adapters.pipecat.frame_turns import FIRST_BYTE, FIRST_WORD, TURN_FRAMES, SeenFrame, ServiceTime

__all__ = ["FrameObserver", "PulseFrame"]

MEASURED = {FIRST_BYTE: "value", FIRST_WORD: "ttfat"}
"""What is read of a metric, by its class."""


@dataclass
class PulseFrame(ControlFrame):
    """Goes through the pipeline to show that it moves."""


class FrameObserver(BaseObserver):
    """Tells of frames by their names, of some more than once. Pipecat runs it in a task of its own, so that no frame waits for it.

    Args:
        passed: is called with the name of the frame's class.
        turned: is called once with each frame of `TURN_FRAMES`.
    """

    def __init__(self, passed: Callable[[str], None], turned: Callable[[SeenFrame], None]) -> None:
        super().__init__()
        self._passed, self._turned = passed, turned
        self._last: Any = None
        self._seen: WeakValueDictionary[int, Any] = WeakValueDictionary()  # as long as they are on their way

    async def on_push_frame(self, data: Any) -> None:
        """A frame goes from one processor to the next; each frame comes by many times."""
        frame = data.frame
        if frame is self._last:
            return
        self._last = frame
        name = type(frame).__name__
        self._passed(name)
        if name in TURN_FRAMES and self._seen.get(id(frame)) is not frame:
            self._seen[id(frame)] = frame
            self._turned(_seen(name, frame, data.source))


def _seen(name: str, frame: Any, source: Any) -> SeenFrame:
    times = getattr(frame, "data", ()) if name == "MetricsFrame" else ()
    return SeenFrame(
        name,
        clock.now(),
        str(getattr(source, "name", "")),
        getattr(frame, "stop_secs", 0.0),
        tuple(
            ServiceTime(one.processor, kind, getattr(one, MEASURED[kind], 0.0))
            for one in times
            if (kind := type(one).__name__) in MEASURED
        ),
    )
