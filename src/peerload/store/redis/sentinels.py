"""What each sentinel says: whether they agree on the primary, and could agree on the next one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from peerload.errors import Unavailable
from peerload.finding import Finding, Level
from peerload.store.redis.link import ReplyError, connect
from peerload.store.redis.place import Address, RedisPlace

__all__ = ["ask_sentinels"]

_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one sentinel says; `lost` is why it says nothing."""

    sentinel: Address
    primary: str = ""
    quorum: str = ""
    lost: str = ""


async def ask_sentinels(place: RedisPlace) -> list[Finding]:
    """Ask all at once. Empty where none answers: then the way to the primary says why."""
    opinions = await asyncio.gather(*(_ask(place, sentinel) for sentinel in place.addresses))
    heard = [opinion for opinion in opinions if not opinion.lost]
    if not heard:
        return []
    findings = [
        Finding(
            Level.WARNING,
            f"{opinion.lost}, and the next fail-over has to do without this sentinel",
            "start it, or take it out of the URL",
        )
        for opinion in opinions
        if opinion.lost
    ]
    primaries = {opinion.primary for opinion in heard}
    if primaries == {""}:
        findings.append(
            Finding(
                Level.PROBLEM,
                f"no sentinel knows a service {place.service!r}",
                "put a name into the URL that SENTINEL MASTERS lists",
            )
        )
    elif len(primaries) > 1:
        said = ", ".join(f"{opinion.sentinel} says {opinion.primary or 'nothing'}" for opinion in heard)
        findings.append(
            Finding(
                Level.PROBLEM,
                f"the sentinels do not agree on the primary ({said}), and servers may write to different ones",
                "wait for a fail-over to end; if none goes on, let all sentinels monitor the same primary",
            )
        )
    else:
        doubts = [opinion.quorum for opinion in heard if opinion.quorum.startswith("NOQUORUM")]
        if doubts:
            findings.append(
                Finding(
                    Level.PROBLEM,
                    f"the sentinels could not appoint another primary when this one fails ({doubts[0]})",
                    "start more sentinels, or lower the quorum",
                )
            )
        else:
            count = "one sentinel names" if len(heard) == 1 else f"{len(heard)} sentinels agree on"
            able = ", and can appoint another" if any(opinion.quorum.startswith("OK") for opinion in heard) else ""
            findings.append(Finding(Level.OK, f"{count} {heard[0].primary} as the primary{able}"))
    return findings


async def _ask(place: RedisPlace, sentinel: Address) -> _Opinion:
    try:
        async with asyncio.timeout(_SECONDS):
            link = await connect(sentinel, place.sentinel_credentials, tls=place.tls)
            try:
                named, quorum = await link.ask(
                    ("SENTINEL", "get-master-addr-by-name", place.service), ("SENTINEL", "ckquorum", place.service)
                )
            finally:
                link.close()
    except Unavailable as error:
        return _Opinion(sentinel, lost=str(error))
    except TimeoutError:
        return _Opinion(sentinel, lost=f"Redis at {sentinel} did not answer in time")
    if isinstance(named, ReplyError):
        return _Opinion(sentinel, lost=f"Redis at {sentinel} is no sentinel that may be asked ({named})")
    primary = str(Address(named[0].decode(), int(named[1]))) if isinstance(named, list) and len(named) == 2 else ""
    # Who may not ask for the quorum is answered with an error like any other, and goes without.
    return _Opinion(sentinel, primary, str(quorum) if isinstance(quorum, ReplyError) else quorum.decode())
