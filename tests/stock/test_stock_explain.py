"""A stock client that finds nothing, and the command that says why."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.commands import peerload
from tests.support.live import LiveServer


def identity_of(p2p: Any, **changes: Any) -> Any:
    fields = {
        "mx_version": "0.7.0",
        "mx_source_type": p2p.MX_SOURCE_TYPE_WEIGHTS,
        "model_name": "/models/llama",
        "backend_framework": p2p.BACKEND_FRAMEWORK_VLLM,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "dtype": "bfloat16",
    }
    return p2p.SourceIdentity(**{**fields, **changes})


def test_the_reason_of_an_empty_list_is_printed(server: LiveServer, client: Any, p2p: Any) -> None:
    at = ("--server", server.address)
    for rank in (0, 1):
        worker = p2p.WorkerMetadata(worker_rank=rank, status=p2p.SOURCE_STATUS_READY)
        source = client.publish_metadata(identity_of(p2p), worker, f"worker-{rank}")
    older = identity_of(p2p, mx_version="0.6.1")
    for _ in range(3):
        assert not client.list_sources(older, p2p.SOURCE_STATUS_READY).instances
    elsewhere = identity_of(p2p, model_name="/mnt/a/llama")
    assert not client.list_sources(elsewhere, p2p.SOURCE_STATUS_READY).instances

    told = peerload("explain", "/models/llama", *at)
    assert told.returncode == 0, told.stderr
    lines = [line.strip() for line in told.stdout.splitlines()]
    assert "no match: mx_version 0.6.1, sources have 0.7.0" in lines
    assert "no match: model_name /mnt/a/llama, sources have /models/llama" in lines
    assert f"nearest: source {source} of /models/llama" in lines
    assert any(" ago, 3 times, first " in line and line.endswith("by 127.0.0.1") for line in lines)
    assert any("0, 1" in line and "2 ready" in line for line in lines)
    assert "Now, by name alone: 2 sources match." in lines
    assert "\x1b" not in told.stdout

    other = json.loads(peerload("explain", "/mnt/a/llama", "--json", *at).stdout)
    (miss,) = other["misses"]
    assert miss["verdict"]["findings"][0] == {
        "field": "model_name",
        "key": "",
        "asked": "/mnt/a/llama",
        "have": ["/models/llama"],
        "text": "model_name /mnt/a/llama, sources have /models/llama",
    }
    assert miss["verdict"]["nearest_source_id"] == source
    assert [record["worker_id"] for record in other["sources"]] == ["worker-0", "worker-1"]
