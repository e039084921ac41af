"""The chart of the coordinators, as text: valid, safe, and wrong values are refused."""

from __future__ import annotations

import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from coordinator.settings import SECRETS, load
from coordinator.version import VERSION
from tests.kubernetes.chart_docs import CHART, LIBRARY, ROOT, rendered
from tests.kubernetes.rendering import EVERYTHING, RefusedError, containers, helm, of_kind, template

VERSIONS = ("1.29", "1.31", "1.34", "1.37")
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Validated with the operator's own definitions in tests/cluster."""

CHOICES: list[dict[str, Any]] = [
    {},
    EVERYTHING,
    {"redis": {"tryOut": {"enabled": True}}, "networkPolicy": {"enabled": False}, "replicaCount": 1},
    {
        "serviceAccount": {"create": False, "name": "mine"},
        "podDisruptionBudget": {"enabled": False},
        "fullnameOverride": "x",
    },
]


def check_valid(objects: list[dict[str, Any]], version: str) -> None:
    """Strictly: a field that Kubernetes does not know is a fault."""
    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("chart", [CHART, LIBRARY], ids=["coordinators", "sidecar"])
def test_lint(chart: Any) -> None:
    """helm lint finds nothing, strictly."""
    assert "0 chart(s) failed" in helm("lint", "--strict", chart)


@pytest.mark.parametrize("version", VERSIONS)
def test_valid_for_each_kubernetes(version: str) -> None:
    """With all features and with few of them every object is valid for the versions that are supported."""
    for values in CHOICES:
        objects = template(values, version=f"{version}.0")
        assert objects
        check_valid(objects, version)


