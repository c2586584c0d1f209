"""Whole servers over a Redis that another takes over: sentinels, a replica that was left behind, a cluster."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import grpc

from peerload.wire import p2p_pb2, sources_pb2
from tests.support.deployments import Cluster, Trio, leads, replicas, until
from tests.support.live import LiveServer, Rpc, code_of, eventually, publication, ready
from tests.support.redis import redis_process
from tests.support.working import WorkingTime

RECOVER = 5.0
"""Seconds from when Redis is back until everything is taken and known again."""
AT_ONCE = ("--repl-diskless-sync-delay", "0")
UNSURE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@contextlib.contextmanager
def served(*stores: str) -> Iterator[list[Rpc]]:
    """A server for each of these URLs, and a channel to each."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(LiveServer(store)).start(wait=False) for store in stores]
        rpcs = [stack.enter_context(Rpc(server.address)) for server in servers]
        for server, rpc in zip(servers, rpcs, strict=True):
            eventually(rpc.healthy, what=f"a server:\n{server.log()[-2000:]}")
        yield rpcs


def listed(rpc: Rpc) -> set[str]:
    return {ref.worker_id for ref in rpc.list(ready(), timeout=3).instances}


def beat(rpc: Rpc, source: str, worker_id: str) -> bool:
    """Whether a heartbeat is answered by one that knows the worker. Raises if it is not answered."""
    request = p2p_pb2.UpdateStatusRequest(mx_source_id=source, worker_id=worker_id, status=p2p_pb2.SOURCE_STATUS_READY)
    return rpc.update(request, timeout=3).success


def answered(call: Callable[[], object]) -> bool:
    """Whether a call ends well; an outage is not well."""
    try:
        return bool(call())
    except grpc.RpcError as error:
        if code_of(error) not in UNSURE:
            raise
        return False


def publishes(rpc: Rpc, worker_id: str) -> None:
    """Return once a publish is acknowledged."""
    request = publication(worker_id=worker_id)
    eventually(lambda: answered(lambda: rpc.publish(request, timeout=3).success), what="a publish to be taken")


def finds(rpc: Rpc, workers: set[str]) -> None:
    """Return once these are listed, and no others."""
    eventually(lambda: answered(lambda: listed(rpc) == workers), what=f"exactly {workers}")


class Load:
    """Clients that publish one worker after the other, each at the next server; which were acknowledged."""

    def __init__(self, rpcs: Sequence[Rpc], clients: int = 3) -> None:
        self.acknowledged: set[str] = set()
        self.refused = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._publish, args=(n, rpcs), daemon=True) for n in range(clients)]

    def _publish(self, client: int, rpcs: Sequence[Rpc]) -> None:
        for turn in itertools.count():
            if self._over.wait(0.005):
                return
            worker_id = f"w{client}-{turn}"
            rpc = rpcs[(client + turn) % len(rpcs)]
            if answered(partial(rpc.publish, publication(worker_id=worker_id), timeout=3)):
                self.acknowledged.add(worker_id)
            else:
                self.refused += 1

    def grown(self, by: int = 60) -> None:
        """Return once so many more were acknowledged."""
        wanted = len(self.acknowledged) + by
        eventually(lambda: len(self.acknowledged) >= wanted, within=60, what="more to be published")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a publish never ended"


