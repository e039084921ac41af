"""Settings: sources, durations, and one readable line for each fault."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

import coordinator
from coordinator.errors import ConfigurationError
from coordinator.settings import PROFILES, SECRETS, Settings, load, parse_duration, parse_labels, parse_size
from coordinator.settings.groups import DAEMON, SIDECAR, WORKER, Program, grouped, programs_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2), ("250ms", 0.25), ("5m", 300), ("5min", 300), ("24h", 86400), ("7d", 604800), (" 1.5 s ", 1.5), (3, 3)],
)
def test_durations(text: object, seconds: float) -> None:
    """Each form of a duration is read as seconds."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "2 weeks", "-1s", "s", "1e3", None, True, "nan", "inf"])
def test_wrong_durations(text: object) -> None:
    """What is no duration is named, with the forms that are."""
    with pytest.raises(ValueError, match="is not a duration: use 2s"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9))
def test_milliseconds_are_exact_enough(number: int) -> None:
    """A duration in ms comes back in ms."""
    assert round(parse_duration(f"{number}ms") * 1000) == number


def test_sizes() -> None:
    """Sizes take units of 1000 and of 1024, and nothing else."""
    assert [parse_size(s) for s in ("64KiB", "1kb", "1MiB", 5, "7 b")] == [65536, 1000, 1048576, 5, 7]
    with pytest.raises(ValueError, match="is not a size"):
        parse_size("64 parsecs")


def test_labels_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """COORDINATOR_LABELS takes both forms, as the flag does."""
    for text in ("zone=a,version=2", '{"zone": "a", "version": "2"}'):
        monkeypatch.setenv("COORDINATOR_LABELS", text)
        assert load().labels == {"zone": "a", "version": "2"}


def test_labels() -> None:
    """Labels come as pairs or as JSON; what is neither is refused."""
    assert parse_labels("zone=a, version=2") == {"zone": "a", "version": "2"}
    assert parse_labels('{"zone": "a"}') == {"zone": "a"}
    assert parse_labels("") == {}
    with pytest.raises(ValueError, match="invalid labels"):
        parse_labels("zone")


def test_the_defaults_fit_together() -> None:
    """With nothing set the documented defaults hold, and the trust window is 750 ms."""
    settings = load()
    assert (settings.heartbeat_interval, settings.dead_after, settings.lease) == (0.25, 2.0, 3.0)
    assert settings.trust_window == pytest.approx(0.75)
    assert settings.url is None


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearer source wins; what it leaves out comes from the next."""
    file = tmp_path / "coordinator.toml"
    file.write_text('pool = "file"\ncapacity = 1\nlease = "4s"\n')
    monkeypatch.setenv("COORDINATOR_CONFIG", str(file))
    monkeypatch.setenv("COORDINATOR_POOL", "environment")
    monkeypatch.setenv("COORDINATOR_CAPACITY", "2")
    settings = load(capacity=3, name=None)
    assert (settings.capacity, settings.pool, settings.lease) == (3, "environment", 4.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dead_after": "900ms", "max_scan_gap": "300ms"}, r"dead_after \(900ms\) must be at least 4 x heartbeat_interval \(250ms\)"),
        ({"lost_connection_after": "700ms"}, r"lost_connection_after \(700ms\) must be more than safety_margin \(250ms\)"),
        ({"max_scan_gap": "1.8s"}, r"max_scan_gap \(1.8s\) \+ 2 x heartbeat_interval \(250ms\) must be at most dead_after \(2s\)"),
        ({"lease": "6m"}, r"lease \(360s\) must be less than give_up_after \(300s\)"),
        ({"termination_grace_period": "30s"}, r"drain_timeout \(45s\) must be less than termination_grace_period \(30s\)"),
        ({"heartbeat_interval": "5ms"}, r"heartbeat_interval \(5ms\) must be at least 10ms"),
        ({"safety_margin": "3s", "lost_connection_after": "4s"}, r"safety_margin \(3s\) must be less than"),
        ({"dead_after": "soon"}, r"dead_after: 'soon' is not a duration"),
        ({"partitions": 0}, r"partitions: .*greater than or equal to 1"),
        ({"name": "a b"}, r"name: 'a b' is not an instance name: 1 to 63 characters"),
        ({"pool": "p/q"}, r"pool: 'p/q' is not a pool"),
        ({"prefix": "{x}"}, r"prefix: "),
        ({"log_level": "loud"}, r"log_level: "),
        ({"deadafter": "2s"}, r"deadafter is not a setting; did you mean dead_after\?"),
    ],
)  # fmt: skip
def test_wrong_values_are_said_with_their_rule(values: dict[str, object], said: str) -> None:
    """Each fault is one line that names the value and the rule."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        load(**values)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prefix": "a b"}, "prefix: 'a b' is not 1 to 63 characters of A-Z a-z 0-9 . _ -"),
        ({"pod_namespace": "-x"}, "pod_namespace: '-x' is not the name of a namespace"),
        ({"partitions": 0}, "greater than or equal to 1, not 0"),
        ({"log_level": "loud"}, "'warning' or 'error', not 'loud'"),
        ({"log_level": "x" * 500}, "not 'xxx"),
    ],
)  # fmt: skip
def test_the_value_that_is_refused_is_said(values: dict[str, object], said: str) -> None:
    """In bounded length, with its rule in words."""
    with pytest.raises(ConfigurationError) as refused:
        load(**values)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_refused_is_not_said(name: str) -> None:
    """Whatever type it has."""
    with pytest.raises(ConfigurationError, match=name) as refused:
        load(**{name: ["canary"]})
    assert "canary" not in str(refused.value)


