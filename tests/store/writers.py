"""Every script that writes for an owner, found by what it uses, and every reason for which it must refuse one that is not.

A writer is called by its header alone, so a new one is among them as soon as it uses the owner's check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from coordinator.sessions import calls as sessions
from coordinator.sessions.header import version_of
from coordinator.sessions.keys import SessionKeys
from coordinator.store import calls
from coordinator.store.fence import Fence
from coordinator.store.replies import Reply
from coordinator.store.scripts import SCRIPTS, Argument, Script, ScriptCall
from tests.store.harness import LEASE, LEASE_MS, Bench

__all__ = ["OWNERS_CHECK", "REASONS", "WRITERS", "Reason", "Writer", "asked", "check_owner", "check_refusal"]

OWNERS_CHECK = "owner"
"""Name of the piece of Lua."""
ID, OWNER, HEIR = "s", "a~1", "b~1"
HOLD_MS = 60_000
CONVERSATION = b'{"id":"s","status":"active","updated_at":"2026-01-01T00:00:00Z"}'
_ARGUMENT = re.compile(r"^-- ARGV (\w+) +(\w+)", re.MULTILINE)
_SOME: Mapping[str, Argument] = {
    "int": 60_000,
    "duration": 60_000,
    "share": 300,
    "text": "x",
    "bytes": b"x",
    "flag": 1,
    "reason": "x",
}


@dataclass(frozen=True)
class Writer:
    """A script that writes for an owner.

    Attributes:
        script: as it is loaded, or with a rule taken out of it.
        package: whose it is.
    """

    script: Script
    package: str

    @property
    def name(self) -> str:
        return (
            self.script.name
            if self.package == "coordinator.store"
            else f"{self.package.split('.')[1]}.{self.script.name}"
        )

    @property
    def operation(self) -> str:
        """Under which its refusals are counted."""
        return self.script.name if self.package == "coordinator.store" else f"session_{self.script.name}"

    @property
    def resyncs(self) -> bool:
        """Whether it tells lost writes from a lost session; one that only permits to believe for a moment does not."""
        return "RESYNC" in self.script.header.replies

    def call(self, bench: Bench, epoch: int) -> ScriptCall[Reply]:
        """It writes for the owner of the scene, under this epoch."""
        header, keys = self.script.header, _keys(bench)
        given = {
            "id": ID,
            "owner": OWNER,
            "owner_id": OWNER,
            "heir_id": HEIR,
            "epoch": epoch,
            "server": bench.server_id,
        }
        given |= {"value": CONVERSATION, "version": version_of(CONVERSATION), "expected": "", "seen": ""}
        kinds = dict(_ARGUMENT.findall((resources.files(self.package) / "lua" / f"{self.script.name}.lua").read_text()))
        fence = Fence(bench.keys, ID, OWNER, epoch)
        fenced = header.repeated_key == "fence"
        if fenced:
            keys |= {"session": SessionKeys().session(ID), "active": SessionKeys().active}
        return ScriptCall(
            self.script,
            (*(keys[name] for name in header.keys), *(fence.declared if fenced else ())),
            (*(given.get(name, _SOME[kinds[name]]) for name in header.args), *(fence.arguments if fenced else ())),
            getattr(calls if self.package == "coordinator.store" else sessions, f"_{self.script.name.upper()}"),
        )


def _keys(bench: Bench) -> dict[str, str]:
    """The keys of the scene by the names that headers give them."""
    k = bench.keys
    return {
        "meta": k.meta, "detector": k.detector, "events": k.events, "instances": k.instances, "leases": k.leases,
        "orphans": k.orphans, "dead_letters": k.dead_letters, "session": k.session(ID), "offers": k.offers("default"),
        "instance": k.instance(OWNER), "owned": k.owned(OWNER), "blamed": k.blamed(OWNER), "mailbox": k.mailbox(HEIR),
        "heir": k.instance(HEIR), "heir_owned": k.owned(HEIR), "heir_blamed": k.blamed(HEIR),
    }  # fmt: skip


WRITERS = tuple(
    Writer(script, package)
    for package, scripts in (("coordinator.store", SCRIPTS), ("coordinator.sessions", sessions.SCRIPTS))
    for script in scripts.values()
    if OWNERS_CHECK in script.header.uses
)


@dataclass(frozen=True)
class Reason:
    """Why a write must be refused.

    Attributes:
        name: for people.
        answer: "session" or "instance" when that is refused for good; else the word.
        bring_about: does it to the store of the scene; its second argument is the epoch under which the owner writes.
    """

    name: str
    answer: str
    bring_about: Callable[[Bench, int], object]


def _record(**fields: object) -> Callable[[Bench, int], object]:
    """The record has these fields, and everything else is as it was."""
    return lambda b, e: b.client.hset(b.keys.session(ID), mapping=fields)


def _hold(bench: Bench, _: int) -> None:
    """For now nothing changes hands."""
    seconds, _micros = bench.client.time()
    bench.client.hset(bench.keys.detector, "transfers_held_until_ms", seconds * 1000 + HOLD_MS // 2)


def _epoch(change: int) -> Callable[[Bench, int], object]:
    return lambda b, e: b.client.hset(b.keys.session(ID), "epoch", e + change)


def _both(*reasons: Callable[[Bench, int], object]) -> Callable[[Bench, int], object]:
    return lambda b, e: [one(b, e) for one in reasons]


def _dies(bench: Bench, _: int) -> None:
    bench.certify(OWNER)


_OTHER, _ANEW = _record(owner=HEIR), _record(anew="1")
REASONS = (
    Reason("another owner", "session", _OTHER),
    Reason("another owner under a newer epoch", "session", _both(_OTHER, _epoch(1))),
    Reason("a newer epoch of the same owner", "session", _epoch(1)),
    Reason("it is closed", "session", _record(state="closed")),
    Reason("it is offered", "session", _record(state="offered")),
    Reason("it is a dead letter", "session", _record(state="dead_lettered")),
    Reason("its owner is dead", "instance", _dies),
    Reason("its owner is dead, and it is closed", "instance", _both(_dies, _record(state="closed"))),
    Reason("its owner is dead, and there is a hold", "instance", _both(_dies, _hold)),
    Reason("its owner is unknown", "UNKNOWN", lambda b, e: b.client.delete(b.keys.instance(OWNER))),
    Reason("the store has an older epoch", "RESYNC", _epoch(-1)),
    Reason("the store has an older epoch of another", "RESYNC", _both(_OTHER, _epoch(-1))),
    Reason("the store has no record", "RESYNC", lambda b, e: b.client.delete(b.keys.session(ID))),
    Reason("there is a hold", "HELD", _hold),
    Reason("another owner, and there is a hold", "HELD", _both(_OTHER, _hold)),
    Reason("it was stated again", "RESYNC", _ANEW),
    Reason("another owner stated it again", "session", _both(_OTHER, _epoch(1), _ANEW)),
)  # fmt: skip
"""Each part of the check alone, and which comes first of two."""
OWN_ANSWERS = {("close", "it is closed"): "OK", ("let_go", "it is closed"): "GONE"}
"""A repetition finds it closed; who is asked to let go of what it closed says so."""


def asked(writer: Writer, reason: Reason) -> bool:
    """Whether a writer has to look at this: one that only permits to believe for a moment looks at no hold and no renewal."""
    return writer.resyncs or reason.name not in ("it was stated again", "there is a hold")


def check_owner(bench: Bench, writer: Writer) -> None:
    """The owner itself is let through."""
    answer = bench.run(writer.call(bench, _scene(bench)))
    assert answer.word == "OK", f"{writer.name} refuses the owner: {answer}"


def check_refusal(bench: Bench, writer: Writer, reason: Reason) -> None:
    """It answers what it must, writes nothing, and tells of a refusal for good once."""
    epoch = _scene(bench)
    reason.bring_about(bench, epoch)
    record, before, told = bench.record(ID), _everything(bench), _refusals(bench)
    answer = bench.run(writer.call(bench, epoch))
    word, fields = _expected(writer, reason, record)
    assert (answer.word, {name: str(value or "") for name, value in answer.fields.items()}) == (word, fields)
    assert _everything(bench) == before, "nothing is written"
    told_now = _refusals(bench)[len(told) :]
    tells = word == "FENCED" and "events" in (*writer.script.header.keys, *_fence_keys(writer))
    assert told_now == ([(writer.operation, ID, OWNER, str(epoch))] if tells else [])


def _scene(bench: Bench) -> int:
    """Two instances; the first owns a session and is asked by the second to hand it over; the owner's epoch."""
    bench.client.flushall()
    bench.init(hold_ms=HOLD_MS)
    bench.end_hold()
    bench.join(OWNER)
    bench.join(HEIR)
    epoch = bench.open(ID, OWNER, b"data").int("epoch")
    ask = calls.ask(bench.keys, session=ID, instance=HEIR, owner=OWNER, request="ask", lease=LEASE)
    assert bench.run(ask).word == "OK"
    bench.client.set(SessionKeys().session(ID), CONVERSATION, px=LEASE_MS)
    return epoch


