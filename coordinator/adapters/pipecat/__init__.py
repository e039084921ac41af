"""Pipecat bots whose calls outlive their worker (extra ``pipecat``; docs/pipecat.md has the ten lines that add it).

Nothing of Pipecat is loaded before a bot runs, so that a program can import this package without it.
"""

from coordinator.adapters.pipecat.call import PipecatCall
from coordinator.adapters.pipecat.context_record import new_call
from coordinator.adapters.pipecat.door import WebsocketDoor
from coordinator.adapters.pipecat.rooms import room_handler
from coordinator.adapters.pipecat.start_message import StartMessage

__all__ = ["PipecatCall", "StartMessage", "WebsocketDoor", "new_call", "room_handler"]
