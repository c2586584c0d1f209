"""Which rank a process is, which workers make up a replica, and that each rank pulls its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerload import AsyncClient, ClientSettings, Identity
from peerload.client import Replica, SourceInfo, replicas
from peerload.client.ranks import ALONE, Membership, own_rank
from peerload.errors import InvalidArgument, NoSource
from peerload.metadata.records import Status
from peerload.server.app import Server
from peerload.wire import p2p_pb2, sources_pb2

LAUNCHED = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
QUICK = ClientSettings(patience=0.2, retry_delay=0.01, retire_grace=0.1)


@pytest.fixture(autouse=True)
def nothing_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, "TORCHELASTIC_RUN_ID", "PEERLOAD_REPLICA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch.distributed", raising=False)


@pytest.fixture
def distributed(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """What a process that uses torch.distributed has imported: rank 3 of 4."""
    module = types.ModuleType("torch.distributed")
    module.is_available = module.is_initialized = lambda: True  # type: ignore[attr-defined]
    module.get_rank = lambda: 3  # type: ignore[attr-defined]
    module.get_world_size = lambda: 4  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.distributed", module)
    return module


def test_the_rank_is_the_one_given_then_torchs_then_the_variables(distributed: types.ModuleType) -> None:
    assert own_rank(1, LAUNCHED) == 1
    assert own_rank(None, LAUNCHED) == 3
    distributed.is_initialized = lambda: False  # type: ignore[attr-defined]
    assert own_rank(None, LAUNCHED) == 5
    distributed.is_available = lambda: False  # type: ignore[attr-defined]
    assert own_rank(None, LAUNCHED) == 5
    del distributed.is_initialized
    assert own_rank(None, LAUNCHED) == 5
    assert own_rank(None, {}) == 0
    assert own_rank(None, {"RANK": ""}) == 0


@pytest.mark.parametrize("text", ["-1", "x", "1.0", "4294967296", "9" * 5000, "٣"])
def test_a_rank_that_is_none_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"RANK: .* is not a number from 0 to 4294967295") as error:
        own_rank(None, {"RANK": text})
    assert error.value.field == "RANK"


def test_a_given_rank_is_checked() -> None:
    for rank in (-1, 2**32):
        with pytest.raises(InvalidArgument, match="rank"):
            own_rank(rank, {})


async def test_a_bad_variable_is_told_by_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    async with AsyncClient("127.0.0.1:1", settings=QUICK) as client:
        with pytest.raises(InvalidArgument, match="RANK"):
            client.publish({"w": b"1"}, model="org/model")
        with pytest.raises(InvalidArgument, match="RANK"):
            await client.pull("org/model")


def test_torch_is_never_imported() -> None:
    script = (
        "import sys; from peerload.client.ranks import Membership, own_rank; own_rank(None, {}); Membership.of(0, None, {});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("rank", "env", "membership"),
    [
        (0, {}, ALONE),
        (5, {}, Membership("", 0)),
        (5, LAUNCHED, Membership("10.0.0.1:29500", 8)),
        (8, LAUNCHED, Membership("10.0.0.1:29500", 0)),
        (0, {"WORLD_SIZE": "8"}, Membership("", 8)),
        (0, {**LAUNCHED, "TORCHELASTIC_RUN_ID": "job-7"}, Membership("job-7 10.0.0.1:29500", 8)),
        (0, {**LAUNCHED, "TORCHELASTIC_RUN_ID": "none"}, Membership("10.0.0.1:29500", 8)),
        (0, {**LAUNCHED, "MASTER_ADDR": "127.0.0.1"}, Membership(f"{socket.gethostname()} 127.0.0.1:29500", 8)),
        (0, {**LAUNCHED, "MASTER_ADDR": "localhost"}, Membership(f"{socket.gethostname()} localhost:29500", 8)),
        (0, {**LAUNCHED, "WORLD_SIZE": "1"}, ALONE),
        (0, {**LAUNCHED, "PEERLOAD_REPLICA": "mine"}, Membership("mine", 8)),
        (0, {"PEERLOAD_REPLICA": "mine"}, Membership("mine", 1)),
    ],
)
def test_what_a_worker_is_part_of(rank: int, env: dict[str, str], membership: Membership) -> None:
    assert Membership.of(rank, None, env) == membership
    assert Membership.of(rank, "given", env) == Membership("given", membership.world_size)


def test_torch_knows_the_size(distributed: types.ModuleType) -> None:
    assert Membership.of(3, None, LAUNCHED).world_size == 4
    assert Membership.of(3, None, {"WORLD_SIZE": "nonsense"}).world_size == 4


@pytest.mark.parametrize("text", ["0", "-1", "x", str(2**20 + 1)])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument, match="WORLD_SIZE"):
        Membership.of(0, None, {"WORLD_SIZE": text})


def worker(rank: int, replica: str = "", world_size: int = 0, *, ready: bool = True, name: str = "") -> SourceInfo:
    message = sources_pb2.Source(
        source_id="s", worker_id=name or f"{replica}-{rank}", worker_rank=rank, replica=replica, world_size=world_size
    )
    message.status = p2p_pb2.SOURCE_STATUS_READY if ready else p2p_pb2.SOURCE_STATUS_STALE
    return SourceInfo.from_wire(message, now=0)


def shown(workers: list[SourceInfo]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(each.name, str(each), each.missing) for each in replicas(workers)]


def test_replicas_are_what_their_workers_call_them() -> None:
    whole = [worker(rank, "a", 8) for rank in range(8)]
    lacking = [worker(rank, "b", 8, ready=rank != 3) for rank in range(7)]
    assert shown(whole + lacking) == [("a", "8/8 ranks", ()), ("b", "6/8 ranks", (3, 7))]
    # A rank that was started again: its old record is there for a while.
    again = [*whole, worker(2, "a", 8, ready=False, name="before")]
    assert shown(again) == [("a", "8/8 ranks", ())]
    assert shown([worker(0, "one", 1)]) == [("one", "1/1 rank", ())]


def test_of_others_only_what_is_known_is_said() -> None:
    # Stock workers: the identity gave the number of ranks, or did not.
    assert shown([worker(rank, "", 8, name=f"{rank}-{copy}") for copy in range(3) for rank in range(8)]) == [
        ("", "8/8 ranks", ())
    ]
    assert shown([worker(rank, "", 8) for rank in range(7)]) == [("", "7/8 ranks", (7,))]
    assert shown([worker(rank) for rank in range(8)]) == [("", "8 ranks", ())]
    assert shown([worker(rank, ready=rank != 2) for rank in range(8)]) == [("", "7 ranks", (2,))]
    # Data parallel: more ranks than the identity's product, or some that the product has and some that it has not.
    assert shown([worker(rank, "", 8 if rank < 8 else 0) for rank in range(16)]) == [("", "16 ranks", ())]
    assert shown([worker(0, "a", 8), worker(1, "a", 4)]) == [("a", "2 ranks", ())]
    # Whole ones.
    assert shown([worker(0, "", 1, name=name) for name in "xyz"]) == [("", "1/1 rank", ())] * 3
    assert shown([worker(0, "", 1), worker(1, "", 0)]) == [("", "2 ranks", ())]
    assert shown([]) == []


workers = st.lists(
    st.builds(
        worker,
        st.integers(0, 3),
        st.sampled_from(["", "a", "b"]),
        st.integers(0, 4),
        ready=st.booleans(),
        name=st.uuids().map(str),
    ),
    max_size=12,
)


@given(workers)
def test_every_worker_is_in_one_replica_and_no_rank_is_made_up(given_workers: list[SourceInfo]) -> None:
    found: list[Replica] = replicas(given_workers)
    together = [each for replica in found for each in replica.workers]
    assert sorted(together, key=lambda each: each.worker_id) == sorted(given_workers, key=lambda each: each.worker_id)
    for replica in found:
        assert {each.replica for each in replica.workers} == {replica.name}
        ready = {each.worker_rank for each in replica.workers if each.status is Status.READY}
        assert set(replica.ranks) == ready
        assert not ready & set(replica.missing)
        if replica.total is not None:
            assert len(replica.ranks) + len(replica.missing) == replica.total


async def test_each_rank_pulls_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity(model="org/model", tensor_parallel_size=2)
    async with AsyncClient(server.address, settings=QUICK) as source, AsyncClient(server.address) as target:
        for rank in range(2):
            for name, value in {**LAUNCHED, "RANK": str(rank), "WORLD_SIZE": "2"}.items():
                monkeypatch.setenv(name, value)
            await source.publish({"w": bytes([rank])}, model=identity)
        (replica,) = replicas(await target.find(identity))
        assert (replica.name, str(replica), replica.missing) == ("10.0.0.1:29500", "2/2 ranks", ())
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            pulled = await target.pull(identity)
            assert (pulled.rank, bytes(pulled["w"].memory)) == (rank, bytes([rank]))
        assert bytes((await target.pull(identity, rank=0))["w"].memory) == b"\0"
        monkeypatch.setenv("RANK", "2")
        with pytest.raises(NoSource, match="rank 2"):
            await target.pull(identity)


async def test_a_checkpoint_is_whole_whatever_the_rank(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    async with AsyncClient(server.address, settings=QUICK) as source, AsyncClient(server.address) as target:
        async with source.share(folder, model="org/model") as shared:
            by_identity = await target.pull(shared.identity)
            by_name = await target.pull("org/model", publish=True)
            assert bytes(by_identity.files["config.json"]) == bytes(by_name.files["config.json"]) == b"{}"
            found = await target.find("org/model")
            assert {(info.worker_rank, info.replica, info.world_size) for info in found} == {(0, "", 1)}
            assert [str(replica) for replica in replicas(found)] == ["1/1 rank"] * 2
