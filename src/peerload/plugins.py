"""The one module that names concrete stores and engines, and imports them only when they are asked for.

Other packages add theirs through entry points: the group `peerload.stores` maps a URL scheme to a callable
`(url: str, clock: Clock) -> Store`; the group `peerload.engines` maps an engine's name to a callable
`(**settings) -> Engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, TypeAlias, cast

from peerload.clock import Clock
from peerload.engines.base import Engine
from peerload.errors import InvalidArgument
from peerload.store.base import Store

__all__ = [
    "EngineFactory",
    "StoreFactory",
    "check_shareable",
    "engine_names",
    "kubernetes_manifests",
    "open_engine",
    "open_store",
    "store_schemes",
]

StoreFactory: TypeAlias = Callable[[str, Clock], Store]
"""Makes an unopened store from its URL. Raises `InvalidArgument` for a URL that it cannot read."""

EngineFactory: TypeAlias = Callable[..., Engine]
"""Makes an engine from its settings, given by name. Raises `InvalidArgument` for one it does not know, `MissingExtra`
where it needs packages that are not installed."""

_STORES_GROUP: Final = "peerload.stores"
_ENGINES_GROUP: Final = "peerload.engines"


def store_schemes() -> list[str]:
    """The URL schemes that `open_store` knows: built in and installed, sorted."""
    return sorted({*_STORES, *(point.name for point in entry_points(group=_STORES_GROUP))})


def open_store(url: str, clock: Clock) -> Store:
    """The store that a URL names, not yet opened (`await store.open()` does that).

    `memory:` is a fresh store in this process; `sqlite:PATH` a file on this machine's own disk (a leading `~` is
    the user's home; `sqlite:///abs/path` is understood too); `redis://HOST` and its relatives a Redis that servers share
    (`peerload.store.redis.place` has all forms); `kubernetes:NAMESPACE` the API server of a cluster
    (`peerload.kubernetes.place`). Raises `InvalidArgument` for an unknown scheme, `MissingExtra` where
    the store needs packages that are not installed.
    """
    scheme, colon, _ = url.partition(":")
    factory = _STORES.get(scheme) if colon else None
    if factory is None and colon:
        for point in entry_points(group=_STORES_GROUP, name=scheme):
            factory = cast(StoreFactory, point.load())
    if factory is None:
        known = ", ".join(f"{name}:" for name in store_schemes())
        # Only the scheme is named: the rest of a URL may hold a password.
        given = f"{scheme}:" if colon else "a URL without a scheme"
        raise InvalidArgument("store", f"{given} is not a store that is installed; there are {known}")
    return factory(url, clock)


def check_shareable(url: str) -> None:
    """Raises `InvalidArgument` for a store that is one process's own, where several are to have it in common."""
    if url.partition(":")[0] in _PRIVATE:
        raise InvalidArgument(
            "store",
            f"{url} is within one process; several need one that they have in common: sqlite:PATH, redis://HOST or kubernetes:NAMESPACE",
        )


def _memory_store(url: str, clock: Clock) -> Store:
    from peerload.store.memory import MemoryStore

    if url != "memory:":
        raise InvalidArgument("store", "memory: takes nothing after the colon")
    return MemoryStore(clock)


def _sqlite_store(url: str, clock: Clock) -> Store:
    from peerload.store.sqlite import SqliteStore

    path = url.removeprefix("sqlite:")
    if path.startswith("///"):
        path = path[2:]
    if not path or path.startswith("//"):
        raise InvalidArgument(
            "store", "sqlite: needs the path of a file, as in sqlite:/var/lib/peerload/peerload.sqlite"
        )
    return SqliteStore(path, clock)


def _redis_store(url: str, clock: Clock) -> Store:
    from peerload.store.redis.store import RedisStore

    return RedisStore(url, clock)


def _kubernetes_store(url: str, clock: Clock) -> Store:
    from peerload.store.kubernetes.store import KubernetesStore

    return KubernetesStore(url, clock)


_PRIVATE: Final = ("memory",)
_REDIS: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_STORES: Final[dict[str, StoreFactory]] = {
    "memory": _memory_store,
    "sqlite": _sqlite_store,
    **dict.fromkeys(_REDIS, _redis_store),
    "kubernetes": _kubernetes_store,
}


def kubernetes_manifests(part: str, *, namespace: str, account: str) -> str:
    """What the Kubernetes store needs in a cluster, as YAML: the part `crd`, `role`, `all` or `reviewer`.

    Raises `InvalidArgument` for a name that Kubernetes would refuse.
    """
    from peerload.store.kubernetes.manifests import manifests

    return manifests(part, namespace=namespace, account=account)


def engine_names() -> list[str]:
    """The engines that `open_engine` knows: built in and installed, sorted."""
    return sorted({*_ENGINES, *(point.name for point in entry_points(group=_ENGINES_GROUP))})


def open_engine(name: str, **settings: object) -> Engine:
    """The engine of that name, with its own settings (of tcp: the fields of `peerload.engines.tcp.TcpSettings`).

    Nothing is started yet: its two sides start when they are first asked for. Raises `InvalidArgument` for an unknown
    name or setting.
    """
    factory = _ENGINES.get(name)
    if factory is None:
        for point in entry_points(group=_ENGINES_GROUP, name=name):
            factory = cast(EngineFactory, point.load())
    if factory is None:
        raise InvalidArgument(
            "engine",
            f"{name!r} (PEERLOAD_ENGINES) is not an engine that is installed; there are {', '.join(engine_names())}",
        )
    return factory(**settings)


def _memory_engine(**settings: object) -> Engine:
    from peerload.engines.memory import open_memory

    return open_memory(**settings)


def _tcp_engine(**settings: object) -> Engine:
    from peerload.engines.tcp import open_tcp

    return open_tcp(**settings)


def _memfd_engine(**settings: object) -> Engine:
    from peerload.engines.memfd import open_memfd

    return open_memfd(**settings)


def _nixl_engine(**settings: object) -> Engine:
    from peerload.engines.nixl import open_nixl

    return open_nixl(**settings)


def _mooncake_engine(**settings: object) -> Engine:
    from peerload.engines.mooncake import open_mooncake

    return open_mooncake(**settings)


_ENGINES: Final[dict[str, EngineFactory]] = {
    "memfd": _memfd_engine,
    "memory": _memory_engine,
    "mooncake": _mooncake_engine,
    "nixl": _nixl_engine,
    "tcp": _tcp_engine,
}
