"""Completion in the shells themselves, where they are installed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import environment, peerload
from tests.support.programs import needs

LIMIT_S = 60.0


def settings() -> dict[str, str]:
    """With this environment's `peerload` on the path."""
    found = environment()
    return {**found, "PATH": f"{Path(sys.executable).parent}:{found['PATH']}", "TERM": "dumb"}


def asked(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=settings())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_bash() -> None:
    script = (
        "source <(peerload completion bash)\n"
        "for line in 'doct' 'pull --limit-r'; do\n"
        "COMP_WORDS=(peerload $line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n"
        'complete -p peerload >/dev/null && _peerload_completion peerload; echo "${COMPREPLY[@]}"\n'
        "done\n"
    )
    assert asked(needs("bash", "bash"), "--norc", "-c", script) == ["doctor", "--limit-rate"]


def test_fish() -> None:
    fish = needs("fish", "fish")
    script = (
        "peerload completion fish | source\nfor line in 'doct' 'pull --limit-r'; complete -C \"peerload $line\"; end\n"
    )
    told = asked(fish, "--no-config", "-c", script)
    assert [line.split("\t")[0] for line in told] == ["doctor", "--limit-rate"]
    assert "Examine" in told[0]


def test_zsh_as_somebody_types(tmp_path: Path) -> None:
    zsh = needs("zsh", "zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(zsh, [zsh, "-f", "-i"], {**settings(), "ZDOTDIR": str(tmp_path), "HOME": str(tmp_path)})
    try:
        setup = (
            f"autoload -U compinit; compinit -u -d {tmp_path}/dump; source <(peerload completion zsh); PROMPT='now'\\>"
        )
        os.write(terminal, f"{setup}\n".encode())
        until(terminal, "now>")
        os.write(terminal, b"peerload doct\t")
        until(terminal, "peerload doctor")
        os.write(terminal, b"eng\t")
        until(terminal, "engines")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def until(terminal: int, text: str) -> None:
    """Read until that has been written. Echoes of what was typed do not hold it."""
    seen, deadline = "", time.monotonic() + LIMIT_S
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.parametrize("words", [(), ("tcsh",)])
def test_another_shell(words: tuple[str, ...]) -> None:
    assert peerload("completion", *words).returncode == 2
