"""Redis URLs in all their forms."""

from __future__ import annotations

import pytest

from coordinator.errors import ConfigurationError
from coordinator.store.address import Address, UrlSource, parse_url, slot_owner


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "db"),
    [
        ("redis://localhost", "standalone", [Address("localhost", 6379)], 0),
        ("redis://h:1/3", "standalone", [Address("h", 1)], 3),
        ("rediss://h:1", "standalone", [Address("h", 1)], 0),
        ("redis://[::1]:7000", "standalone", [Address("::1", 7000)], 0),
        ("unix:///run/redis.sock?db=2", "standalone", [Address(path="/run/redis.sock")], 2),
        ("redis+sentinel://a:1,b:2/mymaster/1", "sentinel", [Address("a", 1), Address("b", 2)], 1),
        ("redis+cluster://a:1,b", "cluster", [Address("a", 1), Address("b", 6379)], 0),
    ],
)
def test_forms(url: str, kind: str, addresses: list[Address], db: int) -> None:
    """Each documented form is taken apart."""
    parsed = parse_url(url)
    assert (parsed.kind, list(parsed.addresses), parsed.db) == (kind, addresses, db)
    assert parsed.tls == url.startswith("rediss")


def test_credentials_are_decoded_and_not_shown() -> None:
    """User and password are percent-decoded; what is shown has no password."""
    parsed = parse_url("redis://us%40er:p%2Fw@h:1/0")
    assert (parsed.username, parsed.password) == ("us@er", "p/w")
    assert parsed.shown == "redis://us%40er:***@h:1/0"
    assert "p/w" not in repr(parsed)


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "h:6379", "", "redis://h:port", "redis://h:0", "redis://h:99999", "redis://h/one", "unix://",
        "redis+sentinel://a:1", "redis+sentinel:///service", "redis+cluster://",
    ],
)  # fmt: skip
def test_other_forms_are_refused(url: str) -> None:
    """What is no known form is one clear error."""
    with pytest.raises(ConfigurationError, match="redis_url"):
        parse_url(url)


def test_a_refused_url_does_not_tell_its_password() -> None:
    """The message shows the URL without the password."""
    with pytest.raises(ConfigurationError) as refused:
        parse_url("redis://user:hush@h:port")
    assert "hush" not in str(refused.value)


def test_the_owner_of_a_slot() -> None:
    """The primary of the slot's range; an empty host is the host that was asked; None where nobody serves it."""
    asked = Address("asked", 1)
    rows = [[0, 8191, [b"", 7000]], [8192, 16000, [b"other", 7001]]]
    slot_12182, slot_5061 = "{foo}", "{bar}"
    assert slot_owner(rows, slot_12182, asked) == Address("other", 7001)
    assert slot_owner(rows, slot_5061, asked) == Address("asked", 7000)
    assert slot_owner(rows[:1], slot_12182, asked) is None


def test_a_source_is_asked_for_each_connection() -> None:
    """A changed URL counts from the next connection on; one that is no URL is not taken."""
    urls = iter(["redis://a", "redis://a", "redis://b", "nonsense"])
    source = UrlSource(lambda: next(urls))
    assert [source.now().addresses[0].host for _ in range(3)] == ["a", "b", "b"]