def test_an_unknown_field_is_seen() -> None:
    """The check above would notice one."""
    [budget] = of_kind(template(), "PodDisruptionBudget")
    budget["spec"]["maxUnavailible"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        check_valid([budget], "1.34")


def test_an_old_kubernetes_is_refused() -> None:
    """Before 1.29 there are no native sidecars."""
    with pytest.raises(RefusedError, match=r"1\.29"):
        template(version="1.28.0")


@pytest.mark.parametrize("values", CHOICES)
def test_selectors_match_labels(values: dict[str, Any]) -> None:
    """Whatever selects pods or services selects just what it is meant for, and named ports exist."""
    objects = template(values)
    pods = {one["metadata"]["name"]: one["spec"]["template"] for one in of_kind(objects, "Deployment")}

    def chosen(selector: dict[str, str]) -> set[str]:
        return {name for name, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()}

    for one in objects:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert chosen(spec["selector"]["matchLabels"]) == {name}
        elif one["kind"] == "NetworkPolicy":
            assert chosen(spec["podSelector"]["matchLabels"]) == {name}
            for rule in spec["egress"]:
                for peer in rule.get("to", []):
                    if "podSelector" in peer:
                        assert chosen(peer["podSelector"]["matchLabels"]) == {f"{name}-redis"}
        elif one["kind"] == "Service":
            assert chosen(spec["selector"]) == {name}
            named = {port["name"] for c in pods[name]["spec"]["containers"] for port in c["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= named
        elif one["kind"] == "ServiceMonitor":
            wanted = spec["selector"]["matchLabels"].items()
            assert [
                s["metadata"]["name"] for s in of_kind(objects, "Service") if wanted <= s["metadata"]["labels"].items()
            ] == [name]
            [service] = [s for s in of_kind(objects, "Service") if s["metadata"]["name"] == name]
            assert {e["port"] for e in spec["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}
    for pod in pods.values():
        for constraint in pod["spec"].get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_containers_may_do_nothing_but_run() -> None:
    """Not root, read-only, no capabilities, a seccomp profile, no token unless pods are watched."""
    for values in CHOICES:
        objects = template(values)
        for container, spec in containers(objects):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {**spec["securityContext"], **context}["runAsNonRoot"]
            assert {**spec["securityContext"], **context}["seccompProfile"] == {"type": "RuntimeDefault"}
            watches = values.get("podEvents", {}).get("enabled", False) and container["name"] == "coordinator"
            assert spec["automountServiceAccountToken"] == watches
            assert not spec["enableServiceLinks"]


def test_the_role_is_the_least() -> None:
    """Without pod events no rights at all; with them to see pods; only the deletion cost needs to write."""
    assert not of_kind(template(), "Role")
    verbs = []
    for cost in (False, True):
        [role] = of_kind(template({"podEvents": {"enabled": True, "deletionCost": cost}}), "Role")
        assert [(rule["apiGroups"], rule["resources"]) for rule in role["rules"]] == [([""], ["pods"])]
        verbs.append(role["rules"][0]["verbs"])
    assert verbs == [["list", "watch"], ["list", "watch", "patch"]]


def test_probes() -> None:
    """Liveness never looks at the store; readiness does."""
    [deployment] = of_kind(template(), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness", "startup")}
    assert paths == {"liveness": "/healthz", "readiness": "/readyz", "startup": "/healthz"}


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Its variables; each name is there once."""
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))
    return {one["name"]: one.get("value", "from-the-pod") for one in container["env"]}


def test_settings_arrive(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """What the chart writes into the environment is what the program reads from it."""
    [deployment] = of_kind(template(EVERYTHING), "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    (tmp_path / "url").write_text("redis://from-the-secret:6379/3")
    for name, value in environment(container).items():
        monkeypatch.setenv(name, value.replace("/etc/recovery/redis", str(tmp_path)))
    found = load()
    assert (found.dead_after, found.max_offers, found.breaker_share, found.max_data_bytes) == (3.0, 7, 0.5, 131072)
    assert (found.log_level, found.log_format, found.url) == ("debug", "json", "redis://from-the-secret:6379/3")
    assert (found.pod_events, found.pod_namespace, found.pod_selector, found.pod_deletion_cost) == (
        True,
        "voice",
        "app=voice",
        True,
    )


def test_numbers_stay_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million is no 1e+06, and what extraEnv names replaces what settings name."""
    values = {
        "settings": {"max_data_bytes": 1000000, "max_offers": 5},
        "extraEnv": [{"name": "COORDINATOR_MAX_OFFERS", "value": "9"}],
    }
    [deployment] = of_kind(template(values), "Deployment")
    found = environment(deployment["spec"]["template"]["spec"]["containers"][0])
    assert (found["COORDINATOR_MAX_DATA_BYTES"], found["COORDINATOR_MAX_OFFERS"]) == ("1000000", "9")


PROMETHEUS = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}


def let_in(policy: dict[str, Any]) -> list[dict[str, Any]]:
    """Every peer that may come in; a rule without one would let everybody in."""
    return [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]


def test_only_prometheus_is_let_in() -> None:
    """And the chart's own test; whom `metricsFrom` names in its place, and nobody when it names nobody."""
    for values, expected in (
        ({}, [PROMETHEUS]),
        ({"networkPolicy": {"metricsFrom": []}}, []),
        (EVERYTHING, EVERYTHING["networkPolicy"]["metricsFrom"]),
    ):
        [policy] = of_kind(template(values), "NetworkPolicy")
        *others, own = let_in(policy)
        assert others == expected
        assert own["podSelector"]["matchLabels"]["app.kubernetes.io/name"].endswith("-test")
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_the_redis_for_trying_out_is_closed_too() -> None:
    """It has no password: coordinators, the test, and the pods of its namespace, or whom the values name; it goes nowhere."""
    for given, expected in (({}, [{"podSelector": {}}]), ({"from": []}, [])):
        values = {"redis": {"tryOut": {"enabled": True, **given}}}
        objects = template(values)
        [policy] = [one for one in of_kind(objects, "NetworkPolicy") if one["metadata"]["name"].endswith("-redis")]
        coordinators, test, *others = let_in(policy)
        assert others == expected
        assert coordinators["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "coordinator"
        assert test["podSelector"]["matchLabels"]["app.kubernetes.io/name"].endswith("-test")
        assert policy["spec"]["egress"] == []


def test_secrets_are_files() -> None:
    """No variable of any container holds one; the files are mounted from Secrets, and read-only."""
    values = {"redis": {"existingSecret": "store", "tlsSecret": "tls"}, "extraEnv": [{"name": "A", "value": "b"}]}
    for container, spec in containers(template(values)):
        secret = {f"COORDINATOR_{name.upper()}" for name in SECRETS}
        assert secret.isdisjoint(one["name"] for one in container.get("env", []))
        mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
        if container["name"] in ("coordinator", "store"):
            volumes = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if v["name"] in mounts}
            assert volumes == {"redis": "store", "redis-tls": "tls"}
            assert all(mount["readOnly"] for mount in mounts.values())


PASSWORDS = [
    "redis://:hush@h:6379/0",
    "rediss://u:hush@h",
    "redis://hush@h",
    "redis+sentinel://h/calls?sentinel_password=hush",
    "rediss://h?ssl_certfile=/c&ssl_password=hush",
    "redis://:hu#sh@h",
]


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_url_with_a_password_is_refused(url: str) -> None:
    """By value and by variable; it would be kept with the release. Without one it is taken, and so is a variable from a Secret."""
    for values, said in (
        ({"redis": {"url": url}}, r"redis\.url: a user or password .* redis\.existingSecret"),
        ({"extraEnv": [{"name": "COORDINATOR_REDIS_URL", "value": url}]}, "extraEnv: COORDINATOR_REDIS_URL by value"),
    ):
        with pytest.raises(RefusedError, match=said) as refused:
            template(values)
        assert "hush" not in str(refused.value)
    template({"redis": {"url": "rediss+sentinel://a:1,b:2/calls/0?ssl_ca_certs=/etc/recovery/tls/ca.crt"}})


@pytest.mark.parametrize("name", ["API_TOKEN", "DRAIN_TOKEN", "ENCRYPTION_KEYS"])
def test_a_secret_by_value_is_refused(name: str) -> None:
    """From a Secret it is taken."""
    variable = f"COORDINATOR_{name}"
    with pytest.raises(RefusedError, match=f"extraEnv: {variable} by value"):
        template({"extraEnv": [{"name": variable, "value": "hush"}]})
    template({"extraEnv": [{"name": variable, "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": 3}, "replicas"),
        ({"settings": {"dead_afer": "2s"}}, "dead_afer"),
        ({"settings": {"dead_after": "soon"}}, "settings.dead_after"),
        ({"settings": {"redis_url": "redis://x"}}, "redis_url"),
        ({"settings": {"log_level": "loud"}}, "settings.log_level"),
        ({"redis": {"url": ""}}, "redis: name the store"),
        ({"image": {"digest": "latest"}}, "image.digest"),
        ({"podEvents": {"deletionCost": True}}, "podEvents.deletionCost needs podEvents.enabled"),
        ({"podMonitor": {"enabled": True}}, "podMonitor.selector: give the labels"),
        ({"podDisruptionBudget": {"unhealthyPodEvictionPolicy": "Never"}}, "unhealthyPodEvictionPolicy"),
        ({"service": {"port": 0}}, "service.port"),
        ({"extraEnv": [{"value": "x"}]}, "extraEnv"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], said: str) -> None:
    """With a message that names the value."""
    with pytest.raises(RefusedError, match=said.replace(".", r"\.")):
        template(values)


def test_every_value_is_in_the_schema() -> None:
    """And every property of the schema has a default."""
    for chart in (CHART, LIBRARY):
        values, schema = (
            yaml.safe_load((chart / "values.yaml").read_text()),
            json.loads((chart / "values.schema.json").read_text()),
        )
        assert set(schema["properties"]) - {"global"} == set(values)
        for name, value in values.items():
            properties = schema["properties"][name].get("properties")
            if isinstance(value, dict) and properties:
                assert set(properties) == set(value), name
        assert schema["additionalProperties"] is False


def test_the_docs_of_the_charts_are_in_step() -> None:
    """Tables of values and schemas of settings are what `python -m tests.kubernetes.chart_docs` writes; each value is described."""
    for path, text in rendered().items():
        assert path.read_text() == text, f"{path}: run python -m tests.kubernetes.chart_docs"
    table = (CHART / "README.md").read_text()
    assert all(
        f"| `{name}" in table
        for name in yaml.safe_load((CHART / "values.yaml").read_text())
        if name != "updateStrategy"
    )


def test_versions_agree() -> None:
    """Program, charts, library and its image are one release."""
    chart, library = (yaml.safe_load((one / "Chart.yaml").read_text()) for one in (CHART, LIBRARY))
    assert {
        chart["version"],
        chart["appVersion"],
        library["version"],
        library["appVersion"],
        chart["dependencies"][0]["version"],
    } == {VERSION}
    assert yaml.safe_load((LIBRARY / "values.yaml").read_text())["image"]["tag"] == VERSION
    assert (
        yaml.safe_load((ROOT / "examples/kubernetes/Chart.yaml").read_text())["dependencies"][0]["version"] == VERSION
    )


def test_alerts_and_dashboard_are_the_files() -> None:
    """What the chart installs is what promtool and the tests of the dashboard look at; the runbook's place can be changed."""
    objects = template(EVERYTHING)
    [rule], [dashboard] = (
        of_kind(objects, "PrometheusRule"),
        [o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"].endswith("dashboard")],
    )
    groups = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    assert rule["spec"]["groups"] == groups
    assert json.loads(dashboard["data"]["recovery-coordinator.json"]) == json.loads(
        (CHART / "files/dashboard.json").read_text()
    )
    [moved] = of_kind(
        template({"prometheusRule": {"enabled": True, "runbookUrl": "https://wiki.example/runbook"}}), "PrometheusRule"
    )
    urls = [
        r["annotations"]["runbook_url"] for group in moved["spec"]["groups"] for r in group["rules"] if "alert" in r
    ]
    assert urls
    assert all(url.startswith("https://wiki.example/runbook#") for url in urls)


def test_the_exporters_script_knows_the_prefix() -> None:
    """It is the file, but for the prefix of the keys."""
    values = {"exporterScript": {"enabled": True}, "settings": {"prefix": "calls"}}
    [config] = of_kind(template(values), "ConfigMap")
    script, file = config["data"]["orphans.lua"], (CHART / "files/orphans.lua").read_text()
    changed = [pair for pair in zip(script.splitlines(), file.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [("local PREFIX = 'calls'", "local PREFIX = 'recovery'")]


def test_extra_objects() -> None:
    """They are templates, as objects and as text."""
    names = {one["metadata"]["name"] for one in of_kind(template(EVERYTHING), "ConfigMap")}
    assert {"r-more", "r-text"} <= names
