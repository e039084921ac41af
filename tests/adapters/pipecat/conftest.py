"""Pipecat's own imports warn of what it uses; they are done once, before warnings are errors."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec

if find_spec("pipecat") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("pipecat.serializers.plivo", "pipecat.serializers.telnyx", "tests.adapters.pipecat.bot"):
            import_module(name)
