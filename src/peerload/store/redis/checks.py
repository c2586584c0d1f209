"""What about a Redis would lose data or not work, said before it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument
from peerload.store.redis.link import Link, ReplyError
from peerload.store.redis.pool import checked

__all__ = ["Facts", "inspect"]

_OLDEST: Final = (6, 2)


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. A value that the user may not ask for is empty."""

    version: str
    policy: str
    maxmemory: int
    append_only: bool
    save: str | None

    def warnings(self) -> list[str]:
        """Sentences that a platform engineer can act on."""
        found = []
        if self.policy not in ("", "noeviction"):
            found.append(
                f"Redis evicts keys when it is full (maxmemory-policy {self.policy}), and sources would vanish:"
                " set maxmemory-policy noeviction"
            )
        if not self.append_only and self.save == "":
            found.append(
                "Redis keeps nothing on disk (appendonly no, no save points), and a restart loses every source until"
                " its worker publishes again: set appendonly yes"
            )
        elif not self.append_only and self.save is not None:
            found.append(
                "Redis writes to disk only now and then (appendonly no), and a crash loses what was published since the"
                " last snapshot: set appendonly yes"
            )
        return found


async def inspect(link: Link) -> Facts:
    """Ask. Raises `InvalidArgument` for a Redis that is too old."""
    (info,) = checked(link, await link.ask(("INFO", "everything")))
    fields = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
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
    )
