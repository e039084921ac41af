"""A password in a wrong place of a URL, by every way in which one is given, to every command: none of it comes out again."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from coordinator import ConfigurationError, Worker
from coordinator.cli.app import app, main
from coordinator.logs import configure_logging
from coordinator.sessions import RedisStore
from coordinator.settings import Settings, load
from coordinator.store.connect import Connector
from tests.acceptance.processes import Process
from tests.waiting import wait_until

CANARY = "c4n4ry"
SECOND = "s3cr3t"
HOSTS = ("redis://", "rediss://", "redis+sentinel://", "rediss+cluster://")
MALFORMED = [
    *(f"{scheme}:{CANARY}{c}{SECOND}@127.0.0.1:1/0" for scheme in HOSTS for c in "/?# \t\n"),
    *(f"{quote}redis://:{CANARY}@127.0.0.1:1/0{quote}" for quote in "\"'"),
    *(f"redis{slashes}:{CANARY}@127.0.0.1:1/0" for slashes in (":/", "//", ":", "")),
    f":{CANARY}@127.0.0.1:1",
    f"{CANARY}@127.0.0.1:1/{SECOND}",
    f"redis://:{CANARY}@127.0.0.1:1/{SECOND}",
    f"redis://{CANARY}:@127.0.0.1:1",
    f"redis://:{CANARY}",
    f"redis://user:{CANARY}",
    f"redis://:{CANARY}@127.0.0.1:{SECOND}",
    f"redis://:{CANARY}@[::1:1/0",
    f"redis://127.0.0.1:1/0?password={CANARY}",
    f"redis://127.0.0.1:1/0?db={CANARY}",
    f"rediss://127.0.0.1:1/0?ssl_password={CANARY}",
    f"rediss://127.0.0.1:1/0?ssl_check_hostname={CANARY}",
    f"redis+sentinel://:{CANARY}@127.0.0.1:1/calls?sentinel_password={SECOND}&sentinel_password={CANARY}",
    f"redis+cluster://:{CANARY}@127.0.0.1:1/3",
    f"unix://:{CANARY}@run/redis.sock",
    f"http://:{CANARY}@127.0.0.1:1",
    f"redis://:{CANARY}%ff@127.0.0.1:1",
]


def commands() -> list[list[str]]:
    """Every command of the program, with what it cannot do without."""
    found = []

    def walk(group: Any, words: list[str]) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, [*words, name])
                continue
            needed = [p for p in command.params if p.required]
            options = [word for p in needed if p.param_type_name == "option" for word in (p.opts[0], "x")]
            given = ["x" for p in needed if p.param_type_name == "argument"]
            found.append([*words, name, *options, *given])

    walk(PROGRAM, [])
    return found


SETTINGS: Any = Settings
PROGRAM: Any = typer.main.get_command(app)
COMMANDS = commands()
SOME = MALFORMED[::5]
WITH_SETTINGS = [words for words in COMMANDS if words[0] not in ("demo", "bench")]


def by_flag(url: str, _: Path, __: pytest.MonkeyPatch) -> list[str]:
    return ["--redis-url", url]


def by_environment(url: str, _: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
    return []


def by_file(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "url").write_text(url)
    monkeypatch.setenv("COORDINATOR_REDIS_URL_FILE", str(folder / "url"))
    return []


def by_the_files_variable(url: str, _: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URL itself, where the path of its file should be."""
    monkeypatch.setenv("COORDINATOR_REDIS_URL_FILE", url)
    return []


def by_configuration(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "c.toml").write_text(f"redis_url = {json.dumps(url, ensure_ascii=False)}\n")
    monkeypatch.setenv("COORDINATOR_CONFIG", str(folder / "c.toml"))
    return []


def by_broken_configuration(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "c.toml").write_text(f"redis_url == {url}\n")
    monkeypatch.setenv("COORDINATOR_CONFIG", str(folder / "c.toml"))
    return []


WAYS = [by_flag, by_environment, by_file, by_the_files_variable, by_configuration, by_broken_configuration]


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that would start is a failed test."""

    def started(*_: object) -> None:
        raise AssertionError("it started")

    monkeypatch.setattr("anyio.run", started)


def invoke(*words: str) -> tuple[int, str]:
    """Exit status and all output of a command; what ends it is no other exception."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
        PROGRAM.main(list(words), prog_name="coordinator")
    return int(ended.value.code or 0), out.getvalue()


