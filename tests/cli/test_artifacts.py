"""`share-artifact` and `pull-artifact` as a user runs them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Running, peerload
from tests.stock.test_artifact_parts import cache, content
from tests.support.live import LiveServer
from tests.support.stock_peers import needs_nixl

WHAT = ("--model", "org/name", "--type", "triton-cache", "--with", "gpu_arch=sm90", "--with", "extra.x=1")


@needs_nixl
def test_a_cache_is_shared_and_pulled(server: LiveServer, tmp_path: Path) -> None:
    at = ("--server", server.address)
    files, more = cache(tmp_path / "here"), cache(tmp_path / "more")
    with Running(
        "share-artifact", tmp_path / "here", *WHAT, "--root", f"jit={tmp_path / 'more'}", "--json", *at
    ) as sharing:
        assert sharing.event("skipped")["path"] == "link"
        shared = sharing.event("sharing")
        assert shared["type"] == "TRITON_CACHE"
        other = peerload("pull-artifact", tmp_path / "there", *WHAT, "--with", "gpu_arch=sm100", *at)
        assert other.returncode == 3, other.stderr
        pulled = peerload(
            "pull-artifact", tmp_path / "there", *WHAT, "--root", f"jit={tmp_path / 'there too'}", "--json", *at
        )
        assert pulled.returncode == 0, pulled.stderr
        last = json.loads(pulled.stdout.splitlines()[-1])
        assert (last["artifact_id"], last["files"]) == (shared["artifact_id"], 8)
        sharing.signal(signal.SIGTERM)
        sharing.event("withdrawn")
        assert sharing.wait() == 0
    assert content(tmp_path / "there") == files
    assert content(tmp_path / "there too") == more


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--type", "weights"), "--type 'weights' is none of cuda-graph"),
        (("--with", "nonsense"), "'nonsense' is not FIELD=VALUE"),
        (("--with", "no_such=1"), "'no_such' is no field"),
        (("--with", "tensor_parallel_size=many"), "is not a number"),
        (("--with", "framework=mine"), "is none of unknown, vllm"),
        (("--root", "x"), "'x' is not NAME=FOLDER"),
    ],
)
def test_wrong_usage_is_told(words: tuple[Any, ...], said: str) -> None:
    done = peerload("pull-artifact", "there", *WHAT, *words)
    assert done.returncode == 2
    assert said in done.stderr