def test_every_fault_is_said_at_once() -> None:
    """Two faults are two lines."""
    with pytest.raises(ConfigurationError) as refused:
        load(lease="x", capacity=-1)
    assert len(str(refused.value).splitlines()) == 2


def test_an_unknown_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is named, with the setting that was meant."""
    monkeypatch.setenv("COORDINATOR_DEADAFTER", "2s")
    with pytest.raises(
        ConfigurationError, match="COORDINATOR_DEADAFTER is not a setting; did you mean COORDINATOR_DEAD_AFTER"
    ):
        load()


def test_variables_of_a_kubernetes_service_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service called coordinator puts variables into every pod; they stop nothing, and a misspelt port still does."""
    for name, value in {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "9410",
        "SERVICE_PORT_HTTP": "9410",
        "PORT": "tcp://10.0.0.1:9410",
        "PORT_9410_TCP": "tcp://10.0.0.1:9410",
        "PORT_9410_TCP_ADDR": "10.0.0.1",
        "METRICS_SERVICE_HOST": "10.0.0.2",
    }.items():
        monkeypatch.setenv(f"COORDINATOR_{name}", value)
    load()
    monkeypatch.setenv("COORDINATOR_HTP_PORT", "9410")
    with pytest.raises(ConfigurationError, match="did you mean COORDINATOR_HTTP_PORT"):
        load()


def test_a_secret_in_a_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REDIS_URL_FILE is read at the start and again for each connection; while it is away the last one counts."""
    file = tmp_path / "url"
    file.write_text("redis://:old@localhost\n")
    monkeypatch.setenv("COORDINATOR_REDIS_URL_FILE", str(file))
    settings = load()
    assert settings.current_url() == "redis://:old@localhost"
    file.write_text("redis://:new@localhost")
    assert settings.current_url() == "redis://:new@localhost"
    file.unlink()
    assert settings.current_url() == "redis://:new@localhost"
    with pytest.raises(ConfigurationError, match=r"REDIS_URL_FILE: .* cannot be read"):
        load()


def test_a_given_url_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given by flag is not replaced by the file's."""
    file = tmp_path / "url"
    file.write_text("redis://file")
    monkeypatch.setenv("COORDINATOR_REDIS_URL_FILE", str(file))
    assert load(redis_url="redis://flag").current_url() == "redis://flag"


def test_secrets_are_not_shown() -> None:
    """Neither the text nor the representation of settings has the password."""
    settings = load(redis_url="redis://:hush@localhost", api_token="hush")
    assert "hush" not in f"{settings!r} {settings}"


@pytest.mark.parametrize("name", ["REDIS_URL", "API_TOKEN", "DRAIN_TOKEN", "ENCRYPTION_KEYS"])
def test_a_file_without_a_secret_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, no text, a directory, not there: one line with the variable, and not with what it holds, which may be the secret."""
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "bytes").write_bytes(b"\xff")
    for path, said in (
        (str(tmp_path / "empty"), "is empty"),
        ("/dev/zero", "is longer than 65,536 characters"),
        (str(tmp_path / "bytes"), "cannot be read: it is not UTF-8"),
        (str(tmp_path), "cannot be read: Is a directory"),
        ("hush", "cannot be read: No such file"),
    ):
        monkeypatch.setenv(f"COORDINATOR_{name}_FILE", path)
        with pytest.raises(
            ConfigurationError, match=f"COORDINATOR_{name}_FILE: the file that it names {said}"
        ) as refused:
            load()
        assert path not in str(refused.value)


def test_a_file_that_is_being_replaced_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is empty, or no text, the last secret counts."""
    file = tmp_path / "secret"
    monkeypatch.setenv("COORDINATOR_REDIS_URL_FILE", str(file))
    monkeypatch.setenv("COORDINATOR_API_TOKEN_FILE", str(file))
    file.write_text("redis://h")
    settings = load()
    for content in (b"", b"\xff", b"\n"):
        file.write_bytes(content)
        assert (settings.current_url(), settings.api_tokens()) == ("redis://h", ("redis://h",))


