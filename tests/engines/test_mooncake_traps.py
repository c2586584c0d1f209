"""What Mooncake's TransferEngine 0.3 does that our engine is built around: one test for each, so that a change, to the better or the
worse, is noticed. Nothing of ours is tested here.
"""

from __future__ import annotations

import pytest

from tests.engines.peer import Peer, peers
from tests.support.engines import need_engine

need_engine("mooncake")

QUIET = {"MC_LOG_LEVEL": "ERROR", "MC_TCP_PROGRESS_TIMEOUT_SEC": "3"}
MIB = 1 << 20
BIG = 64 * MIB

START = """
import os, threading, time
from mooncake.engine import TransferEngine
engine = TransferEngine()
status = engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "")
assert status == 0, status

def read(peer, pairs):
    ours, theirs, lengths = ([each[at] for each in pairs] for at in range(3))
    return engine.batch_transfer_sync_read(peer, ours, theirs, lengths)
"""


def serve(peer: Peer, nbytes: int = BIG) -> tuple[str, int]:
    """Have it serve memory full of ones; how it is reached, and the address."""
    peer.run(START)
    peer.run(f"memory = Memory({nbytes}, 1); result = engine.register_memory(memory.address, {nbytes})")
    port, address = peer.run("result = engine.get_rpc_port(), memory.address")
    return f"127.0.0.1:{port}", address


def meet(peer: Peer, nbytes: int = BIG, *, registered: bool = True) -> None:
    peer.run(START)
    peer.run(f"memory = Memory({nbytes})")
    if registered:
        assert peer.run(f"result = engine.register_memory(memory.address, {nbytes})") == 0


def read(peer: Peer, reach: str, address: int, nbytes: int = BIG) -> int:
    status = peer.run(f"result = read({reach!r}, [(memory.address, {address}, {nbytes})])")
    assert isinstance(status, int)
    return status


def many(reach: str, address: int, count: int) -> str:
    return f"result = read({reach!r}, [(memory.address + at * 1000, {address} + at * 1000, 1000) for at in range({count})])"


def test_trap_1_a_batch_of_too_many_fails() -> None:
    with peers(QUIET) as (source, target):
        reach, address = serve(source)
        meet(target)
        assert target.run(many(reach, address, 1024)) == 0
        assert target.run("result = memory.count(1)") == 1024 * 1000
        assert target.run(many(reach, address, 20_000)) == -1


def test_trap_1_nothing_cancels() -> None:
    with peers(QUIET, 1) as (process,):
        process.run(START)
        names = process.run("result = [name for name in dir(engine) if not name.startswith('_')]")
        assert "batch_transfer_sync_read" in names
        assert [name for name in names if any(word in name for word in ("cancel", "abort", "stop", "close"))] == []


@pytest.mark.scale
def test_trap_2_a_stopped_source_is_given_up_and_bytes_land_afterwards() -> None:
    nbytes = 1024 * MIB
    with peers(QUIET) as (source, target):
        reach, address = serve(source, nbytes)
        meet(target, nbytes)
        assert read(target, reach, address, MIB) == 0
        each = nbytes // 256
        pairs = f"[(memory.address + at * {each}, {address} + at * {each}, {each}) for at in range(256)]"
        target.start(f"result = read({reach!r}, {pairs})")
        source.stop()
        assert target.answer() == -1
        target.run(f"memory.mapping[:] = bytes({nbytes})")
        source.resume()
        assert target.run("time.sleep(2); result = memory.count(1)") > 0


def test_trap_3_a_local_address_is_not_checked() -> None:
    with peers(QUIET) as (source, target):
        reach, address = serve(source)
        meet(target, registered=False)
        assert read(target, reach, address) == 0
        assert target.run("result = memory.count(1)") == BIG


def test_trap_3_deregistering_revokes_at_the_source() -> None:
    with peers(QUIET) as (source, target):
        reach, address = serve(source)
        meet(target)
        assert read(target, reach, address, MIB) == 0
        assert source.run("result = engine.unregister_memory(memory.address)") == 0
        target.run(f"memory.mapping[:] = bytes({BIG})")
        assert read(target, reach, address) == -1
        assert target.run("result = memory.count(1)") == 0


def test_killed_readers_do_the_source_no_harm_and_a_killed_source_is_noticed() -> None:
    with peers(QUIET) as (source, target):
        reach, address = serve(source)
        for _ in range(3):
            with peers(QUIET, 1) as (victim,):
                meet(victim)
                victim.start(f"while True: read({reach!r}, [(memory.address, {address}, {BIG})])")
                with pytest.raises(TimeoutError):
                    victim.answer(0.1)
        meet(target)
        assert read(target, reach, address) == 0
        source.close()
        assert read(target, reach, address) == -1


def test_importing_it_starts_threads() -> None:
    # So that it is imported after a fork, not before.
    with peers(QUIET, 1) as (process,):
        code = "import os, mooncake.engine; result = len(os.listdir('/proc/self/task'))"
        assert process.run(code) > 1
