"""What the store keeps of a worker for the sidecar that succeeds the one that stood for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coordinator.settings import Settings
from coordinator.sidecar.proof import ProcessMark
from coordinator.sidecar.schemas import Health, StreamEnd

__all__ = ["Hosting", "addresses_of"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def addresses_of(settings: Settings) -> tuple[str, ...]:
    """The addresses on which a sidecar listens, as names that only one living process of the world can have.

    While one process listens on a unix socket or a port, no other can. So the process that listens there now is the successor of
    the one that did before. Empty when the sidecar takes any free port, as its successor could not be found.
    """
    try:
        boot = BOOT_ID.read_text().strip()
        found = []
        if settings.http_socket:
            path = Path(settings.http_socket).absolute()
            folder = path.parent.stat()
            found.append(f"{folder.st_dev}:{folder.st_ino}/{path.name}")
        if settings.http_port and settings.http_tcp != "off":
            network = Path("/proc/self/ns/net").readlink()
            found.append(f"{network} {settings.http_host}:{settings.http_port}")
    except OSError:
        return ()
    return tuple(hashlib.sha256(f"{boot} {one}".encode()).hexdigest()[:32] for one in found)


@dataclass(frozen=True, slots=True)
class Hosting:
    """How a later sidecar finds and watches a worker again.

    Attributes:
        addresses: the addresses of its sidecar.
        process: the process whose end is its end; None when it named none, or one that cannot be recognised.
        health: the URL that the worker answers.
        lets_go, stream_end: see `schemas.Register`.
    """

    addresses: tuple[str, ...] = ()
    process: ProcessMark | None = None
    health: Health | None = None
    lets_go: bool = False
    stream_end: StreamEnd = "grace"

    def seen_from_here(self) -> Hosting:
        """The same without a process that this sidecar could not see."""
        if self.process is None or self.process.is_in_sight:
            return self
        return replace(self, process=None)

    @property
    def is_proof_here(self) -> bool:
        """Whether the worker's life can be proven from here without its stream."""
        return self.health is not None or self.seen_from_here().process is not None

    def text(self) -> str:
        """The text that is stored."""
        document: dict[str, Any] = {"addresses": list(self.addresses)}
        if self.process is not None:
            document["process"] = asdict(self.process)
        if self.health is not None:
            document["health"] = self.health.model_dump()
        if self.lets_go:
            document["lets_go"] = True
        if self.stream_end != "grace":
            document["stream_end"] = self.stream_end
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Hosting:
        """Reads the stored text; a part that cannot be read counts as not given."""
        try:
            document = json.loads(text or "{}")
            assert isinstance(document, Mapping)  # noqa: S101 - caught below
            process, health = document.get("process"), document.get("health")
            return cls(
                tuple(str(one) for one in document.get("addresses", ())),
                ProcessMark(int(process["pid"]), int(process["started"]), str(process["namespace"]))
                if process
                else None,
                Health.model_validate(health) if health else None,
                document.get("lets_go") is True,
                "exit" if document.get("stream_end") == "exit" else "grace",
            )
        except (ValueError, TypeError, KeyError, AssertionError, RecursionError, ValidationError):
            return cls()
