"""The library chart that puts the sidecar into somebody else's Deployment, as its example uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.settings import SECRETS, load
from tests.kubernetes.rendering import RefusedError, containers, of_kind, worker
from tests.kubernetes.test_chart import PASSWORDS, PROMETHEUS, VERSIONS, check_valid, environment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its dependency."""
    return tmp_path_factory.mktemp("chart")


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    [deployment] = of_kind(objects, "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_is_valid(folder: Path, version: str) -> None:
    """Strictly, for each version that is supported, with and without the socket and Secrets."""
    for recovery in (
        {},
        {"socket": {"enabled": False}, "shareProcessNamespace": False, "apiTokenSecret": "tokens"},
        {"redis": {"existingSecret": "", "url": "redis://r"}},
    ):
        objects = worker(folder, recovery)
        check_valid(objects, version)
        assert of_kind(objects, "NetworkPolicy")


def test_a_native_sidecar(folder: Path) -> None:
    """An init container that is restarted always, gates the worker by a probe, and may do nothing but run."""
    spec = pod(worker(folder))
    [sidecar] = spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert sidecar["securityContext"]["readOnlyRootFilesystem"]


def test_probes_follow_the_store_where_that_is_wanted(folder: Path) -> None:
    """By default a pod starts and is ready while Redis is away: its sidecar serves, and says 503."""
    [sidecar] = pod(worker(folder))["initContainers"]
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert "readinessProbe" not in sidecar
    [follows] = pod(worker(folder, {"readinessFollowsStore": True, "startupFollowsStore": True}))["initContainers"]
    assert follows["readinessProbe"]["httpGet"]["path"] == follows["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_the_end_of_a_worker_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default they share process numbers and a socket: one path for both, whose volume the worker cannot change."""
    spec = pod(worker(folder, {"redis": {"existingSecret": "", "url": "redis://r"}}))
    [sidecar], [main] = spec["initContainers"], spec["containers"]
    assert spec["shareProcessNamespace"] is True
    assert environment(main)["RECOVERY_SOCKET"] == environment(sidecar)["COORDINATOR_HTTP_SOCKET"]
    [ours] = [one for one in sidecar["volumeMounts"] if one["name"] == "recovery-socket"]
    [its] = [one for one in main["volumeMounts"] if one["name"] == "recovery-socket"]
    assert (its, ours.get("readOnly")) == ({**ours, "readOnly": True}, None)
    assert environment(main)["RECOVERY_SOCKET"] == f"{its['mountPath']}/sidecar.sock"
    for name, value in environment(sidecar).items():
        monkeypatch.setenv(name, value)
    assert load().http_socket_shared


def test_each_way_to_see_its_end_can_be_left_out(folder: Path) -> None:
    """No shared process numbers, no socket, or a socket for the pod's group."""
    apart = pod(worker(folder, {"shareProcessNamespace": False}))
    assert apart["shareProcessNamespace"] is False
    assert "RECOVERY_SOCKET" in environment(apart["containers"][0])
    without = pod(worker(folder, {"socket": {"enabled": False}}))
    assert without["shareProcessNamespace"] is True
    assert "recovery-socket" not in str(without)
    assert "RECOVERY_SOCKET" not in environment(without["containers"][0])
    assert not [name for name in environment(without["initContainers"][0]) if "SOCKET" in name]
    grouped = pod(worker(folder, {"socket": {"shared": False}}))
    assert environment(grouped["initContainers"][0])["COORDINATOR_HTTP_SOCKET_SHARED"] == "false"


def test_the_hook_finds_the_sidecar(folder: Path) -> None:
    """The worker's preStop hook calls the sidecar's drain port with the token that the sidecar knows."""
    for ports in ({"http": 9410, "drain": 9411}, {"http": 1234, "drain": 4321}):
        spec = pod(worker(folder, {"ports": ports}))
        [sidecar], [main] = spec["initContainers"], spec["containers"]
        hook, known = main["lifecycle"]["preStop"]["httpGet"], environment(sidecar)
        assert (hook["path"], str(hook["port"])) == ("/prestop", known["COORDINATOR_DRAIN_PORT"])
        assert hook["httpHeaders"] == [{"name": "Authorization", "value": f"Bearer {known['COORDINATOR_DRAIN_TOKEN']}"}]
        assert environment(main)["RECOVERY_URL"] == f"http://127.0.0.1:{known['COORDINATOR_HTTP_PORT']}"
        assert [port["containerPort"] for port in sidecar["ports"]] == [ports["http"], ports["drain"]]


def test_the_grace_period_holds_the_drain(folder: Path) -> None:
    """It is drain and margin; the program checks it again by itself; a shorter one is refused with the numbers."""
    spec = pod(worker(folder, {"drainTimeoutSeconds": 100, "marginSeconds": 20}))
    known = environment(spec["initContainers"][0])
    assert spec["terminationGracePeriodSeconds"] == 120
    assert (known["COORDINATOR_DRAIN_TIMEOUT"], known["COORDINATOR_TERMINATION_GRACE_PERIOD"]) == ("100s", "120s")
    assert pod(worker(folder, {"terminationGracePeriodSeconds": 3600}))["terminationGracePeriodSeconds"] == 3600
    with pytest.raises(RefusedError, match=r"30 is less than drainTimeoutSeconds \(45\) \+ marginSeconds \(15\)"):
        worker(folder, {"terminationGracePeriodSeconds": 30})


def test_settings_arrive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sidecar reads: name and uid of its pod, labels beside the uid, no way to be reached without a token."""
    recovery = {
        "redis": {"existingSecret": "", "url": "redis://r:6379/1"},
        "settings": {"labels": {"zone": "a"}, "capacity": 9, "profile": "fast"},
        "extraEnv": [{"name": "COORDINATOR_LOG_LEVEL", "value": "debug"}],
    }  # fmt: skip
    [sidecar] = pod(worker(folder, recovery))["initContainers"]
    for name, value in environment(sidecar).items():
        monkeypatch.setenv(name, value.replace("$(POD_UID)", "the-uid"))
    found = load()
    assert (found.labels, found.capacity, found.url) == ({"pod_uid": "the-uid", "zone": "a"}, 9, "redis://r:6379/1")
    assert (found.http_host, found.api_tokens(), found.http_socket) == ("0.0.0.0", (), "/run/recovery/sidecar.sock")
    assert found.dead_after < load(profile="default", drain_timeout=1).dead_after


def test_volumes_are_there(folder: Path) -> None:
    """Whatever a container mounts is a volume of its pod."""
    for recovery in ({"apiTokenSecret": "tokens"}, {"socket": {"enabled": False}}):
        for container, spec in containers(worker(folder, recovery)):
            mounts = {mount["name"] for mount in container.get("volumeMounts") or []}
            assert mounts <= {volume["name"] for volume in spec["volumes"]}
            assert ("recovery-socket" in mounts) == ("socket" not in recovery)


def test_the_sidecar_is_for_its_worker_and_for_prometheus(folder: Path) -> None:
    """The example's policy lets callers in to the telephone, Prometheus to the sidecar, and nobody else, nor to the drain port."""
    for recovery, expected in (({}, [[PROMETHEUS]]), ({"metricsFrom": []}, [])):
        [policy] = of_kind(worker(folder, {"ports": {"http": 1234, "drain": 4321}, **recovery}), "NetworkPolicy")
        telephone, *others = policy["spec"]["ingress"]
        assert [port["port"] for port in telephone["ports"]] == ["telephone"]
        assert [rule["from"] for rule in others] == expected
        assert [[port["port"] for port in rule["ports"]] for rule in others] == [[1234]] * len(expected)


def test_secrets_are_files(folder: Path) -> None:
    """The URL, the TLS files, tokens and keys; the hook's token alone stands in the pod, where the kubelet reads it."""
    given = {
        "apiTokenSecret": "tokens",
        "encryptionKeysSecret": "keys",
        "redis": {"existingSecret": "store", "tlsSecret": "tls"},
    }
    spec = pod(worker(folder, given))
    [sidecar] = spec["initContainers"]
    known = environment(sidecar)
    secret = {f"COORDINATOR_{name.upper()}" for name in SECRETS} - {"COORDINATOR_DRAIN_TOKEN"}
    assert secret.isdisjoint(known)
    mounts = {mount["mountPath"]: mount["name"] for mount in sidecar["volumeMounts"]}
    secrets = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    assert {path: secrets[name] for path, name in mounts.items() if name != "recovery-socket"} == {
        "/etc/recovery/redis": "store",
        "/etc/recovery/tls": "tls",
        "/etc/recovery/api-token": "tokens",
        "/etc/recovery/encryption-keys": "keys",
    }
    assert {known[f"COORDINATOR_{name}_FILE"] for name in ("REDIS_URL", "API_TOKEN", "ENCRYPTION_KEYS")} == {
        "/etc/recovery/redis/url",
        "/etc/recovery/api-token/tokens",
        "/etc/recovery/encryption-keys/keys",
    }


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_url_with_a_password_is_refused(folder: Path, url: str) -> None:
    """As by the chart of the coordinators."""
    with pytest.raises(
        RefusedError, match=r"recovery\.redis\.url: a user or password .* recovery\.redis\.existingSecret"
    ):
        worker(folder, {"redis": {"existingSecret": "", "url": url}})
    for name, value in (("REDIS_URL", url), ("ENCRYPTION_KEYS", "hush")):
        with pytest.raises(RefusedError, match=rf"recovery\.extraEnv: COORDINATOR_{name} by value"):
            worker(folder, {"extraEnv": [{"name": f"COORDINATOR_{name}", "value": value}]})


@pytest.mark.parametrize(
    ("recovery", "said"),
    [
        ({"drainToken": ""}, "recovery.drainToken: give a random text"),
        ({"drainToken": "short"}, "drainToken"),
        ({"redis": {"existingSecret": ""}}, "recovery.redis: name the store"),
        ({"redis": {"url": "redis://x"}}, "give url or existingSecret, not both"),
        ({"marginSeconds": 1}, "marginSeconds"),
        ({"settings": {"drain_timeout": "9s"}}, "drain_timeout"),
        ({"drainTimeout": 9}, "drainTimeout"),
        ({"shareProcessNamespace": "yes"}, "shareProcessNamespace"),
        ({"socket": {"shared": "all"}}, "socket.*shared"),
    ],
)
def test_wrong_values_are_refused(folder: Path, recovery: dict[str, Any], said: str) -> None:
    """With a message that names the value."""
    with pytest.raises(RefusedError, match=said):
        worker(folder, recovery)
