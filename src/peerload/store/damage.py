"""Entries that cannot be read: somebody wrote to the store past us, or the store kept them badly.

One of them must not keep servers from all the others. So it is left out of lists, which the log tells, and a feed that comes upon
it goes on with a list. Whoever asks for it by its key is told `Damaged`; to publish it again puts it right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import structlog

from peerload.errors import Compacted, Damaged
from peerload.store.base import Entry

__all__ = ["readable", "relisted"]

_log = structlog.stdlib.get_logger(__name__)

Row = TypeVar("Row")


def readable(read: Callable[[Row], Entry], rows: Iterable[Row]) -> Iterator[Entry]:
    """The entries of those rows that `read` does not raise `Damaged` for."""
    for row in rows:
        try:
            yield read(row)
        except Damaged as error:
            _log.error("an entry is left out", error=str(error))


def relisted(error: Damaged) -> Compacted:
    """What a feed raises that came upon something it cannot read."""
    _log.error("the feed cannot be read here", error=str(error))
    return Compacted("the feed holds something that cannot be read")