@pytest.mark.parametrize("setting", ["api_token", "drain_token"])
@pytest.mark.parametrize(
    "text", [",", "hush,", ",hush", "hush,,hush", "a,b,hush", "hush\nhush", "hush hush", "hush\thush,b", "hush\u00e9"]
)
def test_tokens_are_one_or_two(setting: str, text: str) -> None:
    """A comma without a token beside it, a third token, and what no header can show, are refused; none of them is repeated."""
    with pytest.raises(ConfigurationError, match=f"{setting}: .*two") as refused:
        load(**{setting: text})
    assert "hush" not in str(refused.value)
    for fine in ("", "one", "one,two", " one , two "):
        assert load(**{setting: fine}).api_tokens() == (() if setting == "drain_token" else _parts(fine))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.replace(" ", "").split(",")) if text else ()


def test_a_change_of_a_token_file_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each: that it changed, or why what it says is refused; never a token."""
    file = tmp_path / "tokens"
    monkeypatch.setenv("COORDINATOR_API_TOKEN_FILE", str(file))
    file.write_text("hush-1")
    settings = load()
    with structlog.testing.capture_logs() as logs:
        for text in ("hush-1", "hush-1,hush-2", "hush-1\nhush-2", "hush-2"):
            file.write_text(text)
            for _ in range(3):
                settings.api_tokens()
    assert [(one["event"], one["setting"]) for one in logs] == [
        ("token_file_changed", "api_token"), ("token_file_refused", "api_token"), ("token_file_changed", "api_token"),
    ]  # fmt: skip
    assert "hush" not in str(logs)
    assert settings.api_tokens() == ("hush-2",)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:hush@h",
        "https://hush@h",
        "https://h/?token=hush",
        "https://[hush",
        "ftp://hush@h",
        "https://h\u2100hush",
    ],
)
def test_the_api_servers_url_holds_no_secret(url: str) -> None:
    """It is refused with one, and what is refused is not repeated."""
    with pytest.raises(ConfigurationError, match="pod_api: ") as refused:
        load(pod_api=url)
    assert "hush" not in str(refused.value)


def test_a_configuration_file_that_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no TOML, or sets what is no setting, is named."""
    file = tmp_path / "coordinator.toml"
    monkeypatch.setenv("COORDINATOR_CONFIG", str(file))
    for text, said in (("pool = ", "cannot be read"), ("pol = 'x'", "did you mean pool")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=said):
            load()


def test_labels_of_the_file_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that are given, or stand in the environment, count alone: those of the file are not merged into them."""
    file = tmp_path / "coordinator.toml"
    file.write_text('[labels]\nzone = "a"\nold = "1"\n')
    monkeypatch.setenv("COORDINATOR_CONFIG", str(file))
    assert load().labels == {"zone": "a", "old": "1"}
    assert load(labels={"zone": "b"}).labels == {"zone": "b"}
    monkeypatch.setenv("COORDINATOR_LABELS", "zone=c")
    assert load().labels == {"zone": "c"}


def test_the_file_may_be_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``COORDINATOR_CONFIG=<(decrypt settings)``."""
    reads, writes = os.pipe()
    os.write(writes, b'pool = "piped"')
    os.close(writes)
    monkeypatch.setenv("COORDINATOR_CONFIG", f"/dev/fd/{reads}")
    assert load().pool == "piped"
    os.close(reads)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with the reason."""
    monkeypatch.setenv("COORDINATOR_CONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match=r"COORDINATOR_CONFIG: .*none' cannot be read: No such file"):
        load()


def test_variables_are_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in other letters is another variable: whoever withholds secrets from a process need not know each spelling."""
    monkeypatch.setenv("coordinator_pool", "low")
    monkeypatch.setenv("Coordinator_Api_Token", "low")
    assert (load().pool, load().api_tokens()) == ("default", ())


def test_an_empty_variable_sets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's value counts then."""
    file = tmp_path / "coordinator.toml"
    file.write_text('pool = "file"')
    monkeypatch.setenv("COORDINATOR_CONFIG", str(file))
    monkeypatch.setenv("COORDINATOR_POOL", "")
    assert load().pool == "file"


