"""Every exception that Peerload raises on purpose, in one tree::

    PeerloadError
    ├── InvalidArgument        the caller's input is wrong; names the field
    │   ├── MissingField       ... because something that must be there is not
    │   └── LimitExceeded      ... because it is larger than a limit; names the limit
    ├── NotFound               asked for one thing, and the store confirmed that it is not there
    ├── NotAllowed             refused on purpose: a peer or a policy says no
    │   └── Unauthenticated    ... because it is not known who asks
    ├── Unavailable            an outage or a deadline: nothing is known, trying again may help
    │   └── DeadlineExceeded   ... because the caller's time ran out
    ├── StoreError             what a store answers besides an outage
    │   ├── Conflict           the entry is not what the writer expected
    │   ├── Compacted          the feed no longer reaches back that far: list again
    │   └── Damaged            what the store kept cannot be read back
    ├── TransferFailed         moving bytes between two workers failed
    ├── VerificationFailed     bytes arrived that are not what the manifest promised
    ├── InvalidCheckpoint      a checkpoint folder or file is malformed or unsafe
    ├── PullFailed             a pull ended without the weights; lists what was tried
    │   ├── NoSource           ... because nobody has them
    │   └── Ambiguous          ... because sources of one name hold different weights
    └── MissingExtra           a feature needs a package that is not installed; names the extra
        └── MissingLibrary     ... because the system lacks a library that it links to; names its packages

An outage is never reported as absence: `NotFound`, `NoSource` and an empty list are facts, `Unavailable` is
the lack of one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "Ambiguous",
    "Compacted",
    "Conflict",
    "Damaged",
    "DeadlineExceeded",
    "Fault",
    "InvalidArgument",
    "InvalidCheckpoint",
    "LimitExceeded",
    "MissingExtra",
    "MissingField",
    "MissingLibrary",
    "NoSource",
    "NotAllowed",
    "NotFound",
    "PeerloadError",
    "PullFailed",
    "StoreError",
    "Touched",
    "TransferFailed",
    "Unauthenticated",
    "Unavailable",
    "VerificationFailed",
]


@dataclass(frozen=True, slots=True)
class Touched:
    """What memory of the caller's holds after a pull into it has failed: the names of its tensors, in their order.

    True if anything may have been written to it.
    """

    verified: tuple[str, ...]
    """Filled with what the source's manifest says, whole and checked."""
    undefined: tuple[str, ...]
    """May hold anything: reading into them had begun."""
    untouched: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.verified or self.undefined)

    def __str__(self) -> str:
        if not self:
            return "the memory that was to be filled was not touched"
        return (
            f"of the memory that was to be filled {len(self.verified)} tensors are filled and verified, "
            f"{len(self.undefined)} undefined, {len(self.untouched)} untouched"
        )


class PeerloadError(Exception):
    """The root of the tree. Its text is one sentence that a person can act on."""

    touched: Touched | None = None
    """Of a pull into the caller's memory: what that holds now. None otherwise."""

    def __reduce__(self) -> tuple[object, ...]:
        # From one process to another as it is: most are not made from their text alone.
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[PeerloadError], args: tuple[object, ...]) -> PeerloadError:
    return kind.__new__(kind, *args)


class InvalidArgument(PeerloadError):
    """Bad input. `field` is the name by which the caller knows it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class MissingField(InvalidArgument):
    """Something that must be given was not."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is missing")


class LimitExceeded(InvalidArgument):
    """Input beyond a limit. `limit` is the number that was exceeded, in the unit that the message names."""

    def __init__(self, field: str, message: str, *, limit: int) -> None:
        super().__init__(field, message)
        self.limit = limit


class NotFound(PeerloadError):
    """The one thing that was asked for is not there, and somebody who would know has said so."""


class NotAllowed(PeerloadError):
    """The request was understood and refused."""


class Unauthenticated(NotAllowed):
    """It is not known who asks: credentials are missing, or are not accepted."""


class Unavailable(PeerloadError):
    """An outage: of the store, the server or the way to it. Nothing follows about what exists."""


class DeadlineExceeded(Unavailable):
    """The caller's time ran out before an answer was known."""


class StoreError(PeerloadError):
    """What a store answers to a single call, besides `Unavailable`."""


class Conflict(StoreError):
    """The entry is not what the writer expected, so nothing was written.

    `revision` is the revision found, None where the entry does not exist.
    """

    def __init__(self, key: str, revision: int | None) -> None:
        state = "does not exist" if revision is None else f"is at revision {revision}"
        super().__init__(f"conflict: entry {key!r} {state}")
        self.key = key
        self.revision = revision


class Compacted(StoreError):
    """The feed no longer holds every change since the position: the reader lists again."""


class Damaged(StoreError):
    """What the store kept is missing a part, or does not decode. Never read as "nothing there"."""


class Fault(enum.Enum):
    """What a transfer that failed says about its source."""

    OTHER = "other"
    REFUSED = "refused"
    """Its host refused the connection: nobody listens there."""
    UNREACHABLE = "unreachable"
    """There was no connection, for another reason."""
    LOST = "lost"
    """The connection broke in the middle."""
    STALLED = "stalled"
    """It sent nothing for too long."""
    OURS = "ours"
    """Nothing: the reader itself gave up, or could not go on."""


class TransferFailed(PeerloadError):
    """Moving bytes failed. `retryable` tells whether the same source may yet succeed."""

    def __init__(self, message: str, *, retryable: bool = True, fault: Fault = Fault.OTHER) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.fault = fault


class VerificationFailed(PeerloadError):
    """Bytes arrived whose digest, size, dtype or shape is not the manifest's. `items` are their names."""

    def __init__(self, message: str, *, items: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.items = tuple(items)


class InvalidCheckpoint(PeerloadError):
    """A checkpoint is malformed or unsafe. `path` is relative to the checkpoint's folder."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class PullFailed(PeerloadError):
    """A pull ended without the weights. `attempts` has a line for each source that was tried, in order."""

    def __init__(self, message: str, attempts: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *(f"  - {line}" for line in attempts)]))
        self.attempts = tuple(attempts)


class NoSource(PullFailed):
    """The server says that no live source has these weights."""


class Ambiguous(PullFailed):
    """Sources of one name hold different weights; `attempts` lists the candidates. Nothing was moved."""


class MissingExtra(PeerloadError):
    """A feature needs packages that are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'peerload[{extra}]'")
        self.extra = extra


class MissingLibrary(MissingExtra):
    """A feature's packages are installed, and the system lacks libraries that they link to. `packages` are Debian's."""

    def __init__(self, feature: str, libraries: Sequence[str], packages: Sequence[str]) -> None:
        PeerloadError.__init__(
            self,
            f"{feature} needs libraries that this system has not ({', '.join(libraries)}): "
            f"apt-get install -y --no-install-recommends {' '.join(packages)}",
        )
        self.extra = ""
        self.packages = tuple(packages)
