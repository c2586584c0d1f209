"""`peerload explain` as a user runs it."""

from __future__ import annotations

import json
import re

from peerload.wire import p2p_pb2
from tests.cli.commands import peerload
from tests.support.live import LiveServer, Rpc, publication

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def test_what_people_read(server: LiveServer) -> None:
    at = ("--server", server.address)
    hostile = "org/\x1b[31mred\nrow"
    with Rpc(server.address) as rpc:
        source = rpc.publish(publication("org/explained", "w1")).mx_source_id
        rpc.list(p2p_pb2.ListSourcesRequest(identity=publication("org/explained").identity, worker_rank_filter=4))
        rpc.list(p2p_pb2.ListSourcesRequest(identity=publication(hostile).identity))

    for name in ("org/explained", source):
        told = peerload("explain", name, *at)
        assert told.returncode == 0, told.stderr
        assert f"Lists for {name} that matched nothing: 1 reason" in told.stdout
        assert "once by 127.0.0.1" in told.stdout
        assert "no match: worker_rank 4, sources have rank 0" in told.stdout
        assert f"({server.address})" in told.stdout
        assert "Now, by name alone: 1 source matches." in told.stdout
    everything = peerload("explain", *at)
    assert "\\x1b[31mred\\nrow: nobody publishes it" in everything.stdout
    assert not CONTROL.search(everything.stdout + server.log())
    assert len(json.loads(peerload("explain", "--json", "-n", "1", *at).stdout)["misses"]) == 1


def test_when_there_is_nothing_to_tell(server: LiveServer) -> None:
    at = ("--server", server.address)
    with Rpc(server.address) as rpc:
        rpc.publish(publication("org/fine", "w1"))
    fine = peerload("explain", "org/fine", *at)
    assert fine.returncode == 0
    assert "Nobody has asked for org/fine in vain" in fine.stdout
    assert "Now, by name alone: 1 source matches." in fine.stdout
    assert "1 ready" in fine.stdout
    unknown = peerload("explain", "entirely/unheard-of", *at)
    assert unknown.returncode == 3
    assert "nobody publishes it, nor one of a similar name" in unknown.stdout
    assert peerload("explain", "org/fine", "--limit", "0", *at).returncode == 2
