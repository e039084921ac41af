"""Every program reaches the server as the user that ``doctor --acl`` prints for it, and none is ever refused anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.redis_server import RedisServer
from tests.redis_users import refusals


@pytest.fixture(autouse=True)
def nothing_is_refused(redis_server: RedisServer) -> Iterator[None]:
    """Of the server that tests share."""
    admin: Any = redis_server.client()
    admin.execute_command("ACL", "LOG", "RESET")
    yield
    assert refusals(admin) == set()
    admin.close()
