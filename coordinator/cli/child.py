"""Runs a module as a child that ends with its parent in any case: ``python -m coordinator.cli.child MODULE ARGS``."""

from __future__ import annotations

import os
import runpy
import sys
import threading


def _end_with_parent() -> None:
    """The parent holds the other end of the standard input, and lets go of it when it is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
