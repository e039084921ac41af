"""Fixtures of the script tests."""

from __future__ import annotations

import pytest
import redis

from tests.store.harness import Bench


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """One partition, not made yet, on an empty server."""
    return Bench(redis_client)


@pytest.fixture
def two(bench: Bench) -> Bench:
    """That partition with two instances, ``a~1`` and ``b~1``."""
    bench.init()
    bench.end_hold()
    bench.join("a~1")
    bench.join("b~1")
    return bench
