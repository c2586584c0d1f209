"""The feed: what a watch of the store yields, read from the reflector's log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final

from peerload.errors import Compacted, Unavailable
from peerload.store.base import Change, Feed, Position, Put
from peerload.store.kubernetes.fence import Fence
from peerload.store.kubernetes.reflector import Reflector
from peerload.store.kubernetes.resources import Resources
from peerload.store.wakeups import Wakeups

__all__ = ["follow", "write_position"]

_DIGITS: Final = 20


def write_position(epoch: str, version: int) -> Position:
    """The position after everything up to a resourceVersion."""
    return Position(f"{epoch}.{version}")


async def follow(
    position: Position,
    prefix: str,
    resources: Resources,
    reflector: Reflector,
    fence: Fence,
    wakeups: Wakeups,
    is_open: Callable[[], bool],
) -> AsyncGenerator[Feed, None]:
    """As `Store.watch`."""
    epoch, seen = _read_position(position)
    known = False
    with wakeups.listen() as listener:
        while True:
            if not is_open():
                raise Unavailable("the store was closed")
            if reflector.trouble is not None:
                raise Unavailable(str(reflector.trouble))
            if epoch != reflector.layout.epoch:
                raise Compacted("the position is not one of this store's feed")
            log = reflector.log
            if seen < log.floor:
                raise Compacted("the feed no longer reaches back to the reader's position")
            if not known and seen > max(log.end, resources.latest) and seen > await resources.version():
                raise Compacted("the position is not one of this store's feed")
            known = True
            changes, seen = log.read(seen)
            if prefix:
                changes = tuple(change for change in changes if _key(change).startswith(prefix))
            # That there is nothing new is true only of a watch that is known to be alive.
            if changes or (listener.due and fence.proven):
                listener.due = False
                yield Feed(changes, write_position(epoch, seen))
            if seen >= reflector.log.end:
                await listener.wait()


def _read_position(position: Position) -> tuple[str, int]:
    """The epoch and the resourceVersion. Raises `Compacted` for what is no position."""
    epoch, _, version = position.partition(".")
    if not (epoch and version.isascii() and version.isdecimal() and len(version) <= _DIGITS):
        raise Compacted("the position is not one of this store's feed")
    return epoch, int(version)


def _key(change: Change) -> str:
    return change.entry.key if isinstance(change, Put) else change.key
