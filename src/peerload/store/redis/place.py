"""What a Redis URL says: where to connect, as whom, and how what is kept there is named.

    redis://[[user]:password@]host[:port][/db]        rediss:// the same with TLS
    unix://[[user]:password@]/path/to.sock[?db=N]
    redis+sentinel://[[user]:password@]host[:port],host[:port],…/service[/db]
    redis+cluster://[[user]:password@]host[:port],host[:port],…      rediss+sentinel, rediss+cluster: with TLS

Settings follow a question mark: `namespace` (the hash tag of all keys), `min_replicas` (how many replicas must have a
publish before it is acknowledged), `db`, `sentinel_username` and `sentinel_password` (of the sentinels themselves),
`ca`, `cert`, `key` (files, for TLS), `verify=no` (TLS without looking at the certificate).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn, TypeAlias
from urllib.parse import parse_qsl, unquote

from peerload.errors import InvalidArgument

__all__ = ["SCHEMES", "Address", "Credentials", "Kind", "RedisPlace"]

Kind: TypeAlias = Literal["direct", "sentinel", "cluster"]

SCHEMES: Final[dict[str, Kind]] = {
    "redis": "direct",
    "rediss": "direct",
    "unix": "direct",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}

_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_MAX_PORT: Final = 65_535
_MAX_REPLICAS: Final = 100
_MAX_DB: Final = 100_000
_SETTINGS: Final = frozenset(
    {"namespace", "min_replicas", "db", "sentinel_username", "sentinel_password", "ca", "cert", "key", "verify"}
)
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")


@dataclass(frozen=True, slots=True)
class Address:
    """One process: a host and a port, or the path of a socket (then the host is empty)."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are. The password is not in its text."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A parsed URL. `shown` is the URL without passwords, for people."""

    kind: Kind
    addresses: tuple[Address, ...]
    credentials: Credentials
    shown: str
    db: int = 0
    service: str = ""
    sentinel_credentials: Credentials = Credentials()
    namespace: str = "peerload"
    min_replicas: int = 0
    tls: ssl.SSLContext | None = None
    room: str = ""
    """Begins the names of all keys after the hash tag: keeps what is there apart, with the same slot and rights."""

    @classmethod
    def parse(cls, url: str) -> RedisPlace:
        """Read a URL. Raises `InvalidArgument`, which never holds a password."""
        scheme, mark, rest = url.partition("://")
        kind = SCHEMES.get(scheme)
        if kind is None or not mark:
            _refuse(f"must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}")
        rest, _, query = rest.partition("?")
        user, at, rest = rest.rpartition("@")  # the last one: a password may hold another
        credentials = _credentials(user) if at else Credentials()
        settings = _settings(query)
        where, _, path = rest.partition("/")
        service = ""
        db = settings.get("db", "0")
        if scheme == "unix":
            if where or not path:
                _refuse("unix:// needs the absolute path of a socket, as in unix:///run/redis/redis.sock")
            addresses: tuple[Address, ...] = (Address(path="/" + unquote(path)),)
        else:
            port = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
            addresses = tuple(_address(text, port) for text in where.split(",")) if where else ()
            if kind == "direct" and len(addresses) > 1:
                _refuse("redis:// takes one address; several need redis+sentinel:// or redis+cluster://")
            if not addresses:
                _refuse("names no host")
            if kind == "sentinel":
                service, _, path = path.partition("/")
                service = unquote(service)
                if not service:
                    _refuse("needs the name of the service after the sentinels, as in redis+sentinel://a,b,c/mymaster")
            db = path or db
        if kind == "cluster" and db != "0":
            _refuse("a cluster has database 0 only")
        namespace = settings.get("namespace", "peerload")
        if not _NAMESPACE.fullmatch(namespace):
            _refuse("namespace must have 1 to 100 letters, digits or . _ : / -")
        text = [f"{user.partition(':')[0]}@"] if at and user.partition(":")[0] else []
        shown = f"{scheme}://{''.join(text)}{rest}"
        public = {name: value for name, value in settings.items() if name != "sentinel_password"}
        if public:
            shown += "?" + "&".join(f"{name}={value}" for name, value in public.items())
        return cls(
            kind=kind,
            addresses=addresses,
            credentials=credentials,
            shown=shown,
            db=_number("db", db, _MAX_DB),
            service=service,
            sentinel_credentials=Credentials(
                settings.get("sentinel_username", ""), settings.get("sentinel_password", "")
            ),
            namespace=namespace,
            min_replicas=_number("min_replicas", settings.get("min_replicas", "0"), _MAX_REPLICAS),
            tls=_tls(settings) if scheme.startswith("rediss") else None,
        )

    def name(self, part: str) -> str:
        """The name of a key. The braces put all of them into one slot of a cluster."""
        return f"{{{self.namespace}}}:{self.room}{part}"


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument("store", message)


def _credentials(text: str) -> Credentials:
    user, colon, password = text.partition(":")
    if not colon:
        _refuse("has a user without a password (before the @ stands user:password, or :password)")
    return Credentials(unquote(user), unquote(password))


def _settings(query: str) -> dict[str, str]:
    settings = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(settings.keys() - _SETTINGS)
    if unknown:
        _refuse(f"knows no setting {unknown[0][:50]!r}; there are {', '.join(sorted(_SETTINGS))}")
    return settings


def _address(text: str, default: int) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", text)
    if match is None:
        _refuse("an address must be HOST, HOST:PORT or [IPV6]:PORT")
    port = int(match[3]) if match[3] else default
    if not 0 < port <= _MAX_PORT:
        _refuse(f"a port must be 1 to {_MAX_PORT}")
    return Address(unquote(match[1] or match[2]), port)


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) > most:
        _refuse(f"{name} must be a number from 0 to {most}")
    return int(text)


def _tls(settings: dict[str, str]) -> ssl.SSLContext:
    def load(what: Callable[[], None], names: str) -> None:
        try:
            what()
        except OSError as error:  # ssl.SSLError is one
            raise InvalidArgument("store", f"cannot use {names}: {error.strerror or error}") from error

    context = ssl.create_default_context()
    if "ca" in settings:
        load(lambda: context.load_verify_locations(settings["ca"]), f"ca={settings['ca']}")
    if "cert" in settings:
        load(lambda: context.load_cert_chain(settings["cert"], settings.get("key")), f"cert={settings['cert']}")
    verify = settings.get("verify", "yes")
    if verify not in ("yes", "no"):
        _refuse("verify must be yes or no")
    if verify == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
