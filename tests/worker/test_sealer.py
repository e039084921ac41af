"""Sealed recovery data: opens where it was sealed for, with the right key, as it was given; nowhere else."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import Worker
from coordinator.errors import ConfigurationError, KeyUnknownError, SealBrokenError
from coordinator.keyring import KEY_BYTES, KeyRing
from coordinator.store.shapes import faults
from coordinator.worker.data import decode
from coordinator.worker.sealer import MORE_BYTES, OPENING, Place, Sealer, key_of
from tests import inside

KEYS = {key_id: os.urandom(KEY_BYTES) for key_id in ("k1", "k2")}
RING = KeyRing(KEYS)
OTHER_WAY = KeyRing({key_id: KEYS[key_id] for key_id in ("k2", "k1")})
PLACE = Place("call-1", "acme", 7)

texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=20)
places = st.builds(Place, texts, texts, st.integers(OPENING, 2**53 - 1))


@given(places, st.binary(max_size=300), st.sampled_from(["json", "bytes"]), st.sampled_from([RING, OTHER_WAY]))
def test_what_is_sealed_opens_as_it_was_given(place: Place, data: bytes, encoding: str, ring: KeyRing) -> None:
    """Any bytes, at any place, with any key that the reader has; longer by a fixed number of bytes, in a form that parses."""
    written = Sealer("recovery", ring).seal(place, data, encoding)
    assert Sealer("recovery", RING).open(place, written["data"], written["encoding"]) == (data, encoding)
    assert len(written["data"]) == len(data) + MORE_BYTES
    assert not faults("session", {"encoding": written["encoding"].encode()})
    assert key_of(written["encoding"]) == ring.ids[0]


@given(places, places, st.binary(max_size=50), st.sampled_from(["recovery", "other"]))
def test_at_any_other_place_it_does_not_open(place: Place, other: Place, data: bytes, prefix: str) -> None:
    """Copied to another deployment, tenant or session, or to a record of a lower epoch, it is broken."""
    written = Sealer("recovery", RING).seal(place, data, "bytes")
    same = (prefix, *other[:2]) == ("recovery", *place[:2]) and other.epoch >= place.epoch
    try:
        Sealer(prefix, RING).open(other, written["data"], written["encoding"])
        assert same
    except SealBrokenError:
        assert not same


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        ("other", PLACE), ("recovery", Place("call-2", "acme", 7)), ("recovery", Place("call-1", "globex", 7)),
        ("recovery", Place("call-1", "", 7)), ("recovery", Place("call-1", "acme", 6)),
    ],
)  # fmt: skip
def test_one_thing_that_differs_is_enough(prefix: str, place: Place) -> None:
    """Another prefix, session or tenant, or a record whose epoch is below the writer's; at a later epoch it opens."""
    written = Sealer("recovery", RING).seal(PLACE, b"x", "bytes")
    with pytest.raises(SealBrokenError):
        Sealer(prefix, RING).open(place, **written)
    assert Sealer("recovery", RING).open(PLACE._replace(epoch=8), **written) == (b"x", "bytes")


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_of_it_can_be_changed(at: int, bit: int) -> None:
    """Neither in the data nor in what stands beside it: whatever still parses is broken, or says another key."""
    written = Sealer("recovery", RING).seal(PLACE, b"secret", "bytes")
    whole = bytearray(written["encoding"].encode() + b"\0" + written["data"])
    whole[at % len(whole)] ^= 1 << bit
    header, _, data = bytes(whole).partition(b"\0")
    encoding = header.decode("latin-1")
    if not encoding.startswith("sealed:"):
        return  # it says that it is plain: see `sealed_only`
    with pytest.raises((SealBrokenError, KeyUnknownError)):
        Sealer("recovery", RING).open(PLACE, data, encoding)


@pytest.mark.parametrize(("key_id", "epoch", "inner"), [("k2", 7, "json"), ("k1", 6, "json"), ("k1", 7, "bytes")])
def test_what_stands_beside_it_is_bound(key_id: str, epoch: int, inner: str) -> None:
    """Another key, epoch or form than it was sealed with does not open it."""
    written = Sealer("recovery", RING).seal(PLACE, b"{}", "json")
    with pytest.raises(SealBrokenError):
        Sealer("recovery", RING).open(
            PLACE, written["data"], f"sealed:1:{key_id}:{epoch}:{inner}:{RING.fingerprint(key_id)}"
        )


def test_another_key_of_the_same_id_is_one_that_is_missing() -> None:
    """Data that it did not seal are not broken: they wait for who has the right one, and the message tells the two apart."""
    written = Sealer("recovery", RING).seal(PLACE, b"x", "bytes")
    other = Sealer("recovery", KeyRing.parse(KeyRing.generate("k1")))
    for told in (lambda: other.open(PLACE, **written), lambda: other.check(PLACE.session, written["encoding"])):
        with pytest.raises(KeyUnknownError, match="has another key of that id") as error:
            told()
        assert error.value.key_id == "k1"


