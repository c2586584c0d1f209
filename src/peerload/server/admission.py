"""What of a call is let in, whichever front it comes by: who calls and when, how many calls there are, how many bytes
they hold."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final

from peerload.errors import LimitExceeded, PeerloadError
from peerload.metadata.principals import ANYONE, Principal
from peerload.server.limits import Limits
from peerload.server.room import Room
from peerload.server.rpc import Context, Gate, Method, RpcError, UnaryMethod
from peerload.server.status import to_rpc_error
from peerload.server.turns import Turns

__all__ = ["HEALTH_PATHS", "Admission", "Places"]

HEALTH_PATHS: Final = ("/grpc.health.v1.", "/model_express.health.")
"""What the paths of health services begin with. They answer whatever the server is at."""


_SETTINGS: Final = ("--limit-calls", "--limit-watches", "--limit-message-bytes", "--limit-bytes-in-flight")


class Places:
    """So many calls of one kind, each for the length of a `with` block; one more raises `LimitExceeded`."""

    def __init__(self, limit: int, *, setting: str, unit: str) -> None:
        self._limit = limit
        self._setting = setting
        self._unit = unit
        self._taken = 0

    @property
    def limit(self) -> int:
        """How many there may be."""
        return self._limit

    @property
    def taken(self) -> int:
        """How many there are now."""
        return self._taken

    def __enter__(self) -> None:
        if self._taken >= self._limit:
            raise LimitExceeded(
                self._setting, f"there are {self._taken} {self._unit} already; try again", limit=self._limit
            )
        self._taken += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken -= 1


class Admission:
    """The gate and the limits of one front."""

    def __init__(self, limits: Limits, gate: Gate | None) -> None:
        self.limits = limits
        self._gate = gate
        self._turns = Turns()
        self._calls = Places(limits.limit_calls, setting="--limit-calls", unit="calls in flight")
        self._watches = Places(limits.limit_watches, setting="--limit-watches", unit="watches")
        self._health_calls = Places(limits.limit_calls, setting="--limit-calls", unit="calls of health services")
        self._health_watches = Places(limits.limit_watches, setting="--limit-watches", unit="watches of health")
        self.requests = Room(limits.limit_bytes_in_flight, setting="--limit-bytes-in-flight")
        """Held by a request from before it is read until it is answered."""
        # A request that waits is not read; an answer is there already, so not many may wait.
        self.answers = Room(
            limits.limit_bytes_in_flight, setting="--limit-bytes-in-flight", max_waiting=limits.limit_bytes_in_flight
        )
        """Held by an answer until the transport has taken it."""

        self.turned_away = dict.fromkeys(_SETTINGS, 0)
        """How many calls each limit has turned away, by its setting."""

    @property
    def kinds(self) -> Mapping[str, Places]:
        """The places that there are, by what takes them."""
        return {
            "calls": self._calls,
            "watches": self._watches,
            "health_calls": self._health_calls,
            "health_watches": self._health_watches,
        }

    def refusal(self, error: PeerloadError) -> RpcError | None:
        """What a call that was not let in for this reason is told; limits count whom they turn away. None for a defect."""
        if isinstance(error, LimitExceeded):
            self.turned_away[error.field] = self.turned_away.get(error.field, 0) + 1
        return to_rpc_error(error)

    def places(self, path: str, method: Method) -> Places:
        """Those of a method's calls."""
        watches = not isinstance(method, UnaryMethod)
        if path.startswith(HEALTH_PATHS):
            return self._health_watches if watches else self._health_calls
        return self._watches if watches else self._calls

    async def admit(self, path: str, context: Context) -> Principal:
        """Who calls, when it is the turn of this one. Raises `RpcError` to refuse the call."""
        if not self._turns.at_once():
            await self._turns.line_up(context)
        return ANYONE if self._gate is None else await self._gate.admit(path, context)

    def check_request(self, size: int) -> None:
        """Raises `LimitExceeded` for a request that is too large."""
        self._check("request", size)

    def check_answer(self, size: int) -> None:
        """Raises `LimitExceeded` for an answer that is too large."""
        self._check("answer", size)

    def _check(self, what: str, size: int) -> None:
        limit = self.limits.limit_message_bytes
        if size > limit:
            raise LimitExceeded("--limit-message-bytes", f"the {what} has {size} bytes, more than {limit}", limit=limit)
