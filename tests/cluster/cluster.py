"""A real Kubernetes cluster of one node, in a network namespace of its own: nothing of it is seen or heard outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["BINARIES", "Cluster", "CommandError", "missing_means"]

BINARIES = Path(os.environ.get("KUBERNETES_BIN", Path.home() / ".cache/recovery-coordinator/kubernetes"))
PARTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
)
MACHINE = ("containerd", "ctr", "runc", "ip", "nsenter", "iptables", "openssl", "buildah", "mmdebstrap")
CNI = Path("/usr/lib/cni")
NODE, SERVICES, DNS, PODS = "10.99.0.1", "10.96.0.0/16", "10.96.0.10", "10.244.0.0/24"
API = "https://127.0.0.1:6443"
TOKEN = "of-this-test-only"


def missing_means() -> list[str]:
    """What this machine lacks for a cluster; empty when it has everything."""
    found = [
        f"{part} (make cluster-binaries builds it)" for part in (*PARTS, "pause") if not (BINARIES / part).exists()
    ]
    found += [tool for tool in MACHINE if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if not (CNI / "bridge").exists():
        found.append("the CNI plugins (containernetworking-plugins)")
    if os.geteuid() != 0:
        found.append("the rights of root")
    return found


class CommandError(RuntimeError):
    """A command that failed, and what it said."""


class Cluster:
    """etcd, API server, controllers, scheduler, containerd, kubelet, kube-proxy and DNS, from one directory.

    Args:
        root: for everything that it writes; must be empty.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._net = f"rc{os.getpid()}"
        self._children: list[subprocess.Popen[bytes]] = []
        self.env = {**os.environ, "KUBECONFIG": str(root / "kubeconfig"), "HELM_CACHE_HOME": str(root / "helm")}
        self.env["PATH"] += ":/usr/sbin:/sbin"

    # -- beginning and end -------------------------------------------------------------------------------------------------

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        for name in ("logs", "etcd", "pki", "kubelet", "containerd", "state", "cni", "pods"):
            (self.root / name).mkdir()
        self._run("ip", "netns", "add", self._net)
        for line in (
            "link set lo up",
            "link add node0 type bridge",
            f"addr add {NODE}/32 dev node0",
            f"addr add {DNS}/32 dev node0",
            "link set node0 up",
            "route add default dev node0",
        ):
            self._run("ip", "-n", self._net, *line.split())
        self.inside("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._write_files()
        self._launch("etcd", "--data-dir", self.root / "etcd", "--listen-peer-urls", "http://127.0.0.1:2380")
        self._launch(
            "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={self.root / 'pki'}",
            f"--advertise-address={NODE}", f"--service-cluster-ip-range={SERVICES}", "--authorization-mode=RBAC",
            f"--token-auth-file={self.root / 'tokens'}", "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.root / 'pki/sa.key'}", f"--service-account-signing-key-file={self.root / 'pki/sa.key'}",
            f"--tls-cert-file={self.root / 'pki/api.crt'}", f"--tls-private-key-file={self.root / 'pki/api.key'}",
            "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        self.wait("the API server", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", 60)
        config = f"--kubeconfig={self.root / 'kubeconfig'}"
        self._launch(
            "kube-controller-manager", config, f"--service-account-private-key-file={self.root / 'pki/sa.key'}",
            f"--root-ca-file={self.root / 'pki/api.crt'}", "--use-service-account-credentials=true",
        )  # fmt: skip
        self._launch("kube-scheduler", config)
        self._launch("containerd", "--config", self.root / "containerd.toml", binary="containerd")
        self.wait("containerd", lambda: bool(self.ctr("version")), 30)
        self._launch(
            "kubelet", config, f"--config={self.root / 'kubelet.yaml'}", f"--root-dir={self.root / 'kubelet'}",
            f"--node-ip={NODE}", "--hostname-override=node-1",
        )  # fmt: skip
        self._launch("kube-proxy", f"--config={self.root / 'proxy.yaml'}")
        self._launch("coredns", "-conf", self.root / "Corefile")

    def _write_files(self) -> None:
        pki = self.root / "pki"
        self._run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
        names = f"subjectAltName=IP:127.0.0.1,IP:{NODE},IP:10.96.0.1,DNS:kubernetes.default.svc,DNS:localhost"
        self._run(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kube-apiserver", "-addext", names,
            "-keyout", pki / "api.key", "-out", pki / "api.crt",
        )  # fmt: skip
        (self.root / "tokens").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        cluster = {"certificate-authority": str(pki / "api.crt"), "server": API}
        self._json("kubeconfig", {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": cluster}], "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        })  # fmt: skip
        (self.root / "resolv.conf").write_text(f"nameserver {DNS}\n")
        (self.root / "Corefile").write_text(
            f".:53 {{\n bind {DNS}\n kubernetes cluster.local {{\n  kubeconfig {self.root / 'kubeconfig'} here\n }}\n}}\n"
        )
        self._json("kubelet.yaml", {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False, "enforceNodeAllocatable": [], "failSwapOn": False, "failCgroupV1": False,
            "containerRuntimeEndpoint": f"unix://{self.root / 'state/containerd.sock'}", "podLogsDir": str(self.root / "pods"),
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "clusterDNS": [DNS], "clusterDomain": "cluster.local",
            "resolvConf": str(self.root / "resolv.conf"), "evictionHard": {}, "localStorageCapacityIsolation": False,
            "registerNode": True, "volumePluginDir": str(self.root / "kubelet-plugins"),
        })  # fmt: skip
        self._json("proxy.yaml", {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self.root / "kubeconfig")}, "hostnameOverride": "node-1",
            "clusterCIDR": PODS, "conntrack": {"maxPerCore": 0, "min": 0},
        })  # fmt: skip
        self._json("cni/net.conflist", {
            "cniVersion": "1.0.0", "name": "pods",
            "plugins": [
                {"type": "bridge", "bridge": "pods0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
                 "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}],
                          "dataDir": str(self.root / "state/ipam")}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        })  # fmt: skip
        (self.root / "containerd.toml").write_text(f"""
version = 2
root = "{self.root / "containerd"}"
state = "{self.root / "state"}"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{self.root / "state/containerd.sock"}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  disable_tcp_service = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{self._snapshotter()}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI}"
    conf_dir = "{self.root / "cni"}"
""")

    @staticmethod
    def _snapshotter() -> str:
        return os.environ.get("CLUSTER_SNAPSHOTTER", "overlayfs")

    def close(self) -> None:
        """Ends what it started, pods included, and takes the namespace away. Safe to repeat."""
        for child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        for child in reversed(self._children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(2)
            child.kill()
            child.wait()
        self._children.clear()
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (where := line.split()[1]).startswith(str(self.root)):
                subprocess.run(["umount", "-l", where], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "delete", self._net], check=False, env=self.env, stderr=subprocess.DEVNULL)

    def _shims(self) -> list[int]:
        """Containers' keepers outlive containerd: those of this one, and what runs in them."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if str(self.root).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        of_shims = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) in found:
                    of_shims.append(int(entry.name))
        return [pid for pid in of_shims + found if pid != os.getpid()]

    # -- tools -------------------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: object, stdin: str | None = None) -> str:
        """Its output; an error says what it said."""
        return self.inside(BINARIES / "kubectl", *arguments, stdin=stdin)

    def get(self, *arguments: object) -> Any:
        """What ``kubectl get … -o json`` says."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def ctr(self, *arguments: object) -> str:
        """containerd's own client."""
        return self.inside("ctr", "-a", self.root / "state/containerd.sock", "-n", "k8s.io", *arguments)

    def load(self, archive: Path) -> None:
        """Gives the node an image."""
        self.ctr("images", "import", "--snapshotter", self._snapshotter(), archive)

    def inside(self, *command: object, stdin: str | None = None) -> str:
        """Runs a command in the cluster's network."""
        return self._run("nsenter", f"--net=/run/netns/{self._net}", *command, stdin=stdin)

    def fetch(self, url: str) -> str:
        """GET from within the cluster's network."""
        return self.inside("curl", "-sS", "--max-time", "5", url)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Until it holds; a command that fails counts as no."""
        deadline, last = time.monotonic() + seconds, ""
        while True:
            try:
                if condition():
                    return
            except (CommandError, ValueError, KeyError, IndexError) as error:
                last = f": {error}"
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds} s: {what}{last}")
            time.sleep(0.2)

    def _run(self, *command: object, stdin: str | None = None) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(
            words, input=stdin, env=self.env, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise CommandError(f"{' '.join(words)}: exit status {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def _launch(self, name: str, *arguments: object, binary: str = "") -> None:
        program = binary or BINARIES / name
        with (self.root / "logs" / name).open("wb") as log:
            command = ["nsenter", f"--net=/run/netns/{self._net}", str(program), *map(str, arguments)]
            self._children.append(
                subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
                )
            )

    def _json(self, name: str, value: object) -> None:
        (self.root / name).write_text(json.dumps(value))
