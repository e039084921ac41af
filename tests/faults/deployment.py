"""A Redis, coordinators and workers as real processes, with their history."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.faults.history import Recorder, check, read
from tests.leaks import leaked_keys
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
TAIL_BYTES = 2 * 2**20


class Deployment:
    """Made and started when entered; every process is ended when left.

    Args:
        workers: how many worker processes; each runs ``threads`` workers.
        calls: of each worker.
        settings: of coordinators and workers.
        worker_url: by which workers reach the server.
        proxy: that is there, if any.
        code: folder with another copy of the package ``coordinator`` to run.
        server: the Redis; default one of its own without persistence.
        environment: of the workers.
        named: calls of single workers, by number, instead of ``calls``.
    """

    def __init__(
        self,
        *,
        workers: int = 3,
        calls: int = 5,
        coordinators: int = 2,
        settings: dict[str, Any] | None = None,
        capacity: int = 1000,
        each: int = 1,
        worker_url: str = "",
        proxy: Proxy | None = None,
        code: str = "",
        server: RedisServer | None = None,
        environment: dict[str, str] | None = None,
        named: dict[int, list[str]] | None = None,
    ) -> None:
        self._each, self._counts = each, (workers, calls, coordinators)
        self._settings = {"capacity": capacity, **(settings or {})}
        self.server = server or RedisServer()
        self._worker_url, self.proxy = worker_url or self.server.url, proxy
        self._environment, self._named = dict(environment or {}), named or {}
        if code:
            # that folder before the checkout, and neither the working directory before both
            self._environment["PYTHONPATH"] = os.pathsep.join((code, str(Path(__file__).parents[2])))
            self._environment["PYTHONSAFEPATH"] = "1"
        self._folder = tempfile.TemporaryDirectory(prefix="rc-history-")
        self.path = Path(self._folder.name) / "history"
        self.recorder = Recorder(self.path)
        self.workers: list[Process] = []
        self.coordinators: list[Process] = []
        self.ids: dict[int, list[str]] = {}
        self.calls: dict[int, list[str]] = {}
        self.client: Any = None
        self._dead: set[int] = set()

    def __enter__(self) -> Deployment:
        self.client = redis.Redis(unix_socket_path=self.server.path, protocol=2, socket_timeout=30)
        try:
            self._start()
        except BaseException:  # nothing of it stays
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        workers, _, coordinators = self._counts
        for _ in range(coordinators):
            self.start_coordinator()
        for n, process in enumerate([self._begin_worker(n) for n in range(workers)]):  # they start side by side
            self._wait_ready(n, process)
        wait_until(self.all_served, 30, "every call is served")
        wait_until(self._no_hold, 30, "the hold at the start is over")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (*self.workers, *self.coordinators):
            if process.alive:
                process.send(signal.SIGCONT)
            process.close()
        self.recorder.close()
        self.client.close()
        self.server.close()
        self._folder.cleanup()

    def start_coordinator(self) -> Process:
        """One more coordinator."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        arguments = ["run", "--redis-url", self.server.url, "--http-port", "0", "--log-level", "error", *flags]
        process = Process("coordinator", *arguments, **self._environment)
        self.coordinators.append(process)
        return process

    def start_worker(self, number: int, *, empty: bool = False, dies_at: str = "") -> Process:
        """One more worker process, ready; ``dies_at``: see tests/faults/worker.py."""
        return self._wait_ready(number, self._begin_worker(number, empty=empty, dies_at=dies_at))

    def _begin_worker(self, number: int, *, empty: bool = False, dies_at: str = "") -> Process:
        names = [f"w{number}-{k}" for k in range(self._each)]
        made = {name: [f"{name}-call{c}" for c in range(self._counts[1])] for name in names}
        if number in self._named:
            made = {names[0]: self._named[number]}
        if empty:
            made = {name: [] for name in names}
        arguments = [f"{name}:{','.join(calls)}" for name, calls in made.items()]
        process = Process(
            "tests.faults.worker", self._worker_url, str(self.path), json.dumps(self._settings), *arguments,
            **self._environment, **({"DIES_AT": dies_at} if dies_at else {}),
        )  # fmt: skip
        self.workers.append(process)
        self.calls[number] = [call for calls in made.values() for call in calls]
        return process

    def _wait_ready(self, number: int, process: Process) -> Process:
        self.ids[number] = [line["id"] for line in process.wait_for("ready", self._each, 60)]
        return process

    def _no_hold(self) -> bool:
        last, until = self.client.hmget(KEYS.detector, "last_scan_ms", "hold_until_ms")
        seconds, _ = self.client.time()
        return last is not None and int(until or 0) < seconds * 1000

    @property
    def every_call(self) -> list[str]:
        """All calls that were opened."""
        return [call for calls in self.calls.values() for call in calls]

    def owners(self) -> dict[str, tuple[str, str]]:
        """Session -> state and owner, as stored."""
        pipe = self.client.pipeline(transaction=False)
        for call in self.every_call:
            pipe.hmget(KEYS.session(call), "state", "owner")
        rows = pipe.execute()
        return {
            call: ((state or b"").decode(), (owner or b"").decode())
            for call, (state, owner) in zip(self.every_call, rows, strict=True)
        }

    def all_served(self) -> bool:
        """Every call has a living owner."""
        gone = {i for n in self._dead for i in self.ids[n]}
        try:
            return all(state == "active" and owner not in gone for state, owner in self.owners().values())
        except redis.RedisError:
            return False

    def kill(self, *numbers: int) -> float:
        """SIGKILL for workers; returns when, by `time.time`."""
        self.recorder.write("killed", instances=[i for n in numbers for i in self.ids[n]])
        self._dead.update(numbers)
        at = time.time()
        for n in numbers:
            self.workers[n].send(signal.SIGKILL)
        return at

    def died(self, number: int) -> None:
        """A worker that was to kill itself did."""
        wait_until(lambda: not self.workers[number].alive, 30, f"worker {number} killed itself")
        [line] = [line for line in read(self.path) if line["kind"] == "dies" and line["instance"] in self.ids[number]]
        self.recorder.write("killed", instances=self.ids[number], at=line["at"])
        self._dead.add(number)

    def restart(self, number: int, *, dies_at: str = "") -> None:
        """Starts a worker again that ended or was killed, under its names and without calls of its own."""
        calls = self.calls[number]
        self.workers[number].close()
        self.start_worker(number, empty=True, dies_at=dies_at)
        self.workers[number] = self.workers.pop()
        self.calls[number] = calls
        self._dead.discard(number)

    def expect_death_of(self, *numbers: int) -> None:
        """From now on it is right to declare these dead."""
        self.recorder.write("expected", instances=[i for n in numbers for i in self.ids[n]])

    def finish(self, timeout: float = 40.0) -> list[str]:
        """Waits until every call is served or given up on, and reads the history.

        Returns:
            The promises that were broken.
        """
        wait_until(self.quiet, timeout, "every call is served or given up on")
        wait_until(self._everybody_ticked(50), 20, "everybody ticked for a second, with what it believes to hold")
        leaked = [f"a key that would stay for ever: {key}" for key in leaked_keys(self.client)]
        for call in self.every_call:
            found = self.client.hmget(KEYS.session(call), "state", "owner", "epoch", "reason")
            state, owner, epoch, reason = ((value or b"").decode() for value in found)
            self.recorder.write("final", session=call, state=state, owner=owner, epoch=int(epoch or 0), reason=reason)
        return [*check(read(self.path)), *leaked]

    def _everybody_ticked(self, times: int) -> Callable[[], bool]:
        """Asks whether each living worker wrote so many lines of media since now."""
        living = {i.partition("~")[0] for n, ids in self.ids.items() if self.workers[n].alive for i in ids}
        counts: Counter[str] = Counter()
        read_to = self.path.stat().st_size

        def ticked() -> bool:
            nonlocal read_to
            with self.path.open("rb") as file:
                file.seek(read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # being written just now
                    read_to += len(line)
                    if line.startswith(b'{"kind": "media"'):
                        counts[json.loads(line)["name"]] += 1
            return all(counts[name] >= times for name in living)

        return ticked

    def quiet(self) -> bool:
        """Nothing waits for anybody any more."""
        gone = {i for n in self._dead for i in self.ids[n]}
        try:
            owners = self.owners()
        except redis.RedisError:
            return False
        served = all(
            state in ("closed", "dead_lettered") or (state == "active" and owner not in gone)
            for state, owner in owners.values()
        )
        return served and self._everybody_serves(owners)

    def stated_again(self) -> bool:
        """Nothing waits, and the store has all that was acknowledged: a snapshot that came back looks quiet before anybody noticed."""
        known = {
            line["session"]: json.loads(line["data"])["sequence"]
            for line in read(self.path)
            if line["kind"] == "checkpoint" and line["answer"] == "ok"
        }
        if not self.quiet():
            return False
        try:
            stored = {call: self.client.hget(KEYS.session(call), "data") for call in known}
        except redis.RedisError:
            return False
        return all(data and json.loads(data)["sequence"] >= known[call] for call, data in stored.items())

    def _everybody_serves(self, owners: dict[str, tuple[str, str]]) -> bool:
        """By the last media tick of each living worker its handlers serve all that the store says is its own, and it holds it."""
        active = sum(state == "active" for state, _ in owners.values())
        served: set[str] = set()
        tail = read(self.path, last_bytes=TAIL_BYTES)[-400:]
        newest = max((line["at"] for line in tail), default=0.0)
        for line in tail:
            if line["kind"] == "media" and newest - line["at"] < 0.3:
                served.update(line["held"].keys() & line["served"].keys())
        return len(served) >= active

    def takeover_seconds(self, killed_at: float, *numbers: int) -> list[float]:
        """For each call of the killed: from the kill to its adoption, by the server's clock (it is this machine's)."""
        calls = {call.encode() for n in numbers for call in self.calls[n]}
        found: dict[bytes, float] = {}
        seconds, micros = self.client.time()
        ahead = seconds + micros / 1e6 - time.time()
        for _, fields in self.client.xrange(KEYS.events):
            event = dict(fields)
            if event.get(b"type") == b"adopted" and event.get(b"session") in calls:
                found.setdefault(event[b"session"], int(event[b"at"]) / 1000 - ahead - killed_at)
        return sorted(found.values())

    def causes(self) -> dict[str, str]:
        """Instance -> why it was declared dead."""
        events = [dict(fields) for _, fields in self.client.xrange(KEYS.events)]
        return {e[b"instance"].decode(): e[b"cause"].decode() for e in events if e[b"type"] == b"died"}
