"""Every command that the store gives Redis, and which of them its user may not.

A user with no more rights than it needs may not ask what its rights are. So each command is given, in a form that can
do nothing: Redis looks at the rights before it looks at anything else but the number of words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peerload.finding import Finding, Level
from peerload.store.redis.link import Command, Link, ReplyError
from peerload.store.redis.place import RedisPlace

__all__ = ["ask_rights"]

_NO_SCRIPT: Final = "0" * 40


@dataclass(frozen=True, slots=True)
class _Right:
    """A command in a form that changes nothing, by the name that ACL SETUSER takes."""

    name: str
    harmless: Command


def _rights(place: RedisPlace, key: str) -> list[_Right]:
    """What a store at this place gives: in the scripts (`lua/`), and beside them. There is nothing under `key`."""
    rights = [
        _Right("info", ("INFO", "server")),
        _Right("time", ("TIME",)),
        _Right("eval", ("EVAL", "return 1", 0)),
        _Right("evalsha", ("EVALSHA", _NO_SCRIPT, 0)),
        _Right("get", ("GET", key)),
        _Right("strlen", ("STRLEN", key)),
        _Right("hget", ("HGET", key, "f")),
        _Right("hmget", ("HMGET", key, "f")),
        _Right("xrange", ("XRANGE", key, "-", "+", "COUNT", 1)),
        _Right("xread", ("XREAD", "COUNT", 1, "STREAMS", key, "0-0")),
        _Right("zrangebylex", ("ZRANGEBYLEX", key, "-", "+", "LIMIT", 0, 1)),
        _Right("set", ("SET", key, "", "XX")),
        _Right("hset", ("HSET", key, "a field and its value", "", "and one without")),
        _Right("hdel", ("HDEL", key, "f")),
        _Right("zadd", ("ZADD", key, "XX", 0, "m")),
        _Right("zrem", ("ZREM", key, "m")),
        _Right("xadd", ("XADD", key, "NOMKSTREAM", "*", "f", "")),
        _Right("del", ("DEL", key)),
        _Right("unlink", ("UNLINK", key)),
    ]
    if place.kind == "sentinel":
        rights.append(_Right("role", ("ROLE",)))
    if place.min_replicas:
        rights.append(_Right("wait", ("WAIT", 0, 1)))
    return rights


async def ask_rights(link: Link, place: RedisPlace) -> list[Finding]:
    """Whether the user may do all that is needed, and what it may not."""
    rights = _rights(place, place.name("doctor"))
    refused: list[str] = []
    foreign = False
    for right, reply in zip(rights, await link.ask(*(right.harmless for right in rights)), strict=True):
        if isinstance(reply, ReplyError) and str(reply).startswith("NOPERM"):
            if "to run the" in str(reply):
                refused.append(right.name)
            else:
                foreign = True  # it may run it, and not on that key
    user = place.credentials.username or "default"
    findings = []
    if refused:
        words = f"{', '.join(refused[:-1])} and {refused[-1]}" if len(refused) > 1 else refused[0]
        findings.append(
            Finding(
                Level.PROBLEM,
                f"Redis does not allow user {user} the command{'s' * (len(refused) > 1)} {words}, which the store needs",
                f"ACL SETUSER {user} {' '.join(f'+{name}' for name in refused)}",
            )
        )
    if foreign:
        findings.append(
            Finding(
                Level.PROBLEM,
                f"Redis does not allow user {user} the keys that the store uses",
                f"ACL SETUSER {user} ~{{{place.namespace}}}*",
            )
        )
    return findings or [Finding(Level.OK, f"user {user} may run every command that the store needs, on its keys")]
