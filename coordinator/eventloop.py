"""The event loop that this package runs on: asyncio's, or one of its kind such as uvloop."""

from __future__ import annotations

import asyncio

from coordinator.errors import ConfigurationError

__all__ = ["check_event_loop"]


def check_event_loop(what: str) -> None:
    """Refuses any other event loop, such as trio's: redis-py has no connections for it.

    Args:
        what: name of what is about to run, for the message.

    Raises:
        ConfigurationError: one sentence.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise ConfigurationError(
            f"{what} runs on asyncio (uvloop too), and this task does not: "
            "start the program with asyncio.run(main()) or anyio.run(main), not with trio"
        )