def tells(text: str) -> bool:
    return CANARY in text or SECOND in text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", WITH_SETTINGS, ids=" ".join)
def test_no_command_repeats_a_malformed_url(
    words: list[str],
    way: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_runs: None,
) -> None:
    """Exit status 2, one line or a few, and nothing of the password."""
    at = words.index("x") if words[0] == "supervise" else len(words)
    for url in MALFORMED if words == ["status"] else SOME:
        with monkeypatch.context() as patch:
            status, said = invoke(*words[:at], *way(url, tmp_path, patch), *words[at:])
        assert not tells(said), url
        assert status == 2, url
        assert "Traceback" not in said


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_repeats_its_arguments(words: list[str], nothing_runs: None) -> None:
    """A URL in the place of an argument, of an option's name, or of the command."""
    for url in (*(MALFORMED if words == ["status"] else SOME), f"redis://:{CANARY}@127.0.0.1:1/0"):
        for wrong in ([*words[:1], *words[1:], url, url], [words[0], f"--redisurl={url}"], [url, *words], [f"--{url}"]):
            if wrong[0] == "supervise" and wrong[-1] == url and wrong[1] == "x":
                continue  # what stands there is the child's
            status, said = invoke(*wrong)
            assert not tells(said), wrong
            assert status == 2, wrong


