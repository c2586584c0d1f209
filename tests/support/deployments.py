"""Real Redis processes that take over from each other: three sentinels over a primary and two replicas, and a cluster."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import hiredis

from peerload.store.redis.slot import SLOTS, slot
from tests.support.ports import BUS, free_port
from tests.support.redis import RedisProcess

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


def node_port() -> int:
    """A free port of a node of a cluster. Its bus is 10,000 above: before 7.0 Redis lets nobody choose."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port + BUS))
            return port


class Cluster:
    """Three primaries that share the slots, and a replica of the one that owns ours."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.nodes: list[RedisProcess] = []
        for n in range(4):
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
            process = RedisProcess(folder / f"node{n}", *options, ports=node_port)
            stack.callback(process.kill)
            self.nodes.append(process.start())
        *primaries, self.replica = self.nodes
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for number, node in enumerate(primaries):
            # Not ADDSLOTSRANGE, which Redis 7.0 was the first to know.
            node.ask("CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1]))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        ours = slot("peerload")
        self.owner = next(node for n, node in enumerate(primaries) if bounds[n] <= ours < bounds[n + 1])
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
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
