"""What children do with NIXL: one agent each, without its progress thread, for one publication.

See `peerload.engines.child.driver`. Of the agent's life nothing is tidied up: the process is killed, which NIXL and its peers
take better than a release.
"""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from peerload.engines.child.driver import ChildError
from peerload.engines.nixl.library import library

__all__ = ["preload", "source", "target"]

_HOST_MEMORY: Final = "DRAM"
_HOT: Final = 100
"""Looks at a transfer before there are pauses between them."""
_PAUSE_S: Final = 0.0002


def preload() -> None:
    """NIXL, UCX and numpy, but no agent: that has threads."""
    bindings = library().nixlBind
    config = bindings.nixlAgentConfig()
    config.useProgThread = config.useListenThread = False
    # Loads UCX's libraries, which is most of what the first agent takes.
    bindings.nixlAgent("peerload-preload", config).getPluginParams("UCX")


def source(settings: Mapping[str, Any]) -> _Source:
    """The side that serves."""
    return _Source()


def target(settings: Mapping[str, Any]) -> _Target:
    """The side that reads."""
    return _Target()


class _Agent:
    """An agent of its own name: a name is refused where it was seen before, and peers remember."""

    def __init__(self) -> None:
        api = library()
        self._np: Any = importlib.import_module("numpy")
        bindings = vars(api.nixlBind).values()
        self.errors = tuple(each for each in bindings if isinstance(each, type) and issubclass(each, Exception))
        config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self.name = f"peerload-{secrets.token_hex(12)}"
        try:
            self.agent: Any = api.nixl_agent(self.name, config)
        except self.errors as error:
            raise ChildError(f"no NIXL agent: {_words(error)}") from None

    def register(self, places: Sequence[tuple[int, int]]) -> Any:
        rows = self._np.array([(address, nbytes, 0) for address, nbytes in places], dtype=self._np.uint64)
        try:
            return self.agent.register_memory(rows, _HOST_MEMORY)
        except self.errors as error:
            total = sum(nbytes for _, nbytes in places)
            raise ChildError(f"NIXL did not register {total:,} bytes: {_words(error)}") from None


class _Source(_Agent):
    def offer(self, places: Sequence[tuple[int, int]]) -> bytes:
        if places:
            self.register(places)
        said: bytes = self.agent.get_agent_metadata()
        return said

    def progress(self) -> bool:
        try:
            return bool(self.agent.get_new_notifs())
        except self.errors:
            return False  # Of a reader that is gone; the others go on.


class _Target(_Agent):
    def __init__(self) -> None:
        super().__init__()
        self._peer = ""
        self._registered: dict[int, Any] = {}

    def connect(self, reach: bytes) -> None:
        try:
            self._peer = self.agent.add_remote_agent(reach)
        except self.errors as error:
            raise ChildError(f"NIXL cannot reach the source: {_words(error)}") from None

    def hold(self, address: int, nbytes: int) -> None:
        self._registered[address] = self.register([(address, nbytes)])

    def drop(self, address: int, nbytes: int) -> None:
        try:
            self.agent.deregister_memory(self._registered.pop(address))
        except self.errors as error:
            raise ChildError(f"NIXL did not deregister {nbytes:,} bytes: {_words(error)}") from None

    def read(self, rows: memoryview) -> None:
        np = self._np
        table = np.frombuffer(rows, dtype=np.uint64).reshape(-1, 3)
        zeros = np.zeros(len(table), dtype=np.uint64)
        theirs = np.column_stack((table[:, 0], table[:, 2], zeros))
        ours = np.column_stack((table[:, 1], table[:, 2], zeros))
        agent = self.agent
        try:
            handle = agent.initialize_xfer(
                "READ",
                agent.get_xfer_descs(ours, _HOST_MEMORY),
                agent.get_xfer_descs(theirs, _HOST_MEMORY),
                self._peer,
            )
            state = agent.transfer(handle)
            looks = 0
            while state == "PROC":
                looks += 1
                if looks > _HOT:
                    time.sleep(_PAUSE_S)
                state = agent.check_xfer_state(handle)
            if state == "DONE":
                handle.release()
        except self.errors as error:
            raise ChildError(_words(error)) from None
        if state != "DONE":
            raise ChildError(f"NIXL says that the read is in state {state}")


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