def _fence_keys(writer: Writer) -> tuple[str, ...]:
    return ("events",) if writer.script.header.repeated_key == "fence" else ()


def _expected(writer: Writer, reason: Reason, record: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Word and fields of the answer."""
    own = OWN_ANSWERS.get((writer.name, reason.name))
    if own:
        return own, {name: record[name] for name in writer.script.header.replies[own]}
    if not writer.resyncs:
        return "FENCED", {}
    match reason.answer:
        case "session":
            return "FENCED", {"scope": "session"} | {name: record[name] for name in ("owner", "epoch", "state")}
        case "instance":
            return "FENCED", {"scope": "instance", "owner": "", "epoch": "", "state": ""}
        case "HELD" if "HELD" not in writer.script.header.replies:
            return "RESYNC", {}
        case word:
            return word, {}


def _everything(bench: Bench) -> dict[bytes, tuple[bytes, bool]]:
    """Each key with all that is in it and whether it expires; but for the events."""
    keys = [key for key in bench.client.scan_iter(count=1000) if key.decode() != bench.keys.events]
    return {key: (bench.client.dump(key), bench.client.pttl(key) > 0) for key in keys}


def _refusals(bench: Bench) -> list[tuple[str, ...]]:
    """Operation, session, instance and epoch of each that was told."""
    names = (b"operation", b"session", b"instance", b"epoch")
    entries = [fields for _, fields in bench.client.xrange(bench.keys.events)]
    return [tuple(fields[name].decode() for name in names) for fields in entries if fields[b"type"] == b"fenced"]
