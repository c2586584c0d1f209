"""The client's settings, and the address of the server."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["ADDRESS_VARIABLES", "DEFAULT_ADDRESS", "ClientSettings", "server_address"]

DEFAULT_ADDRESS: Final = "localhost:8001"
ADDRESS_VARIABLES: Final = ("PEERLOAD_SERVER", "MODEL_EXPRESS_URL", "MX_SERVER_ADDRESS")
"""Environment variables that may name the server; the first that is set counts."""

_DEFAULT_PORT: Final = 8001
_SECONDS: Final = {"MX_HEARTBEAT_INTERVAL_SECS": "heartbeat_interval", "PEERLOAD_CLAIM_LEASE": "claim_lease"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a client calls, heartbeats and pulls. Times are seconds. Raises `InvalidArgument`."""

    call_timeout: float = 30.0
    """For one call to the server, with its repetitions."""
    patience: float = 5.0
    """How long a call is repeated while the server cannot be reached."""
    outage_patience: float = 30.0
    """How long a pull that has begun waits for a server that went away, before it gives up."""
    heartbeat_interval: float = 30.0
    """Between two heartbeats of a source. Must be well below the server's heartbeat timeout (90 s)."""
    retire_grace: float = 5.0
    """How long readers of a source that ends may finish what they are reading."""
    busy_patience: float = 600.0
    """How long sources that are alive, but serve as many readers as they take, are asked again."""
    tries: int = 4
    """How often one source is tried without any byte of use, before a pull gives up on it."""
    retry_delay: float = 0.25
    """Before failed sources are tried again; doubles each round, up to five seconds."""
    claim_lease: float = 20.0
    """How long after its last sign of life one who downloads for all the others is waited for."""
    engines: tuple[str, ...] = ("memfd", "tcp") if sys.platform == "linux" else ("tcp",)
    """Engines to serve with and to read with, in order of preference. A source offers all of them that can serve where its
    weights are; a target takes the first that both sides have, and the next where it turns out that it cannot read by that."""
    token_path: str = "/var/run/secrets/tokens/modelexpress"
    """A file with the bearer token that is sent with every call; where it does not exist, none is sent."""

    def __post_init__(self) -> None:
        for name in ("call_timeout", "heartbeat_interval", "retry_delay"):
            if not getattr(self, name) > 0:
                raise InvalidArgument(name, "must be more than 0 seconds")
        for name in ("patience", "outage_patience", "busy_patience", "retire_grace"):
            if not getattr(self, name) >= 0:
                raise InvalidArgument(name, "must be 0 seconds or more")
        if not 1 <= self.claim_lease <= 3600:
            raise InvalidArgument("claim_lease", "must be 1 to 3600 seconds")
        if self.tries < 1:
            raise InvalidArgument("tries", "must be at least 1")
        if not self.engines:
            raise InvalidArgument("engines", "needs at least one engine")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> ClientSettings:
        """The defaults, changed by what the environment says: MX_HEARTBEAT_INTERVAL_SECS, PEERLOAD_CLAIM_LEASE,
        MX_AUTH_TOKEN_PATH and PEERLOAD_ENGINES (names with commas between them)."""
        env = os.environ if env is None else env
        changes: dict[str, float | str | tuple[str, ...]] = {}
        for variable, name in _SECONDS.items():
            if text := env.get(variable):
                try:
                    changes[name] = float(text)
                except ValueError:
                    raise InvalidArgument(variable, f"{text!r} is not a number") from None
        if path := env.get("MX_AUTH_TOKEN_PATH"):
            changes["token_path"] = path
        if engines := env.get("PEERLOAD_ENGINES"):
            changes["engines"] = tuple(name.strip() for name in engines.split(",") if name.strip())
        return cls(**changes)  # type: ignore[arg-type]


def server_address(address: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """The server's `host:port`: the argument, else the first of `ADDRESS_VARIABLES` that is set, else the default.

    A leading `http://` or `https://` is dropped (the connection is plaintext either way), a missing port is 8001.
    """
    env = os.environ if env is None else env
    names = ("address", *ADDRESS_VARIABLES)
    given = [address, *(env.get(name) for name in ADDRESS_VARIABLES)]
    field, text = next(((name, text) for name, text in zip(names, given, strict=True) if text), ("", DEFAULT_ADDRESS))
    text = text.strip()
    if text.startswith("unix:"):
        return text
    for scheme in ("http://", "https://", "dns:///"):
        text = text.removeprefix(scheme)
    text = text.rstrip("/")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, str(_DEFAULT_PORT)
        if host.count(":") > 1 and not host.startswith("["):
            host = f"[{host}]"
    if not host or "/" in host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(field or "address", f"{text[:200]!r} is not HOST:PORT")
    return f"{host}:{port}"
