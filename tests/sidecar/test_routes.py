"""Handlers carry their routes: each that is written is served, and what two say against each other is noticed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, cast

import pytest

from coordinator.settings import load
from coordinator.sidecar import routes
from coordinator.sidecar.api import table_of
from coordinator.sidecar.callers import Caller
from coordinator.sidecar.routing import Answer, HttpCall, HttpReply, Table, operation
from tests.sidecar.test_callers import CALLERS

NOBODY = cast(Any, None)


def written() -> Iterator[tuple[str, Any]]:
    """Public methods of the classes of all route files, by name."""
    for file in pkgutil.iter_modules(routes.__path__, f"{routes.__name__}."):
        for kind in vars(importlib.import_module(file.name)).values():
            if inspect.isclass(kind) and kind.__module__ == file.name:
                yield from ((name, one) for name, one in vars(kind).items() if not name.startswith("_"))


def served() -> Table:
    return table_of(load(), NOBODY, NOBODY, NOBODY, [], "nobody")


def test_each_handler_that_is_written_is_served() -> None:
    """Every public method of a route file is the handler of one operation, with its name, and nothing else is."""
    handlers = dict(written())
    assert {o.name: cast(Any, o.handler).__func__ for o in served().operations} == handlers
    assert handlers.keys() == CALLERS.keys()


def test_an_operation_is_found_by_its_route() -> None:
    """For each one its method and path lead to it, with the values of the path."""
    table = served()
    for one in table.operations:
        path = one.template.replace("{instance}", "voice~1").replace("{id}", "a%2Fb")
        values = {
            name: value for name, value in (("instance", "voice~1"), ("id", "a/b")) if f"{{{name}}}" in one.template
        }
        assert table.find(one.method, path) == (one, values)


class _New:
    @operation("GET /v1/new", callers=Caller.WORKER, answers={HTTPStatus.OK: Answer("all")}, takes_up="none")
    async def new(self, call: HttpCall) -> HttpReply:
        """Is new; and so is `This`."""
        return HttpReply()


def test_what_a_handler_declares() -> None:
    """Its name and its docstring are the operation's, and the rest as it says."""
    one = Table.of(_New()).operations[0]
    assert (one.method, one.template, one.name, one.text) == ("GET", "/v1/new", "new", "is new; and so is `This`")
    assert (one.callers, one.answers, one.takes_up) == (Caller.WORKER, {HTTPStatus.OK: Answer("all")}, "none")


def test_two_handlers_of_one_route_or_name_are_none() -> None:
    """The second is refused when the table is made, not when it is asked for."""

    class OtherName:
        @operation("GET /v1/new", callers=Caller.WORKER, answers={})
        async def newer(self, call: HttpCall) -> HttpReply:
            """Is newer."""
            return HttpReply()

    class OtherRoute:
        @operation("PUT /v1/new", callers=Caller.WORKER, answers={})
        async def new(self, call: HttpCall) -> HttpReply:
            """Is newer."""
            return HttpReply()

    for other in (OtherName(), OtherRoute()):
        with pytest.raises(ValueError, match=r"/v1/new newe?r?: there is new already"):
            Table.of(_New(), other)
