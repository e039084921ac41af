"""An heir prepares before it adopts: it joins the call's room, warms up a model, and only then takes the call."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from coordinator.worker.data import Data
from coordinator.worker.offer import Offer

__all__ = ["Prepare", "preparation"]

Prepare = Callable[[Offer[Data]], Awaitable[Any] | AbstractAsyncContextManager[Any]]
"""Prepares for one offer. What a context manager has entered is left when the call is over here, or was not adopted after all."""


@asynccontextmanager
async def preparation(prepare: Prepare[Any], offer: Offer[Any]) -> AsyncIterator[Any]:
    """What ``prepare`` made for an offer, until it is no longer needed.

    Raises:
        TypeError: ``prepare`` returned neither of what `Prepare` may return.
    """
    made = prepare(offer)
    if isinstance(made, AbstractAsyncContextManager):
        async with made as entered:
            yield entered
    elif inspect.isawaitable(made):
        yield await made
    else:
        raise TypeError(f"prepare returned {type(made).__name__}: it must be async, or return an async context manager")