def test_data_without_a_fingerprint_open() -> None:
    """As they were sealed before there was one; where one was taken away, what it was sealed for is another."""
    sealer = Sealer("recovery", RING)
    nonce, header = bytes(12), "sealed:1:k1:7:json"
    sealed = inside.seal_without_fingerprint(sealer, RING, "k1", PLACE, nonce, b"{}", header)
    assert sealer.open(PLACE, sealed, header) == (b"{}", "json")
    written = sealer.seal(PLACE, b"{}", "json")
    with pytest.raises(SealBrokenError):
        sealer.open(PLACE, written["data"], written["encoding"].rpartition(":")[0])


@pytest.mark.parametrize(
    "encoding", ["sealed:1:gone:0:json:01234567", "sealed:1:gone:0:json", "sealed:2:k1:whatever", "sealed:1:k1:x:json"]
)
def test_an_unknown_key_or_form_is_named(encoding: str) -> None:
    """It is not broken: another program may open it, so it is told by its key, or by the whole form."""
    with pytest.raises(KeyUnknownError) as told:
        Sealer("recovery", RING).open(PLACE, b"x" * 40, encoding)
    assert told.value.key_id == key_of(encoding) in str(told.value)
    assert not faults("session", {"encoding": encoding.encode()})


def test_without_keys_all_is_as_it_was() -> None:
    """Nothing is sealed; what is sealed is told by its key's id, and never taken for data."""
    plain = Sealer("recovery")
    assert plain.seal(PLACE, b"x", "bytes") == {"data": b"x", "encoding": "bytes"}
    written = Sealer("recovery", RING).seal(PLACE, b"x", "bytes")
    with pytest.raises(KeyUnknownError, match="'k1'"):
        plain.open(PLACE, **written)
    with pytest.raises(KeyUnknownError):
        plain.may_overwrite("call-1", written["encoding"])
    with pytest.raises(ValueError, match="sealed"):
        decode(written["data"], written["encoding"])


def test_plain_data_is_readable_unless_sealed_only() -> None:
    """With keys old plain records open as they are; with `sealed_only` they count as broken, and it needs keys."""
    assert Sealer("recovery", RING).open(PLACE, b"{}", "json") == (b"{}", "json")
    with pytest.raises(SealBrokenError, match="sealed_only"):
        Sealer("recovery", RING, sealed_only=True).open(PLACE, b"{}", "json")
    with pytest.raises(ConfigurationError, match="sealed_only"):
        Sealer("recovery", sealed_only=True)


def test_what_is_missing_for_sealing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys and without the package for it a worker does not start, and says what to install; without keys it does."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    keys = KeyRing.generate("k1")
    with pytest.raises(ConfigurationError, match="install this package with its extra sealing"):
        Worker("redis://nowhere", encryption_keys=keys)
    Worker("redis://nowhere")


def test_keys_of_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By keyword as text, as a ring, or as what returns one, each before the environment's file; wrong ones stop it at once."""
    (tmp_path / "keys").write_text(KeyRing.generate("of-the-file"))
    monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS_FILE", str(tmp_path / "keys"))
    ways: list[tuple[Any, str]] = [
        (KeyRing.generate("text"), "text"), (RING, "k1"), (lambda: OTHER_WAY, "k2"), (None, "of-the-file"),
    ]  # fmt: skip
    for keys, seals in ways:
        written = inside.sealer_of(Worker("redis://nowhere", encryption_keys=keys)).seal(PLACE, b"x", "bytes")
        assert key_of(written["encoding"]) == seals
    with pytest.raises(ConfigurationError, match="encryption_keys"):
        Worker("redis://nowhere", encryption_keys="no key")


def test_it_is_sealed_once() -> None:
    """What is sealed already, and what is no data, stays as it is; the same data gives other bytes each time."""
    sealer = Sealer("recovery", RING)
    written = sealer.seal(PLACE, b"x", "bytes")
    assert sealer.seal(PLACE, **written) == written
    assert sealer.seal(PLACE, b"", "") == {"data": b"", "encoding": ""}
    assert sealer.seal(PLACE, b"x", "bytes")["data"] != written["data"]


def test_errors_say_nothing_of_data_and_keys() -> None:
    """They name session, key id and what is wrong."""
    sealer, told = Sealer("recovery", RING), []
    written = sealer.seal(PLACE, b"canary", "bytes")
    for data, encoding in ((written["data"][::-1], written["encoding"]), (b"canary", "sealed:1:k9:0:bytes:01234567")):
        with pytest.raises((SealBrokenError, KeyUnknownError)) as error:
            sealer.open(PLACE, data, encoding)
        told.append(str(error.value))
    assert not any(base64.b64encode(key).decode() in "".join(told) for key in KEYS.values())
    assert "canary" not in "".join(told)