@pytest.mark.parametrize("words", [w for w in WITH_SETTINGS if "x" in w and w[0] != "supervise"], ids=" ".join)
def test_no_command_repeats_a_url_in_the_place_of_an_id(words: list[str]) -> None:
    """Exit status 2 where it cannot be one, else 3, since the store is away."""
    for url in SOME:
        status, said = invoke(*[url if word == "x" else word for word in words], "--redis-url", "redis://127.0.0.1:1/0")
        if "://" in url:
            assert CANARY not in said, url
        assert status in (2, 3), said


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_tells_no_setting(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No default is shown that the environment gave."""
    for name in ("REDIS_URL", "API_TOKEN", "DRAIN_TOKEN", "ENCRYPTION_KEYS"):
        monkeypatch.setenv(f"COORDINATOR_{name}", f"redis://:{CANARY}@127.0.0.1:1")
    status, said = invoke(*[word for word in words if word != "x" and not word.startswith("--")], "--help")
    assert status == 0
    assert not tells(said)


@pytest.mark.parametrize(
    "words", [w for w in WITH_SETTINGS if w[0] not in ("run", "sidecar", "supervise")], ids=" ".join
)
def test_a_store_that_is_away_is_told_without_its_password(words: list[str]) -> None:
    """Exit status 3, with host and port."""
    given = [*words, *(["call-1"] if words[-1] in ("replay", "purge") else [])]
    for url in (
        f"redis://u:{CANARY}@127.0.0.1:1/0",
        f"rediss://:{CANARY}@127.0.0.1:1/0?ssl_cert_reqs=none",
        f"redis+sentinel://:{CANARY}@127.0.0.1:1/calls?sentinel_password={SECOND}",
        f"rediss+cluster://:{CANARY}@127.0.0.1:1",
    ):
        status, said = invoke(*given, "--redis-url", url)
        assert not tells(said), url
        assert status == 3, said
        assert "127.0.0.1:1" in said
        assert ("ssl_cert_reqs=none: the server's certificate is not checked" in said) == ("none" in url)


def test_a_warning_is_no_part_of_a_document() -> None:
    """It goes to standard error; doctor has it as a finding too where the store answers."""
    done = CliRunner().invoke(
        app, ["doctor", "--json", "--redis-url", "rediss://127.0.0.1:1/0?ssl_check_hostname=false"]
    )
    assert json.loads(done.stdout)["fit"] is False
    assert "warning: rediss://127.0.0.1:1/0: ssl_check_hostname=false" in done.stderr


@pytest.mark.parametrize(
    "make",
    [
        Worker,
        RedisStore,
        Connector,
        lambda url: RedisStore(lambda: url),
        lambda url: Worker(redis_url=url),
        lambda url: load(redis_url=url),
        lambda url: load(redis_url=url, lease="10h"),
        lambda url: load(redis_url=[url]),
        lambda url: load(pod_api=url),
        lambda url: load(api_token=[url]),
        lambda url: SETTINGS(redis_url=url),
        lambda url: SETTINGS(redis_url=[url]),
        lambda url: SETTINGS(redis_url=f"redis://:{CANARY}@h", lease=10**6),
    ],
)
def test_no_constructor_repeats_a_malformed_url(make: Callable[[str], object]) -> None:
    """Worker, session store, settings and connections: neither the error's text nor its traceback."""
    for url in MALFORMED:
        with pytest.raises(ValueError, match=r"\w") as refused:
            make(url)
        told = [line for line in traceback.format_exception(refused.value) if not line.lstrip().startswith("File")]
        assert not tells("".join(told)), url


@pytest.mark.parametrize("setting", ["name", "lease", "pool", "prefix", "capacity", "max_data_bytes", "nonsense"])
def test_a_url_in_another_setting_is_masked(setting: str) -> None:
    """What is refused is repeated, but for credentials and options."""
    for rest in (f"u:{CANARY}/{SECOND}@h", f":{CANARY}@h/0?password={SECOND}", f"h?password={CANARY}", f":{CANARY}"):
        with pytest.raises(ConfigurationError) as refused:
            load(**{setting: f"redis://{rest}"})
        assert not tells(str(refused.value))


def test_settings_with_secrets_show_none() -> None:
    """Their text, their representation and a dump of them."""
    secrets = dict.fromkeys(("api_token", "drain_token", "encryption_keys"), CANARY)
    settings = load(redis_url=f"redis://{SECOND}:{CANARY}@h", **secrets)
    assert not tells(f"{settings} {settings!r} {settings.model_dump()} {vars(settings)}")
    assert not tells(settings.model_dump_json())


@pytest.mark.parametrize("style", ["json", "console"])
def test_logs_mask_what_libraries_say(monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """In events, fields, things in fields, and in tracebacks, those of other packages too; a JSON line stays one."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    url = f"redis://u:{CANARY}/{SECOND}@the-host"
    try:
        configure_logging(load(log_format=style))
        for log in (structlog.get_logger().error, logging.getLogger("other").error):
            try:
                raise OSError(f"no way to {url}")
            except OSError:
                log(f"failed: {url}", exc_info=True)
        structlog.get_logger().warning("it", where={"urls": [url, (url,)]}, redis_url=url, mail="a@b")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    said = out.getvalue()
    assert not tells(said)
    assert said.count("the-host") >= 6
    if style == "json":
        assert json.loads(said.splitlines()[-1])["mail"] == "a@b"
        assert all(json.loads(line) for line in said.splitlines())


def test_a_defect_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error of the program itself is a traceback, masked, and exit status 1."""

    def fail(_: object) -> None:
        raise RuntimeError(f"of redis://:{CANARY}@h")

    monkeypatch.setattr("coordinator.cli.status.partitions", fail)
    monkeypatch.setattr("sys.argv", ["coordinator", "status", "--redis-url", "redis://h"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "RuntimeError" in said
    assert not tells(said)


@pytest.mark.parametrize(
    "words", [("run",), ("sidecar", "--drain-port", "0"), ("supervise", "--", "sleep", "60")], ids=" ".join
)
def test_a_running_program_tells_no_secret(words: tuple[str, ...], tmp_path: Path) -> None:
    """Its log and what the process list shows, with a store that is away and secrets by environment."""
    process = Process(
        "coordinator", *words, STDERR=str(tmp_path / "log"), COORDINATOR_REDIS_URL=f"redis://u:{CANARY}@127.0.0.1:1/0",
        COORDINATOR_HTTP_PORT="0", COORDINATOR_API_TOKEN=CANARY, COORDINATOR_ENCRYPTION_KEYS=f"k:{(CANARY * 8)[:43]}=",
        COORDINATOR_NAME="secret-keeper", COORDINATOR_STORE_TIMEOUT="100ms",
    )  # fmt: skip
    try:
        wait_until(lambda: "127.0.0.1:1" in process.errors() or not process.alive, 30)
        listed = Path(f"/proc/{process.pid}/cmdline").read_text() if process.alive else ""
        assert not tells(process.errors() + listed)
        assert "127.0.0.1:1" in process.errors()
    finally:
        process.close()
