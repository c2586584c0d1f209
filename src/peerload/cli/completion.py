"""`peerload completion`."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

__all__ = ["command"]

_VARIABLE = "_PEERLOAD_COMPLETE"


class Shell(enum.StrEnum):
    """Shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def command(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="For which shell.")]) -> None:
    """Print what has a shell complete commands and options of peerload.

    \b
      source <(peerload completion bash)                                    # in ~/.bashrc
      source <(peerload completion zsh)                                     # in ~/.zshrc, after compinit
      peerload completion fish > ~/.config/fish/completions/peerload.fish   # once
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name="peerload", complete_var=_VARIABLE, shell=shell.value))
