"""What NIXL 1.5 with UCX does that our engine is built around: one test for each, so that a change, to the better or the worse, is
noticed. Nothing of ours is tested here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.engines.peer import Peer, peers
from tests.support.engines import need_engine

need_engine("nixl")

TCP = {
    "UCX_TLS": "tcp",
    "UCX_NET_DEVICES": "lo",
    "UCX_TCP_TX_SEG_SIZE": "64k",
    "UCX_TCP_RX_SEG_SIZE": "64k",
    "NIXL_LOG_LEVEL": "WARN",
}
SAME_HOST = {**TCP, "UCX_TLS": "^sysv"}
MIB = 1 << 20
BIG = 64 * MIB

SOURCE = """
import base64, os, time
import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config
from nixl_cu12._api import nixlBind

def make(name, progress=False):
    return nixl_agent(name, nixl_agent_config(enable_prog_thread=progress, backends=["UCX"]))

def rows(*spans):
    return np.array([(address, length, 0) for address, length in spans], dtype=np.uint64)

def register(agent, memory):
    return agent.register_memory(rows((memory.address, memory.nbytes)), "DRAM")

def begin(agent, peer, theirs, ours, nbytes):
    local = agent.get_xfer_descs(rows((ours, nbytes)), "DRAM")
    remote = agent.get_xfer_descs(rows((theirs, nbytes)), "DRAM")
    handle = agent.initialize_xfer("READ", local, remote, peer)
    return handle, agent.transfer(handle)

def wait(agent, handle, state, seconds):
    until = time.monotonic() + seconds
    while state == "PROC" and time.monotonic() < until:
        time.sleep(0.0005)
        state = agent.check_xfer_state(handle)
    return state
