"""Building the tests' own Kubernetes, with a Go that only says that it compiles: what is there afterwards, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.live import eventually

PROGRAM = Path(__file__).resolve().parent.parent.parent / "tools" / "build_kubernetes.py"
GO = """#!/bin/sh
case "$1" in
env) echo go1.99.0 ;;
list) echo some/package ;;
build)
    while [ "$1" != -o ]; do shift; done
    mkdir -p "$(dirname "$2")" "$GOMODCACHE"
    touch "$GOMODCACHE/module"
    ACT
    printf '#!/bin/sh\\n' > "$2"
    chmod +x "$2" ;;
esac
"""


class Machine:
    """Where the program is run: a cache that is empty, and a Go of ours."""

    def __init__(self, folder: Path, act: str = ":") -> None:
        self.cache = folder / "cache" / "peerload" / "kubernetes"
        (folder / "bin").mkdir()
        go = folder / "bin" / "go"
        go.write_text(GO.replace("ACT", act))
        go.chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def start(self, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment | more)

    def run(self, **more: str) -> tuple[int, str]:
        process = self.start(**more)
        said, complained = process.communicate(timeout=60)
        return process.returncode, said + complained

    def built(self) -> set[str]:
        return {path.name for path in self.cache.glob("*/*") if os.access(path, os.X_OK)}

    def left(self) -> set[str]:
        """The folders in the cache, by what was built in them."""
        return {path.name.partition("-")[0] for path in self.cache.iterdir() if path.is_dir()}


def test_what_is_missing_is_built_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    code, said = machine.run()
    assert code == 0, said
    assert "Building etcd v3." in said
    assert machine.built() == {"etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "helm"}
    assert machine.left() == {"etcd", "kubernetes", "helm"}
    assert machine.run() == (0, "")


def test_a_build_that_fails_says_why_and_leaves_what_was_done_before(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 'case "$2" in *apiserver) echo "no such module"; exit 1 ;; esac')
    code, said = machine.run()
    assert code == 1
    assert "no such module" in said
    assert machine.left() == {"etcd"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_nothing_half(tmp_path: Path, number: signal.Signals) -> None:
    machine = Machine(
        tmp_path,
        f'case "$2" in *apiserver) touch {tmp_path}/underway; [ -e {tmp_path}/go-on ] || exec sleep 20 ;; esac',
    )
    process = machine.start()
    eventually((tmp_path / "underway").exists)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    # Whoever is killed cannot tidy up: that is done the next time.
    assert machine.left() - {"building"} == {"etcd"}
    assert number is signal.SIGKILL or machine.left() == {"etcd"}
    (tmp_path / "go-on").touch()
    assert machine.run()[0] == 0
    assert machine.left() == {"etcd", "kubernetes", "helm"}


def test_programs_that_are_there_are_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"):
        (assets / name).write_text("#!/bin/sh\n")
        (assets / name).chmod(0o755)
    code, said = machine.run(KUBEBUILDER_ASSETS=str(assets))
    assert code == 0, said
    assert machine.built() == {"helm"}
