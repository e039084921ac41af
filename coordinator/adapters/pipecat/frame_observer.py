"""What Pipecat shows of a pipeline, for the call that it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipecat.frames.frames import ControlFrame
from pipecat.observers.base_observer import BaseObserver

__all__ = ["FrameObserver", "PulseFrame"]


@dataclass
class PulseFrame(ControlFrame):
    """Goes through the pipeline to show that it moves."""


class FrameObserver(BaseObserver):
    """Tells of frames by their names, of some more than once. Pipecat runs it in a task of its own, so that no frame waits for it.

    Args:
        passed: is called with the name of the frame's class.
    """

    def __init__(self, passed: Callable[[str], None]) -> None:
        super().__init__()
        self._passed = passed
        self._last: Any = None

    async def on_push_frame(self, data: Any) -> None:
        """A frame goes from one processor to the next; each frame comes by many times."""
        if data.frame is not self._last:
            self._last = data.frame
            self._passed(type(data.frame).__name__)