class View:
    """What a watch has shown until now, begun anew or resumed whenever it ends."""

    def __init__(self, rpc: Rpc) -> None:
        self.workers: set[str] = set()
        self._rpc = rpc
        self._over = threading.Event()
        self._stream: grpc.Call | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        token = ""
        while not self._over.wait(0.02):
            request = sources_pb2.WatchRequest(resume_token=token)
            call = self._rpc.channel.unary_stream("/peerload.v1.SourceService/Watch")
            self._stream = stream = call(request.SerializeToString())
            try:
                for data in stream:
                    told = sources_pb2.WatchResponse.FromString(data)
                    kept = set() if told.complete else self.workers - {each.worker_id for each in told.gone}
                    self.workers = kept | {each.worker_id for each in told.present}
                    token = told.resume_token
            except grpc.RpcError as error:
                if code_of(error) not in (*UNSURE, grpc.StatusCode.CANCELLED):
                    raise

    def comes_to(self, workers: set[str]) -> None:
        """Return once these are shown, and no others."""
        eventually(lambda: self.workers == workers, what=f"a watch to show exactly {workers}")

    def __enter__(self) -> View:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._stream is not None:
            self._stream.cancel()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_three_servers_while_the_sentinels_choose_another_primary(tmp_path: Path) -> None:
    """No acknowledged publish is lost, readers notice nothing, and writers go on once the fail-over itself is over."""
    with contextlib.ExitStack() as stack:
        trio = Trio(stack, tmp_path)
        rpcs = stack.enter_context(served(*[f"{trio.url}?min_replicas=2"] * 3))
        source = rpcs[0].publish(publication(worker_id="before")).mx_source_id
        for rpc in rpcs:
            finds(rpc, {"before"})
        with Load(rpcs) as load:
            load.grown()
            trio.primary.kill()
            assert all("before" in listed(rpc) for rpc in rpcs)
            until(lambda: trio.named() != trio.primary.port, "the sentinels to name another")
            new = next(each for each in trio.replicas if each.port == trio.named())
            until(lambda: leads(new), "the new primary to take office")
            assert all("before" in listed(rpc) for rpc in rpcs)
            # Two replicas are asked for: the dead one comes back as one, and the other turns to the new primary.
            trio.primary.options += ["--replicaof", "127.0.0.1", str(new.port)]
            trio.primary.start()
            until(lambda: replicas(new) == 2, "the replicas of the new primary")
            with WorkingTime() as time:
                for number, rpc in enumerate(rpcs):
                    publishes(rpc, f"after{number}")
                    eventually(partial(answered, partial(beat, rpc, source, "before")))
                assert time.seconds() < RECOVER
            load.grown()
        assert load.refused, "nobody noticed"
        everybody = {"before", "after0", "after1", "after2", *load.acknowledged}
        for rpc in rpcs:
            eventually(lambda: everybody <= listed(rpc), what="all that was acknowledged")  # noqa: B023
            for worker_id in sorted(everybody)[::20]:
                assert rpc.get(source, worker_id).worker.tensor_source.tensors


def test_a_replica_that_missed_five_publishes_takes_over(tmp_path: Path) -> None:
    """Five others take their place, under the same revisions perhaps: every list and every watch ends with those."""
    link = tmp_path / "primary.sock"
    lost, new = {f"lost{n}" for n in range(5)}, {f"new{n}" for n in range(5)}
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(redis_process(tmp_path / name, *AT_ONCE)) for name in ("one", "other"))
        link.symlink_to(one.socket)
        rpcs = stack.enter_context(served(*[f"unix://{link}"] * 2))
        views = [stack.enter_context(View(rpc)) for rpc in rpcs]
        source = rpcs[0].publish(publication(worker_id="kept")).mx_source_id
        other.ask("REPLICAOF", "127.0.0.1", str(one.port))
        until(lambda: b"master_link_status:up" in other.ask("INFO", "replication"), "the replica to have it")
        other.ask("REPLICAOF", "NO", "ONE")
        for worker_id in sorted(lost):
            assert rpcs[0].publish(publication(worker_id=worker_id)).success
        for rpc, view in zip(rpcs, views, strict=True):
            finds(rpc, {"kept", *lost})
            view.comes_to({"kept", *lost})
        one.kill()
        link.unlink()
        link.symlink_to(other.socket)
        for number, worker_id in enumerate(sorted(new)):
            publishes(rpcs[number % 2], worker_id)
        for rpc, view in zip(rpcs, views, strict=True):
            finds(rpc, {"kept", *new})
            view.comes_to({"kept", *new})
            assert beat(rpc, source, "kept")
            assert not any(beat(rpc, source, worker_id) for worker_id in lost), "they are told to publish again"
            assert not rpc.get(source, "lost0").found
            assert rpc.get(source, "new4").worker.tensor_source.tensors


def test_two_servers_over_a_cluster_whose_owner_dies(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack, tmp_path)
        # What the first acknowledges the replica has; the second goes on when there is none left.
        one, two = rpcs = stack.enter_context(served(f"{cluster.url}?min_replicas=1", cluster.url))
        source = one.publish(publication(worker_id="w0")).mx_source_id
        finds(two, {"w0"})
        assert beat(two, source, "w0")
        cluster.owner.kill()
        assert [listed(rpc) for rpc in rpcs] == [{"w0"}, {"w0"}]
        until(cluster.taken_over, "the replica to take over, and the others to know")
        with WorkingTime() as time:
            for rpc in rpcs:
                eventually(partial(answered, partial(beat, rpc, source, "w0")))
            publishes(two, "w1")
            for rpc in rpcs:
                finds(rpc, {"w0", "w1"})
            assert time.seconds() < RECOVER
        for worker_id in ("w0", "w1"):
            assert one.get(source, worker_id).worker.tensor_source.tensors
