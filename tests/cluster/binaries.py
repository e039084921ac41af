"""Builds the programs of a Kubernetes cluster from the Go module proxy: ``python -m tests.cluster.binaries``.

Each is the released module's own main package, in a module of ours that only pins versions. About six minutes on two cores, once:
they are kept in `tests.cluster.cluster.BINARIES`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.cluster import BINARIES, PARTS

__all__ = ["main"]

KUBERNETES, STAGING = "v1.34.2", "v0.34.2"
ETCD, COREDNS = "v3.6.4", "v1.13.1"
GO = (1, 25)
OF_KUBERNETES = [part for part in PARTS if part.startswith("kube")]

DNS = """package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }
"""
PAUSE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	done := make(chan os.Signal, 1)
	signal.Notify(done, syscall.SIGTERM, syscall.SIGINT)
	<-done
}
"""


def go_version() -> tuple[int, ...]:
    """Of the compiler on the PATH; (0,) without one."""
    go = shutil.which("go")
    if not go:
        return (0,)
    said = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def _go(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    subprocess.run(["go", *arguments], cwd=folder, env=environment, check=True)


def _module(folder: Path, name: str, require: str, *, tools: tuple[str, ...] = (), main: str = "") -> Path:
    """A module that pins versions, and what is built in it."""
    where = folder / name
    where.mkdir()
    (where / "go.mod").write_text(f"module example.com/{name}\n\ngo 1.25.0\n\n{require}")
    if tools:
        imports = "\n".join(f'import _ "{tool}"' for tool in tools)
        (where / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imports}\n")
    if main:
        (where / "main.go").write_text(main)
    _go(where, "mod", "tidy")
    return where


def _build(where: Path, target: str, package: str) -> None:
    print(f"building {target}", flush=True)
    stamp = f"-X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    for number, part in zip(("gitMajor", "gitMinor"), KUBERNETES.lstrip("v").split("."), strict=False):
        stamp += f" -X k8s.io/component-base/version.{number}={part}"
    unready = BINARIES / f".{target}"
    _go(where, "build", "-trimpath", "-ldflags", f"-s -w {stamp}", "-o", str(unready), package)
    unready.replace(BINARIES / target)


def _staging(folder: Path) -> str:
    """Kubernetes' module replaces its own parts by folders beside it; outside they are modules of their own."""
    said = subprocess.run(
        ["go", "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    found = re.search(r'"GoMod": "([^"]+)"', said)
    assert found is not None
    names = re.findall(r"^\t(k8s\.io/\S+) => \./staging", Path(found[1]).read_text(), flags=re.MULTILINE)
    return "\n".join(f"replace {name} => {name} {STAGING}" for name in names)


def main() -> None:
    """Builds what is missing."""
    missing = [part for part in (*PARTS, "pause") if not (BINARIES / part).exists()]
    if not missing:
        print(f"nothing to do: {BINARIES}")
        return
    if go_version() < GO:
        sys.exit(f"Go {'.'.join(map(str, GO))} or newer is needed to build {', '.join(missing)}")
    BINARIES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kubernetes = [part for part in OF_KUBERNETES if part in missing]
        if kubernetes:
            apps = tuple(
                f"k8s.io/kubernetes/cmd/{part}" + ("" if part == "kubectl" else "/app") for part in OF_KUBERNETES
            )
            require = f"require k8s.io/kubernetes {KUBERNETES}\n\n{_staging(folder)}\n"
            where = _module(folder, "kubernetes", require, tools=tuple(app for app in apps if app.endswith("/app")))
            for part in kubernetes:
                _build(where, part, f"k8s.io/kubernetes/cmd/{part}")
        if "etcd" in missing:
            where = _module(
                folder, "etcd", f"require go.etcd.io/etcd/server/v3 {ETCD}\n", tools=("go.etcd.io/etcd/server/v3/etcdmain",)
            )  # fmt: skip
            _build(where, "etcd", "go.etcd.io/etcd/server/v3")
        if "coredns" in missing:
            _build(_module(folder, "dns", f"require github.com/coredns/coredns {COREDNS}\n", main=DNS), "coredns", ".")
        if "pause" in missing:
            _build(_module(folder, "pause", "", main=PAUSE), "pause", ".")


if __name__ == "__main__":
    main()
