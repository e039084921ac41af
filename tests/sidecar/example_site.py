"""Two workers in each language, each pair with its calls, behind two sidecars that a test kills and stops; and who is heard."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from coordinator.store.keys import Keys
from tests.acceptance.processes import Process
from tests.faults.media import Heard, MediaListener, listen
from tests.redis_server import RedisServer
from tests.sidecar.conftest import Sidecar
from tests.sidecar.examples import LANGUAGES, ExampleWorker
from tests.waiting import wait_until

__all__ = ["Site", "site"]

KEYS = Keys("recovery", 0)
CALLS = 3
TICKS = 25
"""Of each call, that are heard after all is well again: somebody who speaks for it too would be heard among them."""
LINES = 80
"""A worker of so few calls may print in a test, at most: a flood has thousands."""
HASTY = ("--sidecar-restart", "2s")
"""A sidecar that was killed has so long to be started again, and ten times as long by default."""


def holds(worker: ExampleWorker) -> bool:
    """Whether it is attached, and the last that it said is that it holds its calls."""
    said = [line["what"] for line in worker.output()]
    streams = [what for what in said if what in ("attached", "detached")]
    standings = [what for what in said if what in ("held", "in_doubt")]
    return (streams[-1:], standings[-1:]) == (["attached"], ["held"])


def free_port() -> int:
    """Of loopback, for a sidecar that is to be found there again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """Workers at the front have the calls; those at the back are their heirs, each for its own language.

    Attributes:
        front, back: workers by language. The chart's worker knows its sidecar by its URL, as in the chart; the others by its socket.
    """

    def __init__(self, settings: Sequence[str]) -> None:
        self._settings = settings
        self.server = RedisServer()
        self.media = MediaListener()
        self.heard: Heard | None = None
        self._coordinator = Process(
            "coordinator", "run", "--redis-url", self.server.url, "--http-port", "0", "--breaker-min", "1000", *settings
        )
        self._ports = (free_port(), free_port())
        self._sidecars = [self._sidecar(0), self._sidecar(1)]
        self.front, self.back = ({lang: self._worker(lang, n) for lang in LANGUAGES} for n in (0, 1))
        self.calls = {lang: [f"{lang}-{n}" for n in range(CALLS)] for lang in LANGUAGES}
        for worker in self.workers:
            worker.wait_for("attached")
        for lang, calls in self.calls.items():
            assert {self.front[lang].ring(call, self.media.port) for call in calls} == {201}
        wait_until(lambda: self.media.count > 5 * CALLS * len(LANGUAGES), 20, "the calls are heard")

    def _sidecar(self, n: int, path: str = "") -> Sidecar:
        return Sidecar(self.server, "--http-port", str(self._ports[n]), *self._settings, path=path)

    def _worker(self, lang: str, n: int) -> ExampleWorker:
        name, url, socket = f"{lang}-{n}", f"http://127.0.0.1:{self._ports[n]}", self._sidecars[n].path
        if lang == "kubernetes":
            return ExampleWorker(lang, name, url=url)
        return ExampleWorker(lang, name, socket=socket, pool=lang)

    @property
    def workers(self) -> list[ExampleWorker]:
        return [*self.front.values(), *self.back.values()]

    @property
    def sidecar(self) -> Process:
        """That of the front."""
        return self._sidecars[0].process

    def start_sidecar(self) -> None:
        """Starts the front's again, where it was."""
        self._sidecars.insert(0, self._sidecar(0, self._sidecars[0].path))

    def stay(self, seconds: float) -> None:
        """The fault's own length: as long as it lasts there is nothing to wait for."""
        threading.Event().wait(seconds)

    def is_closed(self, call: str) -> bool:
        """Whether its record says so."""
        client: Any = self.server.client()
        with contextlib.closing(client):
            return bool(client.hget(KEYS.session(call), "state") == b"closed")

    def is_served(self, lang: str, calls: list[str]) -> bool:
        """Whether workers of that language speak for these calls, and for each but one."""
        return sorted(call for worker in (self.front[lang], self.back[lang]) for call in worker.speaks_for()) == calls

    def wait_until_served(self, *ended: str, seconds: float = 40) -> None:
        """Until each worker holds what it has, and each call is served once, or closed if it ended; and is heard for a while then."""
        for worker in self.workers:
            wait_until(partial(holds, worker), seconds, f"{worker.name} holds, after {worker.output()[-5:]}")
        for lang, calls in self.calls.items():
            wanted = [call for call in calls if call not in ended]
            wait_until(partial(self.is_served, lang, wanted), seconds, f"{wanted} are served by one worker each")
        for call in ended:
            wait_until(partial(self.is_closed, call), seconds, f"{call} is closed")
        enough = self.media.count + TICKS * CALLS * len(LANGUAGES)
        wait_until(lambda: self.media.count > enough, seconds, "the calls are heard")

    def wait(self, condition: Callable[[ExampleWorker], object], workers: dict[str, ExampleWorker], what: str) -> None:
        """Until it is true of each of these workers."""
        for lang, worker in workers.items():
            wait_until(partial(condition, worker), 20, f"{lang}: {what}, after {worker.output()[-5:]}")

    def check(self) -> None:
        """No two were heard for a call at the same time, all live, and none has printed much or met a defect."""
        self.heard = self.media.close()
        assert self.heard.broken == [], self.heard.broken
        for worker in self.workers:
            assert worker.alive, worker.name
            assert worker.told("failed") == []
            assert len(worker.output()) <= LINES, worker.output()

    def heard_of(self, lang: str) -> Heard:
        """What the callers of that language's workers heard."""
        return listen({call: ticks for call, ticks in self.media.ticks.items() if call in self.calls[lang]})

    def close(self) -> None:
        self.server.resume()
        for process in [*self.workers, self._coordinator]:
            process.send(signal.SIGCONT)
            process.close()
        for sidecar in self._sidecars:
            sidecar.process.close()
            sidecar.close()  # its socket is in its folder: not before the end
        if self.heard is None:
            self.media.close()
        self.server.close()


@contextmanager
def site(*settings: str) -> Iterator[Site]:
    """A site, which is checked at the end."""
    made = Site(settings)
    try:
        yield made
        made.check()
    finally:
        made.close()
