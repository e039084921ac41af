"""What a script answered: a word, and fields that its header names. `coordinator.store.calls` has a class for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from coordinator.clock import in_seconds
from coordinator.store.shapes import text, whole

__all__ = ["Reply", "epoch_in", "wire_name"]


def _whole_if_any(value: bytes | None) -> int | None:
    return whole(value, -1) if value and whole(value, -1) >= 0 else None


def _lines(value: bytes | None) -> tuple[str, ...]:
    return tuple(text(value).split("\n")) if value else ()


READERS: Mapping[str, Callable[[bytes | None], Any]] = {
    "int": whole,
    "int | None": _whole_if_any,
    "float": lambda value: in_seconds(whole(value)),
    "str": lambda value: "" if value is None else value.decode("utf-8", "replace"),
    "bytes": lambda value: value or b"",
    "bool": lambda value: value == b"1",
    "tuple[str, ...]": _lines,
}
"""Type of a field -> how it is read. A value that is missing or does not parse is 0, empty, or None where the type has it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a script.

    Attributes:
        word: the answer's word.
    """

    word: ClassVar[str] = ""

    @classmethod
    def read(cls, raw: Sequence[bytes]) -> Self:
        """Reads the fields that follow the word, as names and values in turn.

        Raises:
            ValueError: a field has a name that the header does not list.
        """
        layout = _LAYOUTS.get(cls) or _laid_out(cls)
        if raw[1::2] == layout.names:  # in the header's order, as all scripts answer
            if layout.alone is not None:
                return layout.alone  # type: ignore[return-value]
            values: Sequence[bytes | None] = raw[2::2]
        else:
            given = dict(zip(raw[1::2], raw[2::2], strict=False))
            if unknown := given.keys() - set(layout.names):
                raise ValueError(
                    f"has a field {min(unknown).decode(errors='replace')!r}, which its header does not list"
                )
            values = [given.get(name) for name in layout.names]
        made = cls.__new__(cls)
        for put, read, value in zip(layout.puts, layout.reads, values, strict=True):
            put(made, read(value))
        return made


class _Layout:
    """How a class is read.

    Filling the slots takes a fifth of the time that the constructor of a frozen class takes, and thousands are made a second.

    Attributes:
        names: of the fields, as they come.
        reads, puts: what makes the value of each, and what puts it into its slot.
        alone: the one object of a class without fields.
    """

    def __init__(self, of: type[Reply]) -> None:
        listed = fields(of)
        self.names = [wire_name(one.name, str(one.type)).encode() for one in listed]
        self.puts: list[Callable[[Reply, Any], None]] = [getattr(of, one.name).__set__ for one in listed]
        self.reads = [READERS[str(one.type)] for one in listed]
        self.alone = None if listed else of()


_LAYOUTS: dict[type[Reply], _Layout] = {}


def _laid_out(of: type[Reply]) -> _Layout:
    layout = _LAYOUTS[of] = _Layout(of)
    return layout


def wire_name(name: str, kind: str) -> str:
    """The name under which a script answers a field: a length of time has its unit there."""
    return f"{name}_ms" if kind == "float" else name


def epoch_in(reply: Reply) -> int:
    """The epoch in a reply of any script; 0 where there is none."""
    epoch: int = getattr(reply, "epoch", 0)
    return epoch
