"""On the PYTHONPATH this makes every event loop of a program, and of what it starts, one of uvloop."""

import asyncio


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # only where a loop is made

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


asyncio.new_event_loop = asyncio.events.new_event_loop = _new_event_loop
