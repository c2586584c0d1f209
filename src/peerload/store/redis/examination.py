"""What about a Redis would keep servers from using it, or lose what it keeps; asked on an ordinary connection."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Final

from peerload.errors import InvalidArgument, Unavailable
from peerload.finding import Finding, Level, worst
from peerload.store.redis import checks
from peerload.store.redis.layout import Keys
from peerload.store.redis.link import Link, ReplyError
from peerload.store.redis.place import RedisPlace
from peerload.store.redis.pool import Pool, checked
from peerload.store.redis.rights import ask_rights
from peerload.store.redis.route import route_to
from peerload.store.redis.sentinels import ask_sentinels
from peerload.store.redis.slot import slot
from peerload.store.redis.trouble import Refused

__all__ = ["examine", "pool_to", "removed_after"]

_LITTLE_ROOM: Final = 0.8
"""The part of its memory beyond which there is little room."""
_LAG_SECONDS: Final = 5
"""A replica acknowledges every second."""


def pool_to(place: RedisPlace) -> Pool:
    """Connections to the primary of a place."""
    return Pool(route_to(place))


async def examine(place: RedisPlace, layout: bytes) -> AsyncGenerator[Finding, None]:
    """Look at everything. Raises `Unavailable` where nobody can be asked."""
    if place.kind == "sentinel":
        found = await ask_sentinels(place)
        for finding in found:
            yield finding
        if worst(found) is Level.PROBLEM:
            return
    pool = pool_to(place)
    try:
        found = await pool.run(lambda link: ask_rights(link, place))
        for finding in found:
            yield finding
        if worst(found) is Level.PROBLEM:
            return
        async with contextlib.aclosing(_facts(pool, place, layout)) as facts:
            async for finding in facts:
                yield finding
    except Refused as error:
        yield Finding(
            Level.PROBLEM,
            str(error),
            "see the user, its password, the database and the namespace in the URL, and what the user is allowed"
            " (docs/redis.md)",
        )
    finally:
        pool.close()


async def _facts(pool: Pool, place: RedisPlace, layout: bytes) -> AsyncGenerator[Finding, None]:
    try:
        facts = await pool.run(checks.inspect)
    except InvalidArgument as error:
        yield Finding(Level.PROBLEM, str(error).removeprefix("store: "), "upgrade Redis, or name another")
        return
    fields, address = await pool.run(_info)
    yield Finding(Level.OK, f"Redis {facts.version} answers at {address}")
    for finding in facts.findings():
        yield finding
    yield _memory(fields)
    for finding in _replicas(fields, place):
        yield finding
    if place.kind == "cluster":
        yield await pool.run(lambda link: _cluster(link, place))
    yield await pool.run(lambda link: _content(link, place, layout))


async def _info(link: Link) -> tuple[dict[str, str], str]:
    return await checks.info(link), str(link.address)


def _memory(fields: Mapping[str, str]) -> Finding:
    used = int(fields.get("used_memory", "0"))
    limit, name = int(fields.get("maxmemory", "0")), "its maxmemory"
    if not limit:
        limit, name = int(fields.get("total_system_memory", "0")), "its machine's memory, without a maxmemory"
    if not limit:
        return Finding(Level.OK, f"Redis uses {_size(used)} of memory")
    what = f"Redis uses {100 * used / limit:.0f} % of {name} ({_size(used)} of {_size(limit)})"
    if used <= _LITTLE_ROOM * limit:
        return Finding(Level.OK, what)
    return Finding(
        Level.WARNING,
        f"{what}; when it is full, nothing can be published",
        "give it more memory, or remove what others keep there",
    )


def _replicas(fields: Mapping[str, str], place: RedisPlace) -> Iterator[Finding]:
    """Whether it is the primary, and what follows it closely enough to take its place."""
    if fields.get("role") == "slave":
        yield Finding(
            Level.PROBLEM,
            f"Redis is a replica of {fields.get('master_host')}:{fields.get('master_port')}, and takes no writes of its own",
            "name the primary, or let sentinels name it (redis+sentinel://HOST,…/SERVICE)",
        )
        return
    lags: list[int] = []
    for number in range(int(fields.get("connected_slaves", "0"))):
        about = dict(part.split("=", 1) for part in fields.get(f"slave{number}", "").split(",") if "=" in part)
        name = f"{about.get('ip')}:{about.get('port')}"
        lag = int(about.get("lag", "0"))
        if about.get("state") != "online":
            yield Finding(
                Level.WARNING,
                f"the replica {name} is not in step yet ({about.get('state')}), and could not take the primary's place",
                "wait until it has copied everything; if it never has, see its log",
            )
            continue
        lags.append(lag)
        if lag > _LAG_SECONDS:
            yield Finding(
                Level.WARNING,
                f"the replica {name} was last heard of {lag} s ago, and a fail-over to it loses what came since",
                "see its load, and the network between it and the primary",
            )
    wanted = place.min_replicas
    if wanted > len(lags):
        yield Finding(
            Level.PROBLEM,
            f"min_replicas={wanted} in the URL, and {_replica_count(len(lags))} in step: nothing can be published",
            "start more replicas, or ask for fewer",
        )
    elif wanted and wanted == len(lags):
        yield Finding(
            Level.WARNING,
            f"min_replicas={wanted} in the URL, and {_replica_count(len(lags))} in step: when one fails, nothing can be"
            " published",
            "start one more replica, or ask for one fewer",
        )
    elif not lags and place.kind != "direct":
        yield Finding(
            Level.WARNING,
            "the primary has no replica in step: when it fails, nobody can take its place",
            "start a replica; two and min_replicas=1 are the usual choice",
        )
    elif lags:
        yield Finding(Level.OK, f"{_replica_count(len(lags))} in step")


async def _cluster(link: Link, place: RedisPlace) -> Finding:
    """The state of the cluster; a user who may not ask for it is told what its being here proves."""
    (answer,) = await link.ask(("CLUSTER", "INFO"))
    ours = f"slot {slot(place.namespace)}, which holds all keys, is served by {link.address}"
    if isinstance(answer, ReplyError):
        return Finding(Level.OK, ours)
    state = dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line).get("cluster_state")
    if state == "ok":
        return Finding(Level.OK, f"the cluster's state is ok, and {ours}")
    return Finding(
        Level.PROBLEM,
        f"the cluster's state is {state}, and it may take no writes",
        "see CLUSTER INFO and CLUSTER SHARDS: a slot without a primary stops all, unless cluster-require-full-coverage is no",
    )


async def _content(link: Link, place: RedisPlace, layout: bytes) -> Finding:
    keys = Keys(place)
    meta, entries = await link.ask(("HMGET", keys.meta, "layout"), ("HLEN", keys.common[1]))
    ((held,),) = checked(link, [meta])
    if held is None:
        return Finding(Level.OK, f"namespace {place.namespace!r} is empty; the first server makes what it needs")
    if held != layout:
        return Finding(
            Level.PROBLEM,
            f"Redis holds data in layout {held.decode()}, which a newer Peerload wrote; this one understands layout"
            f" {layout.decode()}",
            "upgrade Peerload, or give it another namespace (?namespace=NAME in the URL)",
        )
    count = "" if isinstance(entries, ReplyError) else f"{entries:,} {'entry' if entries == 1 else 'entries'} in "
    return Finding(Level.OK, f"namespace {place.namespace!r} holds {count}layout {held.decode()}")


@contextlib.asynccontextmanager
async def removed_after(place: RedisPlace) -> AsyncIterator[None]:
    """Whatever the block keeps at a place is gone after it. Raises `Unavailable` where something may be left behind."""
    keys = Keys(place)
    try:
        yield
    finally:
        pool = pool_to(place)
        try:
            await pool.run(lambda link: _remove(link, keys))
        except Unavailable as error:
            names = place.name("")
            raise Unavailable(f"keys that begin with {names} may be left behind, for you to remove: {error}") from error
        finally:
            pool.close()


async def _remove(link: Link, keys: Keys) -> None:
    index = keys.common[3]
    (names,) = checked(link, await link.ask(("ZRANGEBYLEX", index, "-", "+")))
    checked(link, await link.ask(("UNLINK", *keys.common, *(keys.blob(name.decode()) for name in names))))


def _replica_count(count: int) -> str:
    return "1 replica is" if count == 1 else f"{count or 'no'} replicas are"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
