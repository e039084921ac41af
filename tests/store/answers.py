"""A script's reply as a test looks at it: any field by its name, without a look at its class first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from coordinator.clock import in_ms
from coordinator.store.replies import Reply, wire_name

__all__ = ["Answer"]

_Int = int  # `Answer` has methods of these names
_Bytes = bytes


class Answer:
    """A word, and named fields as Redis has them: lengths of time in ms.

    Attributes:
        reply: the same, typed.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.word = reply.word
        self.fields: Mapping[str, Any] = dict(
            (one.name, value) if str(one.type) != "float" else (wire_name(one.name, "float"), in_ms(value))
            for one in fields(reply)
            for value in [getattr(reply, one.name)]
        )

    def int(self, name: str, default: _Int = 0) -> _Int:
        """A field as a whole number; ``default`` where there is none of that name."""
        value = self.fields.get(name)
        return default if value in (None, "") else _Int(value)

    def text(self, name: str, default: str = "") -> str:
        """A field as text; ``default`` where there is none of that name."""
        value = self.fields.get(name)
        return default if value is None else str(_Int(value)) if isinstance(value, bool) else str(value)

    def bytes(self, name: str) -> _Bytes:
        """A field as it came."""
        value: _Bytes = self.fields[name]
        return value

    def items(self, name: str) -> list[str]:
        """A field that lists things."""
        return list(self.fields.get(name, ()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self.reply == other.reply

    def __hash__(self) -> _Int:
        return hash(self.reply)

    def __repr__(self) -> str:
        return repr(self.reply)
