"""Redis URLs in all their forms: what is understood, what is refused, and what is never repeated."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from coordinator.errors import ConfigurationError
from coordinator.store.address import Address
from coordinator.store.url import parse_url
from coordinator.store.url_source import UrlSource

TLS = ["rediss://h", "rediss+sentinel://h/calls", "rediss+cluster://h"]
PLAIN = ["redis://h", "unix:///s", "redis+sentinel://h/calls", "redis+cluster://h"]


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "db"),
    [
        ("redis://localhost", "standalone", [Address("localhost", 6379)], 0),
        ("redis:///2", "standalone", [Address("localhost", 6379)], 2),
        ("redis://h:1/3", "standalone", [Address("h", 1)], 3),
        ("redis://h?db=3", "standalone", [Address("h", 6379)], 3),
        ("REDISS://h:1", "standalone", [Address("h", 1)], 0),
        ("redis://[::1]:7000", "standalone", [Address("::1", 7000)], 0),
        ("redis://[fe80::1%eth0]", "standalone", [Address("fe80::1%eth0", 6379)], 0),
        ("unix:///run/redis.sock?db=2", "standalone", [Address(path="/run/redis.sock")], 2),
        ("redis+sentinel://a:1,b:2/mymaster/1", "sentinel", [Address("a", 1), Address("b", 2)], 1),
        ("rediss+sentinel://a:1,b/mymaster", "sentinel", [Address("a", 1), Address("b", 6379)], 0),
        ("redis+cluster://a:1,b", "cluster", [Address("a", 1), Address("b", 6379)], 0),
        ("rediss+cluster://a:1/0", "cluster", [Address("a", 1)], 0),
    ],
)
def test_forms(url: str, kind: str, addresses: list[Address], db: int) -> None:
    """Each documented form is taken apart."""
    parsed = parse_url(url)
    assert (parsed.kind, list(parsed.addresses), parsed.db) == (kind, addresses, db)
    assert parsed.tls == url.lower().startswith("rediss")


def test_credentials_are_decoded_and_not_shown() -> None:
    """User and password are percent-decoded, a plus stays one; what is shown has neither, nor has a user who may be a password."""
    parsed = parse_url("redis://us%40er:p%2Fw+@h:1/0")
    assert (parsed.username, parsed.password) == ("us@er", "p/w+")
    assert parsed.shown == "redis://***@h:1/0"
    assert "p/w" not in repr(parsed)
    assert parse_url("redis://hush@h").shown == "redis://***@h"
    assert "hush" not in repr(parse_url("redis://hush@h"))


def test_the_sentinels_have_their_own_login() -> None:
    """User and password before the hosts are the servers'; those of the Sentinels are options, and TLS is for both."""
    url = parse_url(
        "rediss+sentinel://u:hush1@a,b/calls/2?sentinel_username=s&sentinel_password=hush2%26&ssl_ca_certs=/ca.pem"
    )
    server, sentinel = url.connection_options(), url.connection_options(sentinel=True)
    assert (server["username"], server["password"], server["db"]) == ("u", "hush1", 2)
    assert (sentinel["username"], sentinel["password"], sentinel.get("db", 0)) == ("s", "hush2&", 0)
    assert server["ssl_ca_certs"] == sentinel["ssl_ca_certs"] == "/ca.pem"
    assert "hush" not in f"{url!r} {url}"
    assert url.shown == "rediss+sentinel://***@a,b/calls/2"


