"""What Redis can answer instead of doing what was asked, and what that means for the caller.

Nothing here quotes a command, so no password gets into a message.
"""

from __future__ import annotations

import re
from typing import Final

from peerload.errors import Unavailable
from peerload.store.redis.place import Address

__all__ = ["Broken", "NewerLayout", "NoScript", "Passing", "Refused", "refusal"]


class Refused(Unavailable):
    """Redis was reached and said no: it did nothing, and asking again would not help."""


class Passing(Unavailable):
    """Nothing was done, and soon the same Redis, or another, may do it: worth asking again."""


class Broken(Unavailable):
    """The connection failed. What was sent on it may or may not have been done."""

    def __init__(self, address: Address, reason: str) -> None:
        super().__init__(f"Redis at {address} cannot be reached: {reason}")


class NoScript(Unavailable):
    """The script is not in Redis's cache; nothing was done."""


class NewerLayout(Unavailable):
    """A newer release has changed how things are kept."""


_PASSING: Final = frozenset(
    {"LOADING", "READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "UNBLOCKED"}
)
_CODES: Final = {
    "LOADING": "is still loading its data from disk",
    "READONLY": "is a read-only replica",
    "MOVED": "no longer serves our slot of the cluster",
    "ASK": "is handing our slot of the cluster over",
    "TRYAGAIN": "is handing our slot of the cluster over",
    "CLUSTERDOWN": "says that the cluster is down",
    "MASTERDOWN": "is a replica that has lost its primary",
    "UNBLOCKED": "has changed its role",
    "OOM": "is out of memory (maxmemory is reached): give it more memory; nothing was written",
    "NOAUTH": "wants a password, and the URL has none",
    "WRONGPASS": "refuses the user name or the password",
    "NOPERM": "does not allow this user what is needed (see ACL LOG)",
    "MISCONF": "takes no writes because it cannot save them to disk",
    "NOREPLICAS": "takes no writes because too few replicas are connected (min-replicas-to-write)",
    "BUSY": "is busy with somebody's script",
}
# Redis 7 begins an error raised in a script with its code; Redis 6 hides it behind a dash in the text.
_CODE: Final = re.compile(rf"(?:^|-)({'|'.join(_CODES)})\b")


def refusal(address: Address, text: str) -> Unavailable:
    """The exception for an error reply."""
    if text.startswith("NOSCRIPT"):
        return NoScript(f"Redis at {address} does not have the script")
    if "unauthenticated" in text:
        text = "NOAUTH"  # a longer command than Redis reads from strangers
    elif "user executing the script" in text or "ACL failure in script" in text:
        text = "NOPERM"  # inside of a script it has no code: the first up to Redis 7.0, the second since
    if text.startswith("LAYOUT"):
        return NewerLayout(
            f"Redis at {address} holds data in layout {text.split()[1]}, which a newer Peerload wrote;"
            " this one understands layout 1: upgrade it, or give it another namespace"
        )
    found = _CODE.search(text)
    if found is None:
        return Refused(f"Redis at {address}: it answered {text[:200]!r}")
    kind = Passing if found[1] in _PASSING else Refused
    return kind(f"Redis at {address}: it {_CODES[found[1]]}")
