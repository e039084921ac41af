"""Requests made from the sidecar's own OpenAPI document; `make fuzz` sends thousands of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import RedisServer
from tests.sidecar.client import Client
from tests.sidecar.conftest import Sidecar

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "410", "415", "422", "428", "429", "5xx"]
"""
"""The defaults and 410. Who asks is looked at before what he says: 410 when that is an instance which is over, whatever the body."""
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
PHASES = os.environ.get("FUZZ_PHASES", "fuzzing")
"""`make fuzz` sets more of both."""


def fuzzable(document: dict[str, Any]) -> dict[str, Any]:
    """The document without what never ends or ends all others, and without waits."""
    del document["paths"]["/v1/workers/{instance}/events"]
    del document["paths"]["/v1/drain"]
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "wait"]
    return document


@pytest.mark.timeout(600)
def test_no_request_of_the_document_does_harm(server: RedisServer, tmp_path: Path) -> None:
    """No 5xx, no answer that the document does not have, nothing accepted that it forbids; and it still works after."""
    sidecar = Sidecar(server, "--coordinate", "--api-token", "of-the-fuzzer", "--drain-port", "0")
    client = Client(sidecar.path)
    try:
        assert client.register("fuzzed", pid=os.getpid(), capacity=5).status_code == 201
        (tmp_path / "schemathesis.toml").write_text(CONFIG)
        path = tmp_path / "openapi.json"
        path.write_text(json.dumps(fuzzable(client("GET", "/openapi.json").json())))
        run = subprocess.run(
            [
                str(Path(sys.executable).with_name("st")), "run", str(path), "--url", f"http://127.0.0.1:{sidecar.http_port}",
                "--checks", CHECKS, "--max-examples", str(EXAMPLES), "--phases", PHASES, "--seed", "1",
                "--header", f"Worker-Token: {client.token}", "--header", "Authorization: Bearer of-the-fuzzer",
                "--request-timeout", "20", "--no-color", "--max-failures", "5",
            ],
            capture_output=True, text=True, timeout=580, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert client("PUT", "/v1/sessions/after", {"recovery_data": {"n": 1}}).status_code == 201
        metrics = client("GET", "/metrics").text.splitlines()
        failures = [line for line in metrics if line.startswith("recovery_sidecar_failures_total{")]
        assert failures == []
    finally:
        client.close()
        sidecar.close()