def test_without_a_url_there_is_none() -> None:
    """Asking for the URL where none is set is a clear error."""
    with pytest.raises(ConfigurationError, match="redis_url is not set"):
        Settings.for_worker().current_url()


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_fits_together(profile: str) -> None:
    """The timings of a profile keep every rule, and are those of the profile."""
    settings = load(profile=profile)
    assert settings.trust_window > 0
    for name, text in PROFILES[profile].items():
        assert getattr(settings, name) == pytest.approx(parse_duration(text))


def test_profiles_are_ordered() -> None:
    """Fast finds the dead sooner than default, and default than safe."""
    fast, default, safe = (load(profile=p) for p in ("fast", "default", "safe"))
    assert fast.dead_after < default.dead_after < safe.dead_after
    assert fast.lost_connection_after < default.lost_connection_after < safe.lost_connection_after
    assert fast.trust_window < default.trust_window < safe.trust_window


def test_one_timing_of_a_profile_may_be_set_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting wins over its profile, and is checked together with the rest of it."""
    monkeypatch.setenv("COORDINATOR_PROFILE", "fast")
    assert load(dead_after="1.5s").dead_after == 1.5
    with pytest.raises(
        ConfigurationError, match=r"dead_after \(500ms\) must be at least 4 x heartbeat_interval \(150ms\)"
    ):
        load(dead_after="500ms")
    with pytest.raises(ConfigurationError, match="profile: "):
        load(profile="reckless")


def test_lost_connections_may_be_switched_off() -> None:
    """Zero: the trust window is then bounded by silence alone."""
    settings = load(lost_connection_after=0)
    assert settings.trust_window == settings.dead_after - settings.safety_margin


def test_workers_behind_a_sidecar_are_given_the_time_of_its_restart() -> None:
    """Silence and lost connections alike; other processes are not, and nothing else of the settings changes."""
    plain = load(sidecar_restart="20s", api_token="one,two")
    sidecar = plain.for_sidecar()
    assert (plain.own_dead_after, plain.own_trust_window, plain.own_wedged_after) == (2.0, 0.75, 5.0)
    assert (sidecar.own_dead_after, sidecar.own_trust_window, sidecar.own_wedged_after) == (20.0, 19.75, 20.0)
    assert (sidecar.dead_after, sidecar.trust_window, sidecar.wedged_after) == (2.0, 0.75, 5.0)
    assert sidecar.api_tokens() == ("one", "two")
    assert sidecar.model_copy(update={"name": "other"}).own_dead_after == 20.0


def test_a_short_restart_shortens_nothing() -> None:
    """What a worker is given anyway is the least; without a restart it is that."""
    for text in ("0", "900ms"):
        assert load(sidecar_restart=text).for_sidecar().own_trust_window == 0.75
    patient = load(dead_after="30s", sidecar_restart="20s", lost_connection_after=0).for_sidecar()
    assert (patient.own_dead_after, patient.own_trust_window) == (30.0, 29.75)


def test_the_default_outlives_the_second_restart_in_a_row() -> None:
    """Kubernetes starts it after 25 s at the latest; there is time for the program to start as well."""
    assert load().for_sidecar().own_trust_window > 28


COORDINATOR = Path(coordinator.__file__).parent
READ = re.compile(r"\b(?:_?settings|s)\.(\w+)")
"""How the code of this package reads a setting."""
BY = {
    "own_dead_after": "dead_after", "own_wedged_after": "wedged_after", "trust_window": "safety_margin", "replicated": "durability",
    "api_tokens": "api_token", "drain_tokens": "drain_token", "key_source": "encryption_keys", "current_url": "redis_url",
}  # fmt: skip
"""Settings that are read by another name."""


@pytest.mark.parametrize(("package", "program"), [("daemon", DAEMON), ("worker", WORKER), ("sidecar", SIDECAR)])
def test_what_a_program_reads_is_listed_for_it(package: str, program: tuple[Program]) -> None:
    """A setting that the code of a program reads is among those that its help and the documents list for it."""
    read = {name for file in (COORDINATOR / package).glob("*.py") for name in READ.findall(file.read_text())}
    names = {BY.get(name, name) for name in read} & Settings.model_fields.keys()
    elsewhere = {"drain_token"} if package == "daemon" else set()  # its code reads it for the sidecar
    listed = {name for name, field in Settings.model_fields.items() if set(program) <= set(programs_of(field))}
    assert {"redis_url", "name"} & names
    assert names - elsewhere <= listed


def test_every_setting_is_listed_once() -> None:
    """In one group, for one program at least."""
    listed = [name for _, fields in grouped(Settings.model_fields) for name in fields]
    assert sorted(listed) == sorted(Settings.model_fields)
    assert all(programs_of(field) for field in Settings.model_fields.values())
