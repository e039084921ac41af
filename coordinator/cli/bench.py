"""``coordinator bench``: measures this machine, in one run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import anyio
import redis
import typer

from coordinator.cli.bench_deaths import PER_SECOND, deaths
from coordinator.cli.bench_idle import idle
from coordinator.cli.bench_rates import heartbeats, rates
from coordinator.cli.bench_store import Bench
from coordinator.cli.options import OK, command_errors
from coordinator.cli.processes import interruptible
from coordinator.cli.tables import coloured, console, print_json, progress_console, table
from coordinator.embedded import EmbeddedRedis
from coordinator.errors import ConfigurationError
from coordinator.settings import Settings
from coordinator.store import PROTOCOL
from coordinator.store.connect import Connector

__all__ = ["bench"]

Step = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each thing is measured."""

    deaths: int
    storm: int
    sessions: int
    beats: int
    idle: tuple[int, ...]
    idle_seconds: float
    data_bytes: int


FULL = Sizes(1000, 1000, 20_000, 20_000, (1_000, 20_000, 200_000), 10.0, 256)
QUICK = Sizes(200, 500, 10_000, 5_000, (1_000, 20_000), 4.0, 256)


async def measure(sizes: Sizes, step: Step) -> dict[str, object]:
    """Measures everything, each part in a partition of its own; the idle part runs on a server without other keys."""
    settings = Settings.model_construct()  # the defaults, whatever the environment says; so do the children
    async with interruptible():
        async with _server(settings, sizes) as (url, partition):
            step("claims and adoptions")
            rated = await rates(await partition("bench-rates"), sizes.sessions)
            step("heartbeats")
            beaten = await heartbeats(await partition("bench-beats"), sizes.beats)
            step(f"{sizes.deaths} deaths, {PER_SECOND} a second, then one of an instance with {sizes.storm} calls")
            died = await deaths(await partition("bench-deaths"), url, sizes.deaths, sizes.storm)
        async with _server(settings, sizes) as (url, partition):
            bench = await partition("bench-idle")
            idled = await idle(bench, url, sizes.idle, sizes.idle_seconds, step)
            info = await bench.info("server")
    machine = {
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis": info.get("redis_version"),
        "client": f"redis-py {redis.__version__}",
    }
    return {"machine": machine, "rates": rated, "heartbeats": beaten, "deaths": died, "idle": idled}


@asynccontextmanager
async def _server(settings: Settings, sizes: Sizes) -> AsyncIterator[tuple[str, Callable[[str], Awaitable[Bench]]]]:
    """Yields the URL of a new embedded Redis, and a function that makes a partition there."""
    with EmbeddedRedis() as server:
        connector = Connector(server.url, store_timeout=30.0)

        async def partition(prefix: str) -> Bench:
            executor = connector.executor(f"{{{prefix}:0}}")
            return await Bench.make(executor, prefix, settings, sizes.data_bytes, PROTOCOL)

        try:
            yield server.url, partition
        finally:
            with anyio.CancelScope(shield=True):
                await connector.aclose()


def _parse(sizes: str) -> tuple[int, ...]:
    try:
        parsed = tuple(sorted(int(part.replace("_", "")) for part in sizes.split(",")))
    except ValueError:
        raise ConfigurationError(f"invalid --idle {sizes!r}: use numbers separated by commas") from None
    if min(parsed) < 1:
        raise ConfigurationError("invalid --idle: each number must be above 0")
    return parsed


def _flat(value: object, name: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}" if name else str(key))]
    return [(name, value)]


def _show(result: dict[str, object]) -> None:
    out = console()
    for part, figures in result.items():
        if isinstance(figures, Sequence) and not isinstance(figures, str):
            rows = [list(row.values()) for row in figures]
            out.print(table([key.replace("_", " ") for key in figures[0]], rows, title=part))
        else:
            out.print(table(("", ""), [(name.replace("_", " "), value) for name, value in _flat(figures)], title=part))
        out.print()


@command_errors
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes: less than a minute.")] = False,
    deaths: Annotated[int | None, typer.Option(min=1, help="Number of instances that fall silent.")] = None,
    storm: Annotated[int | None, typer.Option(min=1, help="Number of calls of the one instance that exits.")] = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, help="Number of sessions claimed and adopted for the rates.")
    ] = None,
    beats: Annotated[int | None, typer.Option(min=1, help="Number of heartbeats.")] = None,
    idle: Annotated[str | None, typer.Option(help="Numbers of idle sessions, separated by commas.")] = None,
    idle_seconds: Annotated[
        float | None, typer.Option(min=0.5, help="Seconds that each idle number is watched.")
    ] = None,
    data_bytes: Annotated[
        int | None, typer.Option(min=2, max=65536, help="Size of a session's recovery data in bytes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> int:
    """Measure detection, takeover, claims, heartbeats and idle cost on this machine, on an embedded Redis.

    Exit status: 0 measured; 2 wrong usage.
    """
    base = QUICK if quick else FULL
    sizes = Sizes(
        deaths or base.deaths,
        storm or base.storm,
        sessions or base.sessions,
        beats or base.beats,
        _parse(idle) if idle else base.idle,
        idle_seconds or base.idle_seconds,
        data_bytes or base.data_bytes,
    )
    notes = progress_console(quiet=not sys.stderr.isatty())
    result = anyio.run(measure, sizes, lambda text: notes.print(coloured(text, "dim")))
    if as_json:
        print_json(result)
    else:
        _show(result)
    return OK
