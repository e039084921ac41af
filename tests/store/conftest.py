"""Fixtures of the script tests."""

from __future__ import annotations

import pytest
import redis

from tests.store.harness import Bench


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """One partition, not made yet, on an empty server."""
    return Bench(redis_client)
