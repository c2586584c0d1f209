"""Texts that clients chose, as they may be kept, logged and shown: short, one line, without secrets."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["MAX_KEY", "MAX_NAME", "MAX_VALUE", "host_of", "kept", "parameter"]

MAX_NAME: Final = 512
"""Characters that are kept of a model's name and the like."""
MAX_KEY: Final = 64
MAX_VALUE: Final = 64
"""Characters of an extra parameter's value; of longer ones nothing is kept, for nobody knows what is in them."""
_MAX_HOST: Final = 64
_MAX_PUBLISHED: Final = 4096
"""Characters of the longest name that can be published."""

_TOO_LONG: Final = "(too long to keep)"
_HIDDEN: Final = "(hidden)"
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_SECRET: Final = re.compile(
    r"(token|key|secrets?|passwords?|passwd|passphrase|pwd|credentials?|auth|authorization|bearer|cookie|jwt)$",
    re.IGNORECASE,
)
_IN_URL: Final = re.compile(r"(://)[^/\s]*@")


def kept(text: str, limit: int = MAX_NAME) -> str:
    """A text cut to `limit` characters, control characters escaped, without what stands before the @ of a URL."""
    # Not only in what is left: the @ may be cut off, and the password not.
    text = _IN_URL.sub(r"\1***@", text[: 2 * _MAX_PUBLISHED]) if "://" in text else text
    if len(text) > limit:
        text = f"{text[:limit]}… {_TOO_LONG}"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def parameter(key: str, value: str) -> str:
    """The value of an extra parameter as it may be kept: short ones, and none whose key looks like a secret's."""
    if any(_SECRET.search(word) for word in _WORDS.findall(key[:_MAX_PUBLISHED])):
        return _HIDDEN
    return kept(value, MAX_VALUE) if len(value) <= MAX_VALUE else _TOO_LONG


@lru_cache(maxsize=1024)
def host_of(peer: str) -> str:
    """The host of a peer as gRPC writes it (`ipv4:10.0.0.1:4711`, `ipv6:%5B::1%5D:4711`): connections come and go."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kept(peer, _MAX_HOST)
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").replace("%25", "%")
    return kept(host.strip("[]"), _MAX_HOST)
