"""A store, coordinators and workers as real processes, with their history."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from coordinator.ids import partition_of
from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.faults.history import Recorder, check, read
from tests.faults.places import OneServer, Place, keys_of
from tests.leaks import leaked_keys
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.waiting import wait_until

KEYS = Keys("recovery", 0)
TAIL_BYTES = 2 * 2**20
UNWATCHED = {"COORDINATOR_WATCH_EXIT": "false"}
"""Nobody certifies the end of a worker: its silence and its lost connections have to tell."""


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
        place: where the store lives instead.
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
        place: Place | None = None,
        environment: dict[str, str] | None = None,
        named: dict[int, list[str]] | None = None,
    ) -> None:
        self._each, self._counts = each, (workers, calls, coordinators)
        self._server = None if place is not None else server or RedisServer()
        self.place: Place = place if self._server is None else OneServer(self._server)  # type: ignore[assignment]
        self._settings = {
            "capacity": capacity,
            "partitions": self.place.partitions,
            **self.place.settings,
            **(settings or {}),
        }
        self._worker_url, self.proxy = worker_url or self.place.url("worker"), proxy
        self._environment, self._named = {**UNWATCHED, **(environment or {})}, named or {}
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
        self.starts: list[str] = []
        self._dead: set[int] = set()
        self._ended = threading.Event()
        self._starting: list[threading.Thread] = []

    @property
    def server(self) -> RedisServer:
        """The one server, where there is one."""
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Any:
        """Of the server that holds partition 0 now."""
        return self.place.client(0)

    def __enter__(self) -> Deployment:
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
        wait_until(self.no_hold, 30, "the hold at the start is over")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._starting:
            thread.join()
        for process in (*self.workers, *self.coordinators):
            if process.alive:
                process.send(signal.SIGCONT)
            process.close()
        self.recorder.close()
        self.place.close()
        self._folder.cleanup()

    def start_coordinator(self) -> Process:
        """One more coordinator."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        arguments = [
            "run",
            "--redis-url",
            self.place.url("coordinator"),
            "--http-port",
            "0",
            "--log-level",
            "error",
            *flags,
        ]
        process = Process("coordinator", *arguments, **self._environment)
        self.coordinators.append(process)
        return process

    def start_worker(self, number: int, *, empty: bool = False, dies_at: str = "") -> Process:
        """One more worker process, ready; ``dies_at``: see tests/faults/worker.py."""
        return self._wait_ready(number, self._begin_worker(number, empty=empty, dies_at=dies_at))

    def start_worker_soon(self, number: int) -> None:
        """One more worker process, started again as long as it ends before it is ready, as whoever starts programs does.

        Why it ended is kept in ``starts``.
        """

        def begin() -> None:
            while not self._ended.is_set():
                process = self._begin_worker(number)
                while process.alive and not process.told("ready") and not self._ended.is_set():
                    self._ended.wait(0.02)
                if told := process.told("ready"):
                    self.ids[number] = [one for line in told for one in line["ids"]]
                    return
                self.starts.append((process.errors().strip().splitlines() or [""])[-1])
                self.workers.remove(process)
                process.close()

        self._starting.append(threading.Thread(target=begin))
        self._starting[-1].start()

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
        self.ids[number] = [one for line in process.wait_for("ready", self._each, 60) for one in line["ids"]]
        return process

    def no_hold(self) -> bool:
        """Every partition is looked at, and its hold at the start is over."""
        for partition in range(self.place.partitions):
            client = self.place.client(partition)
            last, until = client.hmget(keys_of(partition).detector, "last_scan_ms", "hold_until_ms")
            seconds, _ = client.time()
            if last is None or int(until or 0) >= seconds * 1000:
                return False
        return True

    def keys(self, call: str) -> Keys:
        """Of the partition in which a call lies."""
        return keys_of(partition_of(call, self.place.partitions))

    def records(self, calls: Iterable[str], *fields: str) -> dict[str, list[str]]:
        """Fields of calls' records, as stored now; '' for what is not there."""
        by_partition = defaultdict(list)
        for call in calls:
            by_partition[partition_of(call, self.place.partitions)].append(call)
        found = {}
        for partition, some in by_partition.items():
            pipe = self.place.client(partition).pipeline(transaction=False)
            for call in some:
                pipe.hmget(keys_of(partition).session(call), *fields)
            for call, row in zip(some, pipe.execute(), strict=True):
                found[call] = [(value or b"").decode() for value in row]
        return found

    @property
    def every_call(self) -> list[str]:
        """All calls that were opened."""
        return [call for calls in self.calls.values() for call in calls]

    def owners(self) -> dict[str, tuple[str, str]]:
        """Session -> state and owner, as stored."""
        found = self.records(self.every_call, "state", "owner")
        return {call: (state, owner) for call, (state, owner) in found.items()}

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

    def finish(self, timeout: float = 40.0, *, unreplicated: float = 0.0) -> list[str]:
        """Waits until every call is served or given up on, and reads the history.

        Args:
            unreplicated: as of `check`.

        Returns:
            The promises that were broken.
        """
        wait_until(self.quiet, timeout, "every call is served or given up on")
        wait_until(self._everybody_ticked(50), 20, "everybody ticked for a second, with what it believes to hold")
        servers = {id(client): client for client in map(self.place.client, range(self.place.partitions))}
        leaked = [f"a key that would stay for ever: {key}" for one in servers.values() for key in leaked_keys(one)]
        for call, row in self.records(self.every_call, "state", "owner", "epoch", "reason").items():
            state, owner, epoch, reason = row
            self.recorder.write("final", session=call, state=state, owner=owner, epoch=int(epoch or 0), reason=reason)
        return [*check(read(self.path), unreplicated=unreplicated), *leaked]

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
        if any(thread.is_alive() for thread in self._starting):
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
            stored = {call: data for call, (data,) in self.records(known, "data").items()}
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
