"""Golden sessions, as Go and as this package write them: ``python -m tests.sessions.golden_files GOWORKER`` writes them anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coordinator.sessions import SessionMetrics, SessionState, Timestamp, Turn
from coordinator.sessions.wire import encode

FOLDER = Path(__file__).parent / "golden"


def python_states() -> dict[str, SessionState]:
    """Sessions with fixed times, by name; Go keeps every byte of them."""
    at = Timestamp("2026-07-19T07:00:00.000000001-05:00")
    full = SessionState(
        "call-456", at, Timestamp("2026-07-19T12:00:09Z"), "CA<9>&", "telnyx", "outbound", "+493012345", "sip:bob@example.com",
        "on_hold",
        [
            Turn("user", 'say "hi" \\ / \t \x07 \u2028 ß 🎧', Timestamp("2026-07-19T12:00:01.5Z"), 1500),
            Turn("agent", "", Timestamp("2026-07-19T12:00:02.25+00:45"), 0),
            Turn("tool", "{}", Timestamp("2024-02-29T23:59:59.999999999Z"), -3),
        ],
        SessionMetrics(3, 1, 1500, 0, 750, 750),
        {"sequence": 42, "ratio": 0.1, "whole": 42.0, "tiny": 5e-324, "z": None, "a": [True, {}]},
    )  # fmt: skip
    return {
        "full": full,
        "fresh": SessionState("fresh", at, at),
        "nullish": SessionState("n", at, at, null_history=True),
    }


def golden(program: str, name: str) -> bytes:
    """One golden session of Go's (``go``) or of this package's (``python``)."""
    return (FOLDER / f"{program}-{name}.json").read_bytes().rstrip(b"\n")


def names(program: str) -> list[str]:
    """Names of the golden sessions of a program."""
    return sorted(path.stem.removeprefix(f"{program}-") for path in FOLDER.glob(f"{program}-*.json"))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, state in python_states().items():
        (FOLDER / f"python-{name}.json").write_bytes(encode(state) + b"\n")
    for line in subprocess.run([sys.argv[1], "golden"], capture_output=True, check=True).stdout.splitlines():
        name_of_go, _, document = line.partition(b"\t")
        (FOLDER / f"go-{name_of_go.decode()}.json").write_bytes(document + b"\n")


if __name__ == "__main__":
    main()
