"""The commands of the page on loading run, in their order, on a small model."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path

from tests.cli.commands import Running, peerload
from tests.docs.test_documents import LOADING
from tests.support.checkpoints import contents, write_model
from tests.support.live import LiveServer

COMMANDS = [
    shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", LOADING, re.DOTALL) for line in block.splitlines()
]


def test_the_commands_run(tmp_path: Path) -> None:
    model = write_model(tmp_path / "models" / "llama")
    settings = {"HF_HOME": str(tmp_path / "huggingface")}
    with LiveServer("memory:") as server, ExitStack() as running:
        settings["MODEL_EXPRESS_URL"] = server.start().address
        running.enter_context(Running("share", model, "--model", "org/name", "--json", settings=settings)).event(
            "sharing"
        )
        for program, *words in COMMANDS:
            assert program == "peerload"
            words = [re.sub(r"^/(dev|models)/", f"{tmp_path}/\\1/", word) for word in words]
            if words[0] == "share" or "--share" in words:
                running.enter_context(Running(*words, "--json", settings=settings)).event("sharing")
            else:
                done = peerload(*words, settings=settings)
                assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "dev" / "shm" / "llama") == contents(model)
    assert (tmp_path / "models" / "name" / "config.json").is_file()
    assert not list((tmp_path / "models" / "name").glob("*.safetensors"))
    assert list((tmp_path / "huggingface" / "hub" / "models--org--name").glob("snapshots/*/*.safetensors"))
