"""The container image, as far as it can be held without building one: what its file says, and that its steps install a server."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from peerload.cli import COMMANDS
from peerload.server.settings import DEFAULT_METRICS_PORT

ROOT = Path(__file__).resolve().parents[2]
VALUES = yaml.safe_load((ROOT / "charts" / "peerload" / "values.yaml").read_text())


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction of the file, and in which of its stages."""

    stage: int
    word: str
    rest: str


def steps() -> list[Step]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found, stage = [], -1
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        found.append(Step(stage, word, " ".join(rest.split())))
    return found


STEPS = steps()
LAST = max(step.stage for step in STEPS)


def of(word: str, stage: int = LAST) -> list[str]:
    return [step.rest for step in STEPS if step.word == word and step.stage == stage]


def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Each pinned package with its version and hashes."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            found[match[1]] = (match[2], frozenset(re.findall(r"--hash=sha256:(\w+)", line)))
    return found


def test_it_runs_the_server_as_the_user_that_the_chart_expects() -> None:
    context = VALUES["podSecurityContext"]
    assert of("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    assert (of("ENTRYPOINT"), of("CMD")) == (['["peerload"]'], ['["serve"]'])
    assert VALUES["image"]["command"] == ["peerload"]
    assert of("EXPOSE") == [f"8001 {DEFAULT_METRICS_PORT}"]
    (health,) = of("HEALTHCHECK")
    assert health.endswith('CMD ["peerload", "health"]')
    assert "health" in COMMANDS
    (environment,) = of("ENV")
    volume = of("VOLUME")[0]
    assert f"PEERLOAD_STORE=sqlite:{volume}/" in environment
    assert "PEERLOAD_LISTEN=0.0.0.0:8001" in environment


def test_it_is_small_and_nothing_is_built_where_it_runs() -> None:
    assert LAST == 1
    assert of("RUN") == []
    assert all(rest.startswith("--from=build ") for rest in of("COPY"))
    (base,) = [step.rest for step in STEPS if step.word == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-\w+", base)
    assert all("${PYTHON}" in step.rest for step in STEPS if step.word == "FROM")


def test_everything_that_is_installed_is_pinned_by_hash_as_it_is_tested() -> None:
    for rest in of("RUN", 0):
        if " install " in rest and "--no-index" not in rest and "pip" in rest:
            assert "--require-hashes" in rest
    tested = pins("dev.txt")
    for name in ("image.txt", "build.txt"):
        for package, (version, hashes) in pins(name).items():
            assert tested[package][0] == version, package
            assert hashes <= tested[package][1], package
    assert {"grpcio", "h2corn", "hiredis", "kubernetes", "cryptography", "opentelemetry-sdk"} <= set(pins("image.txt"))
    assert not {"pytest", "numpy", "torch"} & set(pins("image.txt"))


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for rest in of("COPY", 0):
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            verdict = False
            for pattern in ignored:
                if fnmatch.fnmatch(source, pattern.lstrip("!")):
                    verdict = not pattern.startswith("!")
            assert not verdict, f"{source} is kept out by .dockerignore"


@pytest.mark.scale
def test_its_steps_install_a_server(tmp_path: Path) -> None:
    """Every RUN of the build, with folders of the test's own in place of the image's."""
    source = tmp_path / "src"
    source.mkdir()
    places = {"/opt/peerload": tmp_path / "opt", "/wheels": tmp_path / "wheels", "/var/lib/peerload": tmp_path / "lib"}
    venv = tmp_path / "python"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for step in STEPS:
        if step.stage != 0:
            continue
        if step.word == "COPY":
            *given, target = step.rest.split()
            for each in given:
                into = source / target / (Path(each).name if target.endswith("/") else "")
                into.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-r", ROOT / each, into], check=True)
        elif step.word == "RUN" and not step.rest.startswith("install "):  # ownership is root's to give
            command = step.rest
            for place, own in places.items():
                command = command.replace(place, str(own))
            subprocess.run(command, shell=True, cwd=source, env=environment, check=True, timeout=600)
    program = tmp_path / "opt" / "bin" / "peerload"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    shown = subprocess.run([program, "serve", "--print-config"], env=clean, capture_output=True, text=True, check=True)
    assert "listen" in shown.stdout
    checked = subprocess.run(
        [program, "doctor", "server", "--store", f"sqlite:{tmp_path}/s"],
        env={
            **clean,
            "PEERLOAD_LISTEN": "127.0.0.1:0",
            "PEERLOAD_METRICS": "off",
            "PEERLOAD_FRONT": "h2corn",
            "PEERLOAD_TRACING": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not (tmp_path / "opt" / "bin" / "pip").exists()
