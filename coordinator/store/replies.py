"""What a script answered: a word, and fields that its header names. One class each; `coordinator.store.calls` has them."""

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
"""Type of a field -> how it is read. What is missing, or does not parse, is 0, empty, or None where the type has it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a script.

    Attributes:
        word: which.
    """

    word: ClassVar[str] = ""

    @classmethod
    def read(cls, raw: Sequence[bytes]) -> Self:
        """The fields that follow the word, as names and values in turn.

        Raises:
            ValueError: one has a name that the header does not list.
        """
        names, readers = _layout(cls)
        if raw[1::2] == names:  # in the header's order, as all scripts answer
            return cls(*[reader(value) for reader, value in zip(readers, raw[2::2], strict=True)])
        given = dict(zip(raw[1::2], raw[2::2], strict=False))
        if unknown := given.keys() - set(names):
            raise ValueError(f"has a field {min(unknown).decode(errors='replace')!r}, which its header does not list")
        return cls(*[reader(given.get(name)) for reader, name in zip(readers, names, strict=True)])


_LAYOUTS: dict[type[Reply], tuple[list[bytes], list[Callable[[bytes | None], Any]]]] = {}


def wire_name(name: str, kind: str) -> str:
    """The name under which a script answers a field: a length of time has its unit there."""
    return f"{name}_ms" if kind == "float" else name


def _layout(of: type[Reply]) -> tuple[list[bytes], list[Callable[[bytes | None], Any]]]:
    """Names of the fields, and how each is read."""
    found = _LAYOUTS.get(of)
    if found is None:
        listed = fields(of)
        found = (
            [wire_name(one.name, str(one.type)).encode() for one in listed],
            [READERS[str(one.type)] for one in listed],
        )
        _LAYOUTS[of] = found
    return found


def epoch_in(reply: Reply) -> int:
    """The epoch that a reply tells of, of whatever script; 0 where it tells of none."""
    epoch: int = getattr(reply, "epoch", 0)
    return epoch
