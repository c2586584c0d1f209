"""Real Redis processes that take over from each other: three sentinels over a primary and two replicas, and a cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import hiredis
import pytest

from peerload.store.redis.slot import SLOTS, slot
from tests.support.redis import RedisProcess, free_port

__all__ = ["PATIENCE", "Cluster", "Trio", "leads", "replicas", "until"]

PATIENCE = 60.0
SENTINEL = """sentinel monitor mymaster 127.0.0.1 {port} 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 4000
sentinel parallel-syncs mymaster 2
"""


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again, for a bounded time, for what nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError, hiredis.ReplyError):
            if condition():
                return
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def replicas(process: RedisProcess) -> int:
    """How many replicas are connected and up to date."""
    return int(process.ask("INFO", "replication").count(b"state=online"))


def leads(process: RedisProcess) -> bool:
    """Whether it takes itself for a primary."""
    return bool(process.ask("ROLE")[0] == b"master")


class Trio:
    """A primary, two replicas and three sentinels that know of each other."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        def made(name: str, *options: str, sentinel: str | None = None) -> RedisProcess:
            process = RedisProcess(folder / name, *options, sentinel=sentinel)
            stack.callback(process.kill)
            return process.start()

        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.primary = made("primary", *quick)
        port = str(self.primary.port)
        self.replicas = [made(f"replica{n}", *quick, "--replicaof", "127.0.0.1", port) for n in range(2)]
        until(lambda: replicas(self.primary) == 2, "the replicas")
        text = SENTINEL.format(port=port)
        self.sentinels = [made(f"sentinel{n}", sentinel=text) for n in range(3)]
        for sentinel in self.sentinels:
            until(lambda each=sentinel: self._knows_all(each), "the sentinels")  # type: ignore[misc]

    def _knows_all(self, sentinel: RedisProcess) -> bool:
        flat = sentinel.ask("SENTINEL", "master", "mymaster")
        about = dict(zip(flat[::2], flat[1::2], strict=True))
        return about[b"num-other-sentinels"] == b"2" and about[b"num-slaves"] == b"2" and about[b"flags"] == b"master"

    def named(self) -> int:
        """The port of the primary, as a sentinel says."""
        _, port = self.sentinels[0].ask("SENTINEL", "get-master-addr-by-name", "mymaster")
        return int(port)

    @property
    def url(self) -> str:
        where = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{where}/mymaster"


class Cluster:
    """Three primaries that share the slots, and a replica of the one that owns ours."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.nodes: list[RedisProcess] = []
        self.buses: list[int] = []
        probe = RedisProcess(folder / "probe")
        stack.callback(probe.kill)
        if b"redis_version:6." in probe.start().ask("INFO", "server"):
            pytest.skip("a cluster whose bus has a port of its own needs Redis 7.0")
        for n in range(4):
            self.buses.append(free_port())
            options = ("--cluster-enabled", "yes", "--cluster-port", str(self.buses[-1]))
            process = RedisProcess(folder / f"node{n}", *options, "--cluster-node-timeout", "1000")
            stack.callback(process.kill)
            self.nodes.append(process.start())
        *primaries, self.replica = self.nodes
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for number, node in enumerate(primaries):
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        ours = slot("peerload")
        self.owner = next(node for n, node in enumerate(primaries) if bounds[n] <= ours < bounds[n + 1])
        for node, bus in zip(self.nodes[1:], self.buses[1:], strict=True):
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in self.nodes:
            until(lambda each=node: b"cluster_known_nodes:4" in each.ask("CLUSTER", "INFO"), "the nodes to meet")  # type: ignore[misc]
        identity = self.owner.ask("CLUSTER", "MYID")
        until(lambda: self.replica.ask("CLUSTER", "REPLICATE", identity) == b"OK", "the replica to hear of its primary")
        until(lambda: replicas(self.owner) == 1, "the replica")
        for node in self.nodes:
            until(lambda each=node: b"cluster_state:ok" in each.ask("CLUSTER", "INFO"), "the cluster")  # type: ignore[misc]

    def taken_over(self) -> bool:
        """Whether every other node says that our slot is the replica's."""
        return all(self._owns(node) == self.replica.port for node in self.nodes if node is not self.owner)

    @staticmethod
    def _owns(node: RedisProcess) -> int | None:
        ours = slot("peerload")
        spans = node.ask("CLUSTER", "SLOTS")
        return next((int(nodes[0][1]) for first, last, *nodes in spans if first <= ours <= last), None)

    @property
    def url(self) -> str:
        others = [node for node in self.nodes[:3] if node is not self.owner]
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in others)}"