@pytest.mark.parametrize(
    "url",
    [
        "http://h", "h:6379", "", "redis://h:port", "redis://h:0", "redis://h:99999", "redis://h/one", "unix://",
        "redis+sentinel://a:1", "redis+sentinel:///service", "redis+cluster://", "redis://a,b", "redis://h/²", "redis://h:²",
        "redis://h/1/2", "redis://h/1?db=2", "redis+cluster://h/1", "redis+sentinel://h/s/1/2", "unix://run/redis.sock",
        "redis://h#x", "redis://h name", "redis://h\n", "redis+cluster://a,,b", "redis://::1", "redis://user:@h", "redis://u:%ff@h",
    ],
)  # fmt: skip
def test_other_forms_are_refused(url: str) -> None:
    """What is no known form, or says one thing twice, is one clear line."""
    with pytest.raises(ConfigurationError, match=r"\Aredis_url ") as refused:
        parse_url(url)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ssl_cafile=x", r"option ssl_cafile is not known; did you mean ssl_certfile\? \(known: .*ssl_ca_certs"),
        ("socket_timeout=3", "option socket_timeout is not known"),
        ("password=hush", "option password is not supported: user and password stand before the host"),
        ("ssl_ca_certs=a&ssl_ca_certs=b", "option ssl_ca_certs is given twice"),
        ("ssl_ca_certs=", "option ssl_ca_certs: its value has no value"),
        ("ssl_check_hostname=maybe", "option ssl_check_hostname: its value is neither true nor false"),
        ("ssl_cert_reqs=some", "option ssl_cert_reqs: its value is neither required nor none"),
        ("ssl_min_version=SSLv3", "option ssl_min_version: its value is neither TLSv1.2 nor TLSv1.3"),
        ("ssl_min_version=771", "option ssl_min_version: its value"),
        ("ssl_keyfile=k", "ssl_keyfile needs ssl_certfile"),
        ("ssl_password=hush", "ssl_password opens a client's key: it needs ssl_certfile"),
        ("ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname=true does not go with ssl_cert_reqs=none"),
        ("ssl_cert_reqs=none&ssl_ca_certs=x", "ssl_ca_certs does not go with ssl_cert_reqs=none"),
        ("SSL=hush", "an option's name has other characters"),
    ],
)
@pytest.mark.parametrize("url", TLS)
def test_options_that_do_not_fit_are_refused_by_name(url: str, query: str, said: str) -> None:
    """Unknown ones, those of a wrong type, and those that would have no effect; no value is repeated."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        parse_url(f"{url}?{query}")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", PLAIN)
def test_tls_options_need_tls(url: str) -> None:
    """They would be ignored, and everything would go in clear."""
    with pytest.raises(ConfigurationError, match="option ssl_ca_certs is for TLS, and this URL is not"):
        parse_url(f"{url}?ssl_ca_certs=/ca.pem")


@pytest.mark.parametrize("url", [one for one in (*TLS, *PLAIN) if "sentinel" not in one])
def test_what_is_for_sentinels_needs_them(url: str) -> None:
    """A password for Sentinels where there are none, a user without a password."""
    with pytest.raises(ConfigurationError, match=r"option sentinel_password is for redis\+sentinel://"):
        parse_url(f"{url}?sentinel_password=hush")
    with pytest.raises(ConfigurationError, match="sentinel_username needs sentinel_password"):
        parse_url("redis+sentinel://h/s?sentinel_username=u")


@pytest.mark.parametrize("url", TLS)
def test_options_have_their_types(url: str) -> None:
    """What stands in a URL as text is what redis-py and ssl take; verified unless it says otherwise."""
    plain = parse_url(url).connection_options()
    assert (plain["ssl_cert_reqs"], plain["ssl_check_hostname"]) == (ssl.CERT_REQUIRED, True)
    for text in ("false", "no", "0"):
        assert parse_url(f"{url}?ssl_check_hostname={text}").connection_options()["ssl_check_hostname"] is False
    for text, version in (("TLSv1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2)):
        assert parse_url(f"{url}?ssl_min_version={text}").connection_options()["ssl_min_version"] is version
    assert parse_url(f"{url}?ssl_cert_reqs=none").connection_options()["ssl_cert_reqs"] is ssl.CERT_NONE
    assert parse_url(f"{url}?ssl_ca_certs=/a+b%20c").connection_options()["ssl_ca_certs"] == "/a+b c"


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=false"])
@pytest.mark.parametrize("url", TLS)
def test_verification_that_is_off_is_warned_of(url: str, option: str) -> None:
    """Once for each URL, by the name of the option; not where everything is verified."""
    with capture_logs() as logs:
        source = UrlSource(f"{url}?{option}")
        source.now()
        UrlSource(url)
    [line] = logs
    assert (line["event"], line["log_level"]) == ("tls_not_verified", "warning")
    assert line["why"].startswith(option)


def test_files_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    """By the name of their option, before anything is connected."""
    (tmp_path / "no.pem").write_text("hush")
    for option, said in (
        (f"ssl_ca_certs={tmp_path}/none.pem", "ssl_ca_certs cannot be used: No such file"),
        (f"ssl_ca_certs={tmp_path}/no.pem", "ssl_ca_certs cannot be used: "),
        (f"ssl_certfile={tmp_path}/no.pem", "ssl_certfile, ssl_keyfile or ssl_password cannot be used: "),
        ("ssl_ca_data=hush", "ssl_ca_data cannot be used: "),
        ("ssl_ciphers=hush", "ssl_ciphers cannot be used: "),
    ):
        with pytest.raises(ConfigurationError, match=said) as refused:
            UrlSource(f"rediss://h?{option}")
        assert "hush" not in str(refused.value)


def test_a_source_is_asked_for_each_connection() -> None:
    """A changed URL counts from the next connection on; one that is no URL is not taken, and said once."""
    urls = iter(["redis://a", "redis://a", "redis://b", "redis://:hush#@c", "redis://:hush#@c", "redis://d"])
    source = UrlSource(lambda: next(urls))
    with capture_logs() as logs:
        assert [source.now().addresses[0].host for _ in range(5)] == ["a", "b", "b", "b", "d"]
    assert [line["event"] for line in logs] == ["redis_url_refused"]
    assert "hush" not in str(logs)


def test_a_foreign_scheme_is_named() -> None:
    """And what is only said to be one is not."""
    with pytest.raises(
        ConfigurationError,
        match="redis_url begins with https://, which is not supported; known are redis://, rediss://",
    ):
        parse_url("https://h")
    with pytest.raises(ConfigurationError, match="redis_url begins with none of its forms") as refused:
        parse_url("hush://h")
    assert "hush" not in str(refused.value)


CANARY = "c4n4ry"
_JOINTS = st.text(alphabet="/?#[]@:%&=+,;'\"\\ \n\t$!…²", max_size=3)


@given(
    st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "rediss+cluster", "http", '"redis', ""]),
    st.sampled_from(["://", ":/", "//", ":", "", ":///"]),
    st.lists(_JOINTS, min_size=3, max_size=3),
    st.sampled_from(
        ["@h", "@h:1/0", "@h:p", "@h,i:2/s/x", "@[::1", "@/run/x?db=x", "@h?ssl_x=1", "@h/0?db=0&db=0", "@"]
    ),
)
def test_a_refused_url_tells_scheme_and_host_at_most(scheme: str, slashes: str, joints: list[str], rest: str) -> None:
    """A password in any part before the host, with any characters in and around it, is neither in the message nor shown."""
    first, middle, last = joints
    url = f"{scheme}{slashes}{first}:{CANARY}{middle}{CANARY}{last}{rest}"
    try:
        said = repr(parsed := parse_url(url)) + parsed.shown
    except ConfigurationError as error:
        said = f"{error} {error.__context__}"
    assert CANARY not in said
