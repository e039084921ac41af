"""A real Prometheus and a real redis_exporter (Debian's) on loopback, and the coordinators and workers that they watch."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from tests.acceptance.processes import Process
from tests.deployments import free_port
from tests.kubernetes.rules import RULES, SCRIPT, faster
from tests.redis_server import RedisServer
from tests.waiting import wait_until

FACTOR = 30
"""By which waiting times and windows of the rules are divided."""
INTERVAL = "500ms"
"""Of scrapes and evaluations; a thirtieth of the usual 15 s."""
PROMTOOL, PROMETHEUS, EXPORTER = (
    shutil.which(program) or "" for program in ("promtool", "prometheus", "prometheus-redis-exporter")
)
MISSING = [
    name
    for name, path in (("promtool", PROMTOOL), ("prometheus", PROMETHEUS), ("prometheus-redis-exporter", EXPORTER))
    if not path
]
"""Debian packages ``prometheus`` and ``prometheus-redis-exporter`` have them."""


def fetch(port: int, path: str, timeout: float = 5.0) -> str:
    """The body of an answer with status 200.

    Raises:
        OSError: there was no such answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"{path}: {answer.status} {text[:300]}")
        return text
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error!r}") from error
    finally:
        connection.close()


def answers(port: int, path: str) -> Callable[[], bool]:
    """Whether somebody answers there, to be waited for."""

    def ask() -> bool:
        try:
            return bool(fetch(port, path))
        except OSError:
            return False

    return ask


class Program:
    """A program that writes to a file, and is ended with the test."""

    def __init__(self, *command: str, log: Path) -> None:
        with log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Monitored:
    """A Redis, its exporter, coordinators and workers; a Prometheus once `watch` was called."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="rc-alerts-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.server = RedisServer()
        self._stack.callback(self.server.close)
        self.ports = [free_port(), free_port()]
        self.exporter_port, self.prometheus_port = free_port(), free_port()
        self.coordinators: list[Process] = []
        if EXPORTER:
            self._export()

    def _export(self) -> None:
        program = Program(
            EXPORTER, "-redis.addr", self.server.url, "-script", str(SCRIPT),
            "-web.listen-address", f"127.0.0.1:{self.exporter_port}", log=self.folder / "exporter.log",
        )  # fmt: skip
        self._stack.callback(program.close)
        wait_until(answers(self.exporter_port, "/metrics"), 20, "the exporter answers")

    def start_coordinators(self, **environment: str) -> None:
        """One on each port."""
        for port in self.ports:
            flags = ("--redis-url", self.server.url, "--http-port", str(port), "--log-level", "error")
            process = Process("coordinator", "run", *flags, **environment)
            self._stack.callback(process.close)
            self.coordinators.append(process)
        for port in self.ports:
            wait_until(answers(port, "/readyz"), 30, "the coordinator is ready")

    def kill_coordinators(self) -> None:
        """All of them, by SIGKILL."""
        while self.coordinators:
            self.coordinators.pop().close()

    def start_workers(self, *workers: str, mode: str = "serve", **environment: str) -> Process:
        """A process with workers, each ``name:call,call``; environment without the prefix."""
        variables = {f"COORDINATOR_{name}": value for name, value in environment.items()}
        process = Process("tests.kubernetes.worker_process", self.server.url, mode, *workers, **variables)
        self._stack.callback(process.close)
        process.wait_for("ready", len(workers), 30)
        return process

    def watch(self) -> None:
        """Starts Prometheus, with the chart's rules made faster."""
        (self.folder / "alerts.yaml").write_text(faster(RULES.read_text(), FACTOR))
        config = {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": "400ms", "evaluation_interval": INTERVAL},
            "rule_files": [str(self.folder / "alerts.yaml")],
            "scrape_configs": [
                {"job_name": "whatever", "static_configs": [{"targets": [f"127.0.0.1:{p}" for p in self.ports]}]},
                {"job_name": "redis", "static_configs": [{"targets": [f"127.0.0.1:{self.exporter_port}"]}]},
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        program = Program(
            PROMETHEUS, f"--config.file={self.folder / 'prometheus.yaml'}", f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.prometheus_port}", "--log.level=warn", log=self.folder / "prometheus.log",
        )  # fmt: skip
        self._stack.callback(program.close)
        wait_until(answers(self.prometheus_port, "/-/ready"), 30, "Prometheus is ready")

    def close(self) -> None:
        """Ends everything that was started here."""
        self._stack.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers just now: rows with ``metric`` and ``value``."""
        text = fetch(self.prometheus_port, f"/api/v1/query?query={quote(expression)}")
        rows: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return rows

    def history(self, expression: str, seconds: int = 240) -> list[dict[str, Any]]:
        """What Prometheus answers for the last so many seconds: rows with ``metric`` and ``values``."""
        now = time.time()
        asked = f"query={quote(expression)}&start={now - seconds:.0f}&end={now:.0f}&step=1"
        rows: list[dict[str, Any]] = json.loads(fetch(self.prometheus_port, f"/api/v1/query_range?{asked}"))["data"][
            "result"
        ]
        return rows

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """Alerts that fire, by name: the labels of each."""
        found: dict[str, list[dict[str, str]]] = {}
        for alert in json.loads(fetch(self.prometheus_port, "/api/v1/alerts"))["data"]["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return found

    def wait_for(self, alert: str, timeout: float = 30.0, **labels: str) -> None:
        """Until it fires, with these labels at least."""
        wait_until(
            lambda: any(labels.items() <= row.items() for row in self.firing().get(alert, [])),
            timeout,
            f"{alert} {labels or ''} fires; {sorted(self.firing())} do",
        )

    def wait_for_end(self, *alerts: str, timeout: float = 30.0) -> None:
        """Until none of them fires."""
        wait_until(lambda: not self.firing().keys() & set(alerts), timeout, f"{alerts} do not fire")
