"""What a store may offer beside the contract, so that `peerload doctor` can say more about it than the verbs show.

Nothing else uses it, and a store without it is a store all the same: that one is opened, and tried under a key that no
server reads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from peerload.finding import Finding
from peerload.store.base import Store

__all__ = ["Examinable"]


@runtime_checkable
class Examinable(Protocol):
    """A store that knows what could go wrong with its place. Both methods are for one that is not open."""

    def examine(self) -> AsyncGenerator[Finding, None]:
        """Look at the place and yield what is found, as it is found; change nothing there.

        What would keep the store from being used is a `PROBLEM`; that covers all for which `open` would raise, but
        that nobody can be asked: then it raises `Unavailable`.
        """
        ...

    def rehearsal(self) -> AbstractAsyncContextManager[Store]:
        """An open store like this one and as near to it as can be (the same server, the same disk, the same rights), to
        be written to. Whoever uses this place sees nothing of it, and when the block ends, however it ends, all of it
        is gone. Raises what `open` does, and `Unavailable` if something had to be left behind, which it names.
        """
        ...
