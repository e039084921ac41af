"""Commands as bytes for the wire, each by itself, before anything is sent: a wrong one hurts its own caller only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis

from coordinator.errors import CoordinatorError, InvalidIdError
from coordinator.store.scripts import SERVER, Argument

__all__ = ["Packed", "pack"]


class Packed(NamedTuple):
    """One command. Only the server's run id is missing in its bytes, which the connection knows.

    Attributes:
        pieces: the bytes, taken apart where the run id belongs.
        size: bytes without the run id.
    """

    pieces: tuple[bytes, ...]
    size: int

    def to(self, server: bytes) -> bytes:
        """The bytes for a connection to the server with this run id."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        return (b"$%d\r\n%b\r\n" % (len(server), server)).join(self.pieces)


def pack(command: Sequence[Argument]) -> Packed:
    """Packs a command.

    Raises:
        InvalidIdError: a text cannot be encoded.
        CoordinatorError: an argument is of a type that Redis does not take, or the command is empty.
    """
    if not command:
        raise CoordinatorError("an empty command is not a command: Redis would never answer it")
    pieces, at = [], 0
    try:
        for i, argument in enumerate(command):
            if argument is SERVER:
                pieces.append(_strings(command[at:i]))
                at = i + 1
        if not pieces:
            whole: bytes = _pack(tuple(command))
            return Packed((whole,), len(whole))
        pieces.append(_strings(command[at:]))
    except (TypeError, ValueError) as error:
        raise _refusal(command) from error
    pieces[0] = b"*%d\r\n%b" % (len(command), pieces[0])
    return Packed(tuple(pieces), sum(map(len, pieces)))


_pack: Any = hiredis.pack_command


def _strings(arguments: Sequence[Argument]) -> bytes:
    """Arguments without the header that counts them."""
    packed: bytes = _pack(tuple(arguments))
    return packed[packed.index(b"\n") + 1 :]


def _refusal(command: Sequence[Any]) -> CoordinatorError:
    """What is wrong with a command that cannot be packed. The value itself is shown only when it is text."""
    for argument in command:
        if isinstance(argument, str):
            try:
                argument.encode()
            except UnicodeEncodeError:
                return InvalidIdError(argument, "text that can be encoded as UTF-8 (it has a lone surrogate)")
        elif isinstance(argument, bool) or not isinstance(argument, bytes | int | float):
            kind = type(argument).__name__
            return CoordinatorError(
                f"an argument of {command[0]} is of type {kind}; Redis takes text, bytes and numbers"
            )
    return CoordinatorError(f"the arguments of {command[0]} cannot be sent to Redis")
