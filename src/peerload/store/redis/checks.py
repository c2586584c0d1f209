"""What about a Redis would lose data or not work, said before it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument
from peerload.finding import Finding, Level
from peerload.store.redis.link import Link, ReplyError
from peerload.store.redis.pool import checked

__all__ = ["Facts", "info", "inspect"]

_OLDEST: Final = (6, 2)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. A value that the user may not ask for is empty."""

    version: str
    policy: str
    maxmemory: int
    append_only: bool
    save: str | None
    kept: bool
    """Whether the last write to disk went well."""

    def findings(self) -> list[Finding]:
        """Of each fact what it means, in words that a platform engineer can act on."""
        return [self._eviction(), self._persistence(), *self._disk()]

    def _eviction(self) -> Finding:
        if self.policy not in ("", "noeviction"):
            return Finding(
                Level.WARNING,
                f"Redis evicts keys when it is full (maxmemory-policy {self.policy}), and sources would vanish",
                "set maxmemory-policy noeviction",
            )
        return Finding(Level.OK, "Redis evicts nothing")

    def _persistence(self) -> Finding:
        if self.append_only:
            return Finding(Level.OK, "Redis keeps every change on disk (appendonly yes)")
        if self.save == "":
            what = (
                "Redis keeps nothing on disk (appendonly no, no save points), and a restart loses every source until"
                " its worker publishes again"
            )
        elif self.save is None:
            what = (
                "Redis writes to disk only now and then, if at all (appendonly no; its save points are not to be seen"
                " without +config|get), and a crash loses what was published since the last time"
            )
        else:
            what = (
                "Redis writes to disk only now and then (appendonly no), and a crash loses what was published since the"
                " last snapshot"
            )
        return Finding(Level.WARNING, what, "set appendonly yes")

    def _disk(self) -> list[Finding]:
        if self.kept:
            return []
        return [
            Finding(
                Level.WARNING,
                "Redis could not write to its disk the last time, and refuses publications until it can",
                "see its log, and make room on that disk",
            )
        ]


async def info(link: Link) -> dict[str, str]:
    """What Redis tells of itself, by the names of its INFO."""
    (text,) = checked(link, await link.ask(("INFO", "everything")))
    return dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)


async def inspect(link: Link) -> Facts:
    """Ask. Raises `InvalidArgument` for a Redis that is too old."""
    fields = await info(link)
    version = fields.get("redis_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        raise InvalidArgument(
            "store", f"Redis at {link.address} has version {version}; {'.'.join(map(str, _OLDEST))} or later is needed"
        )
    save = None
    (answer,) = await link.ask(("CONFIG", "GET", "save"))  # often not allowed, where somebody else runs Redis
    if not isinstance(answer, ReplyError) and len(answer) == 2:
        save = answer[1].decode()
    return Facts(
        version=version,
        policy=fields.get("maxmemory_policy", "") if fields.get("maxmemory", "0") != "0" else "",
        maxmemory=int(fields.get("maxmemory", "0")),
        append_only=fields.get("aof_enabled", "1") == "1",
        save=save,
        kept=all(fields.get(name, "ok") == "ok" for name in ("rdb_last_bgsave_status", "aof_last_write_status")),
    )
