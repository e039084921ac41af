"""Commands as bytes."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest

from coordinator.errors import CoordinatorError, InvalidIdError
from coordinator.store.packing import pack
from coordinator.store.scripts import SERVER

hiredis_pack: Any = hiredis.pack_command
EVALSHA = ("EVALSHA", "0" * 40, 1, "{recovery:0}:meta")


def test_a_command_is_packed_as_the_client_library_packs_it() -> None:
    """Text, bytes and numbers, with what any of them may hold."""
    command = ("HSET", "clé", b"\x00\r\n$3", 42, -1, "")
    packed = pack(command)
    assert packed.to(b"whatever") == hiredis_pack(command)
    assert packed.size == len(packed.to(b""))


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("server", [b"", b"a" * 40, b"x"])
def test_the_run_id_is_filled_in_when_it_is_known(place: int, server: bytes) -> None:
    """Wherever it stands among the arguments; the rest was packed before."""
    arguments: list[Any] = ["one", b"\r\n"]
    arguments.insert(place, SERVER)
    filled = [server if a is SERVER else a for a in arguments]
    assert pack((*EVALSHA, *arguments)).to(server) == hiredis_pack((*EVALSHA, *filled))


def test_text_that_cannot_be_encoded_is_named() -> None:
    """A lone surrogate: one sentence with the value and the rule."""
    with pytest.raises(InvalidIdError, match=r"'a\\udcffb' is not text that can be encoded as UTF-8"):
        pack((*EVALSHA, SERVER, "fine", "a\udcffb"))


@pytest.mark.parametrize("wrong", [None, True, {"call_sid": "secret"}, ["a"], object()])
def test_an_argument_of_a_wrong_type_is_named_without_its_value(wrong: Any) -> None:
    """It may be recovery data; its type says enough."""
    with pytest.raises(CoordinatorError, match="an argument of SET is of type") as refused:
        pack(("SET", "key", wrong))
    assert "secret" not in str(refused.value)


def test_no_command_at_all_is_refused() -> None:
    """Redis would not answer it, and every later answer would be somebody else's."""
    with pytest.raises(CoordinatorError, match="empty"):
        pack(())