"""


def serve(peer: Peer, name: str = "source", *, progress: bool = True, nbytes: int = BIG) -> tuple[str, int]:
    """Have it serve memory full of ones; its metadata and the address."""
    peer.run(SOURCE)
    peer.run(f"memory = Memory({nbytes}, 1); agent = make({name!r}, {progress}); registered = register(agent, memory)")
    said, address = peer.run("result = base64.b64encode(agent.get_agent_metadata()).decode(), memory.address")
    return said, address


def meet(peer: Peer, said: str, name: str = "target", *, nbytes: int = BIG) -> None:
    """Have it ready to read."""
    peer.run(SOURCE)
    peer.run(f"memory = Memory({nbytes}); agent = make({name!r}); registered = register(agent, memory)")
    peer.run(f"peer = agent.add_remote_agent(base64.b64decode({said!r}))")


def read(peer: Peer, address: int, nbytes: int = BIG, seconds: float = 30) -> str:
    code = f"handle, state = begin(agent, peer, {address}, memory.address, {nbytes}); result = wait(agent, handle, state, {seconds})"
    state = peer.run(code)
    assert isinstance(state, str)
    return state


def test_trap_1_release_is_no_cancel_and_bytes_land_after_it() -> None:
    with peers(TCP) as (source, target):
        said, address = serve(source)
        meet(target, said)
        assert read(target, address, MIB) == "DONE"
        source.stop()
        assert (
            target.run(f"handle, state = begin(agent, peer, {address}, memory.address, {BIG}); result = state")
            == "PROC"
        )
        target.run("time.sleep(0.2); result = wait(agent, handle, 'PROC', 0.2)")
        target.run(
            "try:\n    handle.release()\n    result = 'released'\nexcept Exception as error:\n    result = type(error).__name__"
        )
        target.run(
            "try:\n    agent.remove_remote_agent(peer); agent.deregister_memory(registered)\nexcept Exception as error:\n"
            "    result = type(error).__name__"
        )
        target.run(f"memory.mapping[:] = bytes({BIG})")
        source.resume()
        landed = "for _ in range(400):\n    agent.get_new_notifs(); time.sleep(0.005)\nresult = memory.count(1)"
        assert target.run(landed) > 0


def test_trap_1_a_silent_peer_is_waited_for_without_end() -> None:
    with peers(TCP) as (source, target):
        said, address = serve(source)
        meet(target, said)
        assert read(target, address, MIB) == "DONE"
        source.stop()
        assert read(target, address, seconds=3) == "PROC"


@pytest.mark.scale
@pytest.mark.parametrize(("segment", "survives"), [("64k", True), ("256k", False)])
def test_trap_2_killed_tcp_readers_crash_sources_with_large_segments(segment: str, survives: bool) -> None:
    environment = {**TCP, "UCX_TCP_TX_SEG_SIZE": segment, "UCX_TCP_RX_SEG_SIZE": segment}
    with peers(environment, 1) as (source,):
        said, address = serve(source, nbytes=1024 * MIB)
        try:
            for number in range(12):
                with peers(environment, 1) as (target,):
                    meet(target, said, f"target-{number}", nbytes=1024 * MIB)
                    target.start(
                        f"begin(agent, peer, {address}, memory.address, {1024 * MIB})\nwhile True: agent.get_new_notifs()"
                    )
                    time.sleep(0.1 + number * 0.02)  # It is to be killed in the middle.
            source.run("result = 1")
            survived = True
        except EOFError:
            survived = False
    if survived and not survives:
        pytest.xfail("it crashed in 3 of 3 runs on one machine, and in none on another: not on every one")
    assert survived is survives


def test_trap_3_deregistering_revokes_nothing() -> None:
    with peers(TCP) as (source, target):
        said, address = serve(source)
        meet(target, said)
        source.run(f"agent.deregister_memory(registered); memory.mapping[:] = bytes([2]) * {BIG}")
        assert read(target, address) == "DONE"
        assert target.run("result = memory.count(2)") == BIG


def test_trap_3_reading_freed_memory_crashes_a_tcp_source() -> None:
    with peers(TCP) as (source, target):
        said, address = serve(source)
        meet(target, said)
        assert read(target, address, MIB) == "DONE"
        source.run(
            "import ctypes; agent.deregister_memory(registered)\n"
            f"ctypes.CDLL(None).munmap(ctypes.c_void_p(memory.address), ctypes.c_size_t({BIG}))"
        )
        try:
            read(target, address)
        except RuntimeError:
            pass  # The connection is lost.
        assert source.process.wait(30) == -11


def test_trap_3_ranges_are_checked_here_and_against_metadata_only() -> None:
    with peers(SAME_HOST) as (source, target):
        said, address = serve(source)
        meet(target, said)
        with pytest.raises(RuntimeError, match="nixlNotFoundError"):
            target.run(f"begin(agent, peer, {address + BIG}, memory.address, 1)")


def test_trap_4_a_process_that_made_an_agent_may_crash_at_a_normal_exit() -> None:
    # It does where the system has no libnl of its own beside the one inside NIXL's package, and not where it has.
    code = SOURCE + "agent = make('x')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **TCP}, capture_output=True, timeout=60, check=False
    )
    assert done.returncode in (0, -11)
    assert subprocess.run(
        [sys.executable, "-c", code + "os._exit(0)"], env={**os.environ, **TCP}, timeout=60, check=False
    ).returncode == 0  # fmt: skip


def test_trap_5_a_progress_thread_spins_and_without_one_nothing_moves() -> None:
    spent = "begun = time.process_time(); time.sleep(1); result = time.process_time() - begun"
    with peers(TCP) as (source, target):
        said, address = serve(source, progress=False)
        assert source.run(spent) < 0.1
        meet(target, said)
        assert read(target, address, MIB, seconds=1) == "PROC"
        # Asked for notifications it progresses, without a thread of its own.
        source.start("while True: agent.get_new_notifs(); time.sleep(0.0002)")
        assert target.run("result = wait(agent, handle, 'PROC', 30)") == "DONE"
    with peers(TCP, 1) as (source,):
        serve(source, progress=True)
        # It would be all of a core; of a busy machine's cores it gets its share.
        assert source.run(spent) > 0.1


def test_trap_6_remote_agents_that_were_removed_leave_descriptors() -> None:
    count = "result = len(os.listdir('/proc/self/fd'))"
    with peers(TCP) as (source, target):
        said, address = serve(source)
        meet(target, said)
        read(target, address, MIB)
        before = source.run(count), target.run(count)
        for _ in range(10):
            target.run(f"agent.remove_remote_agent(peer); peer = agent.add_remote_agent(base64.b64decode({said!r}))")
            assert read(target, address, MIB) == "DONE"
        after = source.run(count), target.run(count)
        assert after[0] - before[0] >= 5 or after[1] - before[1] >= 5


def test_trap_7_information_goes_to_standard_output() -> None:
    code = SOURCE + "agent = make('x')\nos._exit(0)"
    environment = {name: value for name, value in {**os.environ, **TCP}.items() if name != "NIXL_LOG_LEVEL"}
    loud = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=True)
    quiet = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "NIXL_LOG_LEVEL": "WARN"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"INFO" in loud.stdout
    assert quiet.stdout == b""


def test_trap_7_a_name_that_is_known_is_refused_for_another_agent() -> None:
    with peers(SAME_HOST, 3) as (source, other, target):
        said, _ = serve(source, "same")
        again, _ = serve(other, "same")
        meet(target, said)
        with pytest.raises(RuntimeError, match="nixl"):
            target.run(f"agent.add_remote_agent(base64.b64decode({again!r}))")
        target.run(f"agent.remove_remote_agent(peer); agent.add_remote_agent(base64.b64decode({again!r}))")


@pytest.mark.parametrize("environment", [TCP, SAME_HOST], ids=["tcp", "same host"])
def test_trap_8_a_killed_source_is_noticed_and_another_works(environment: dict[str, str]) -> None:
    with peers(environment, 3) as (source, other, target):
        said, address = serve(source)
        meet(target, said)
        assert read(target, address, MIB) == "DONE"
        source.close()
        with pytest.raises(RuntimeError, match="nixlRemoteDisconnectError"):
            for _ in range(3):
                read(target, address)
        again, second = serve(other, "other")
        target.run(f"peer = agent.add_remote_agent(base64.b64decode({again!r}))")
        assert read(target, second) == "DONE"
        assert target.run("result = memory.count(1)") == BIG


def test_many_descriptors_in_one_read() -> None:
    count = 20_000
    with peers(SAME_HOST) as (source, target):
        said, address = serve(source)
        meet(target, said)
        each = BIG // count
        target.run(
            f"at = np.arange({count}, dtype=np.uint64)[::-1] * np.uint64({each})\n"
            f"size, zero = np.full({count}, {each}, np.uint64), np.zeros({count}, np.uint64)\n"
            "local = agent.get_xfer_descs(np.column_stack((at + np.uint64(memory.address), size, zero)), 'DRAM')\n"
            f"remote = agent.get_xfer_descs(np.column_stack((at + np.uint64({address}), size, zero)), 'DRAM')\n"
            "handle = agent.initialize_xfer('READ', local, remote, peer)"
        )
        assert target.run("result = wait(agent, handle, agent.transfer(handle), 30)") == "DONE"
        assert target.run("result = memory.count(1)") == each * count
