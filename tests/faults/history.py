"""What every process did and when, as lines of JSON, and the checker of the promises, which reads nothing else.

Times are seconds of CLOCK_BOOTTIME, one clock for all processes of a machine. Kinds of lines:

grant        a session became mine: ``session epoch data how cause previous sent at`` (how: opened, adopted, renewed)
adopting     an adoption is about to be sent: ``session instance``
checkpoint   a write and its answer: ``session epoch data sent at answer`` (answer: ok, fenced, unknown)
sending      a write that is about to be sent: ``session epoch data``
close        the call ended here: ``session epoch at``
media        a media tick of a worker: ``name``, ``held``, ``served`` by a running handler, and ``speaks``, each session -> epoch
dies         a worker is about to kill itself: ``instance``
beat         a heartbeat: ``instance sent at answer``
killed       by the test: ``instances at``
expected     by the test: ``instances``: so long a stand-still or cut that their death is right
final        the store at the end: ``session state owner epoch data reason``
"""

from __future__ import annotations

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from coordinator import clock

__all__ = ["Recorder", "check", "longest_without", "lost_writes", "read", "takeovers"]

Line = dict[str, Any]


class Recorder:
    """Appends to a history file; each line is one write, so processes may share the file."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, kind: str, **fields: Any) -> None:
        """One line, with the time unless it is given."""
        fields.setdefault("at", clock.now())
        os.write(self._file, json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def close(self) -> None:
        """No more lines."""
        os.close(self._file)


def read(path: str | Path, *, last_bytes: int = 0) -> list[Line]:
    """All whole lines, by time; or those of the last so many bytes."""
    lines = []
    with Path(path).open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - last_bytes) if last_bytes else 0)
        raw = file.read()
    for text in raw.split(b"\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue  # a process was killed in the middle of a line
    return sorted(lines, key=lambda line: float(line["at"]))


def check(history: Sequence[Line], *, unreplicated: float = 0.0) -> list[str]:
    """Every promise that the history breaks, in words; empty when it keeps all.

    Args:
        unreplicated: seconds of acknowledged writes that may be lost with an owner that was killed (`lost_writes` has how many
            were): what its primary had not sent to a replica before that was made primary.

    G1  no write is accepted that was sent after a higher epoch was granted; no two hold a session at once
    G2  at the end every session is served by a handler of a living owner, or closed, or a dead letter with a reason
    G3  epochs of a session rise from grant to grant
    G4  nobody is adopted from whose instance was neither killed, nor expected to die, nor left by itself; and nobody acts
        after its death
    G7  an adopter gets what was last acknowledged, or a later write whose answer is not known
    """
    kinds: dict[str, list[Line]] = defaultdict(list)
    for line in history:
        kinds[line["kind"]].append(line)
    grants: dict[str, list[Line]] = defaultdict(list)
    for line in kinds["grant"]:
        grants[line["session"]].append(line)
    return [
        *_one_owner(kinds, grants),
        *_nothing_lost(kinds, grants),
        *_epochs_rise(grants),
        *_no_false_deaths(kinds),
        *_data(kinds, grants, unreplicated),
    ]


def _one_owner(kinds: dict[str, list[Line]], grants: dict[str, list[Line]]) -> Iterable[str]:
    for write in kinds["checkpoint"]:
        if write["answer"] != "ok":
            continue
        for grant in grants[write["session"]]:
            if grant["epoch"] > write["epoch"] and grant["at"] < write["sent"]:
                yield f"G1: a write of {write['session']} with epoch {write['epoch']} was accepted after {grant['epoch']}"
                break
    for tick in kinds["media"]:
        for session, epoch in tick["held"].items():
            for grant in grants[session]:
                if grant["epoch"] > epoch and grant["at"] < tick["at"] and grant["how"] != "renewed":
                    yield f"G1: {session} is held with epoch {epoch} at {tick['at']:.3f}, after {grant['epoch']} was granted"
                    break


def _nothing_lost(kinds: dict[str, list[Line]], grants: dict[str, list[Line]]) -> Iterable[str]:
    closed = {line["session"] for line in kinds["close"]}
    final = {line["session"]: line for line in kinds["final"]}
    last_served: dict[str, tuple[float, int]] = {}
    for tick in kinds["media"]:
        for session, epoch in tick["served"].items():
            if tick["held"].get(session) == epoch:
                last_served[session] = (tick["at"], epoch)
    end = max((line["at"] for line in kinds["final"]), default=0.0)
    for session in grants:
        line = final.get(session)
        if session in closed:
            continue
        if line is None or not line["state"]:
            yield f"G2: {session} is forgotten"
        elif line["state"] == "dead_lettered":
            if not line["reason"]:
                yield f"G2: {session} is a dead letter without a reason"
        elif line["state"] != "active":
            yield f"G2: {session} is {line['state']} at the end"
        else:
            at, epoch = last_served.get(session, (0.0, 0))
            if end - at > 1.0 or epoch != line["epoch"]:
                yield f"G2: {session} is owned by {line['owner']} under {line['epoch']}, and nobody serves it"


def _epochs_rise(grants: dict[str, list[Line]]) -> Iterable[str]:
    for session, lines in grants.items():
        for before, after in itertools.pairwise(lines):
            if after["epoch"] <= before["epoch"] and after["sent"] >= before["at"]:
                yield f"G3: {session} got epoch {after['epoch']} after {before['epoch']}"


def _no_false_deaths(kinds: dict[str, list[Line]]) -> Iterable[str]:
    died = {instance: line["at"] for line in kinds["killed"] for instance in line["instances"]}
    expected = {instance for line in kinds["expected"] for instance in line["instances"]}
    told: set[str] = set()
    owners = _owners(kinds["grant"])
    adopting = {(line["session"], line["instance"]): line["at"] for line in kinds["adopting"]}
    gone: dict[str, float] = {}
    for grant in kinds["grant"]:
        previous = grant.get("previous", "")
        if grant["how"] != "adopted" or grant["cause"] in ("released", "left", "handover"):
            continue
        owner = owners.get((grant["session"], grant["epoch"]), previous)
        # who was killed with an adoption under way may have had it and never said so
        under_way = adopting.get((grant["session"], previous), float("inf")) < died.get(previous, float("-inf"))
        if owner != previous and not under_way:
            yield f"G1: {grant['session']} was adopted from {previous}, and {owner} had it"
        gone.setdefault(previous, grant["at"])
        if previous in expected or grant["at"] >= died.get(previous, float("inf")) or previous in told:
            continue
        told.add(previous)
        yield f"G4: {previous} was declared dead ({grant['cause']}) and lives"
    for beat in kinds["beat"]:
        if beat["answer"] in ("OK", "RESYNC") and beat["sent"] > gone.get(beat["instance"], float("inf")):
            yield f"G4: {beat['instance']} beats after its death"


def _owners(grants: list[Line]) -> dict[tuple[str, int], str]:
    """(session, epoch) of each grant -> the instance that had the session before."""
    last: dict[str, str] = {}
    found = {}
    for grant in sorted(grants, key=lambda line: int(line["epoch"])):
        if grant["session"] in last and "instance" in grant:
            found[grant["session"], grant["epoch"]] = last[grant["session"]]
        last[grant["session"]] = grant.get("instance", "")
    return found


def _data(kinds: dict[str, list[Line]], grants: dict[str, list[Line]], unreplicated: float) -> Iterable[str]:
    killed = {instance for line in kinds["killed"] for instance in line["instances"]}
    writes: dict[str, list[Line]] = defaultdict(list)
    for line in kinds["checkpoint"]:
        writes[line["session"]].append(line)
    answered = {(line["session"], line["epoch"], line["data"]) for line in kinds["checkpoint"]}
    for line in kinds["sending"]:  # after a loss an heir writes again what was written before
        if (line["session"], line["epoch"], line["data"]) not in answered:  # its process was killed meanwhile
            writes[line["session"]].append({**line, "sent": line["at"], "answer": "unknown"})
    for session, lines in grants.items():
        for grant in lines:
            if grant["how"] != "adopted":
                continue
            before = [w for w in writes[session] if w["epoch"] < grant["epoch"]]
            known = [w for w in before if w["answer"] == "ok"]
            opened = [g["data"] for g in lines if g["epoch"] < grant["epoch"]]
            last = known[-1] if known else None
            right = {last["data"]} if last else set(opened[-1:])
            # stated again after lost writes, a write may count although it was never acknowledged
            right |= {w["data"] for w in before if w["answer"] != "ok" and (not last or w["sent"] >= last["sent"])}
            if last and grant["previous"] in killed:
                right |= {w["data"] for w in known if last["at"] - w["at"] < unreplicated}
            if grant["data"] not in right:
                yield f"G7: {session} was adopted with {grant['data']!r}, last acknowledged was {sorted(right)!r}"


def lost_writes(history: Sequence[Line]) -> list[float]:
    """For each adopted session whose last acknowledged writes its adopter did not get: the seconds between that and the last."""
    lost = []
    owned_since: dict[str, int] = {}
    for grant in history:
        if grant["kind"] != "grant" or grant["how"] == "renewed":
            continue
        since, owned_since[grant["session"]] = owned_since.get(grant["session"], 0), grant["epoch"]
        if grant["how"] != "adopted":
            continue
        known = [
            line
            for line in history
            if line["kind"] == "checkpoint" and line["session"] == grant["session"]
            if line["answer"] == "ok" and since <= line["epoch"] < grant["epoch"]
        ]
        at = [line["at"] for line in known if line["data"] == grant["data"]]
        if at and at[-1] < known[-1]["at"]:
            lost.append(known[-1]["at"] - at[-1])
    return lost


def takeovers(history: Sequence[Line], instances: Iterable[str], calls: Iterable[str]) -> list[float]:
    """Seconds from the kill of these to the adoption of each of these calls, where they had them."""
    died = {instance: line["at"] for line in history if line["kind"] == "killed" for instance in line["instances"]}
    owners, wanted = {*instances} & died.keys(), {*calls}
    return [
        line["at"] - died[line["previous"]]
        for line in history
        if line["kind"] == "grant" and line["how"] == "adopted"
        if line["previous"] in owners and line["session"] in wanted
    ]


def longest_without(history: Sequence[Line], right: str, until: float) -> float:
    """The longest time for which an owner that stayed the same served a call without a right, ``held`` or ``speaks``."""
    moved = {line["session"] for line in history if line["kind"] == "grant" and line["how"] == "adopted"}
    since: dict[str, float] = {}
    longest = 0.0
    for line in history:
        if line["kind"] != "media" or line["at"] > until:
            continue
        for call in line["served"].keys() - moved:
            if call in line[right]:
                since.pop(call, None)
            else:
                longest = max(longest, line["at"] - since.setdefault(call, line["at"]))
    return longest
