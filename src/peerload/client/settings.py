"""The client's settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from peerload.errors import InvalidArgument

__all__ = ["ClientSettings"]

_SECONDS: Final = {"MX_HEARTBEAT_INTERVAL_SECS": "heartbeat_interval", "PEERLOAD_CLAIM_LEASE": "claim_lease"}
_TEXTS: Final = {
    "MX_AUTH_TOKEN_PATH": "token_path",
    "PEERLOAD_TLS_CA": "tls_ca",
    "PEERLOAD_TLS_CLIENT_CERT": "tls_client_cert",
    "PEERLOAD_TLS_CLIENT_KEY": "tls_client_key",
    "PEERLOAD_TLS_NAME": "tls_name",
}
_SWITCHES: Final = {"PEERLOAD_REPORTS": "reports", "PEERLOAD_TLS": "tls"}
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")


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
    reports: bool = True
    """Whether the server is told how reads go and how they ended: that failed sources are asked after at once, and that people
    see what moves, comes from there. Nothing waits for it, and no pull fails by it."""
    token_path: str = "/var/run/secrets/tokens/modelexpress"
    """A file with the bearer token that is sent with every call; where it does not exist, none is sent."""
    tls: bool = False
    """Speak TLS to the server, whether or not its address begins with https://. Naming any of the following asks for it too."""
    tls_ca: str = ""
    """A file with the certificates of those who may sign the server's (PEM); without it, those that the system trusts."""
    tls_client_cert: str = ""
    """A file with the certificate that this client shows (PEM). It and its key are read again when they change."""
    tls_client_key: str = ""
    """A file with the key of `tls_client_cert` (PEM), without a passphrase."""
    tls_name: str = ""
    """The name that the server's certificate must be for, where it is not that in the address (a tunnel, an IP address)."""

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
        for name, other in (("tls_client_cert", "tls_client_key"), ("tls_client_key", "tls_client_cert")):
            if getattr(self, name) and not getattr(self, other):
                raise InvalidArgument(name, f"needs {other} beside it")

    @property
    def asks_for_tls(self) -> str:
        """The setting that asks for TLS; empty: none does."""
        names = ("tls", "tls_ca", "tls_client_cert", "tls_name")
        return next((name for name in names if getattr(self, name)), "")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> ClientSettings:
        """The defaults, changed by what the environment says: MX_HEARTBEAT_INTERVAL_SECS, PEERLOAD_CLAIM_LEASE,
        MX_AUTH_TOKEN_PATH, PEERLOAD_ENGINES (names with commas between them), PEERLOAD_REPORTS and PEERLOAD_TLS (1 or 0),
        PEERLOAD_TLS_CA, PEERLOAD_TLS_CLIENT_CERT, PEERLOAD_TLS_CLIENT_KEY and PEERLOAD_TLS_NAME."""
        env = os.environ if env is None else env
        changes: dict[str, float | str | bool | tuple[str, ...]] = {}
        for variable, name in _SECONDS.items():
            if text := env.get(variable):
                try:
                    changes[name] = float(text)
                except ValueError:
                    raise InvalidArgument(variable, f"{text!r} is not a number") from None
        for variable, name in _TEXTS.items():
            if text := env.get(variable):
                changes[name] = text
        for variable, name in _SWITCHES.items():
            if text := env.get(variable, "").strip().lower():
                if text not in (*_YES, *_NO):
                    raise InvalidArgument(variable, f"{text[:200]!r} is neither 1 nor 0")
                changes[name] = text in _YES
        if engines := env.get("PEERLOAD_ENGINES"):
            changes["engines"] = tuple(name.strip() for name in engines.split(",") if name.strip())
        return cls(**changes)  # type: ignore[arg-type]
