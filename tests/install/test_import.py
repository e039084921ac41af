"""What a program loads that imports the library: neither the command line nor a server."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEEDED = {
    "annotated_types", "anyio", "dotenv", "hiredis", "idna", "pydantic", "pydantic_core", "pydantic_settings", "redis", "sniffio",
    "structlog", "typing_extensions", "typing_inspection",
}  # fmt: skip
"""All that ``from coordinator import Worker`` may load of others."""
LOADED_BY_OTHERS = {
    "structlog": {
        "attr",
        "better_exceptions",
        "markdown_it",
        "mdurl",
        "pygments",
        "rich",
        "greenlet",
        "twisted",
        "zope",
    },
    "redis": {
        "_cffi_backend",
        "async_timeout",
        "cffi",
        "cryptography",
        "jwt",
        "opentelemetry",
        "packaging",
        "requests",
    },
}
"""What these load by themselves where it happens to be installed; nothing of it is needed."""
NOT_FOR_A_WORKER = [
    "click",
    "fastapi",
    "h11",
    "httpx",
    "httpx2",
    "prometheus_client",
    "shellingham",
    "starlette",
    "typer",
    "uvicorn",
]
PARTS = {"cli", "daemon", "embedded", "metrics", "sidecar", "supervisor", "web"}

LOADED = """
import sys
before = set(sys.modules)
from coordinator import Worker
names = set(sys.modules) - before
others = {name.split(".")[0] for name in names if not name.startswith("_sysconfigdata")} - sys.stdlib_module_names
print(*sorted(others))
print(*sorted({name.split(".")[1] for name in names if name.startswith("coordinator.")}))
"""


def run(program: str) -> list[list[str]]:
    """The words of each line that a program prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_the_library_loads_what_it_needs() -> None:
    """Of others what stands on the list, and of its own none of the parts of a daemon, a sidecar or the command line."""
    others, own = run(LOADED)
    assert {"anyio", "pydantic_settings", "redis", "structlog"} <= set(others)
    assert set(others) <= {"coordinator"} | NEEDED | set().union(*LOADED_BY_OTHERS.values())
    assert not set(others) & set(NOT_FOR_A_WORKER)
    assert not set(own) & PARTS


@pytest.mark.parametrize("make", ["Worker('redis://h')", "Worker"])
def test_the_library_needs_no_more(make: str) -> None:
    """It is loaded, and a worker made, in a process to which nothing else can be loaded."""
    blocked = sorted(set().union(*LOADED_BY_OTHERS.values(), NOT_FOR_A_WORKER))
    assert (
        run(f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\nfrom coordinator import Worker\n{make}") == []
    )


def test_each_of_its_names_is_loaded() -> None:
    """Whatever the library names as its own can be imported from it."""
    assert run("import coordinator\nfor name in coordinator.__all__: getattr(coordinator, name)") == []
