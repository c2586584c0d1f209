"""The variables that deployments of this protocol already set, and what they say of our settings."""

from __future__ import annotations

import os
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from peerload.errors import InvalidArgument
from peerload.server.addresses import DEFAULT_HOST, DEFAULT_PORT, join_address

__all__ = ["DeployedSource", "check_enforced", "refuse_what_is_not_here"]

_DEPLOYED: Final = {
    "metrics": "MODEL_EXPRESS_SERVER_METRICS_PORT",
    "log_level": "MODEL_EXPRESS_LOG_LEVEL",
    "log_format": "MODEL_EXPRESS_LOG_FORMAT",
    "heartbeat_timeout": "MX_HEARTBEAT_TIMEOUT_SECS",
    "reaper_interval": "MX_REAPER_SCAN_INTERVAL_SECS",
    "gc_timeout": "MX_GC_TIMEOUT_SECS",
}
"""Names that deployments already set. The address and the store are made of two each; see `DeployedSource`."""

_HOST_NAME: Final = "MODEL_EXPRESS_SERVER_HOST"
_PORT_NAME: Final = "MODEL_EXPRESS_SERVER_PORT"
_BACKEND_NAME: Final = "MX_METADATA_BACKEND"
_SECURITY_NAME: Final = "MODEL_EXPRESS_SECURITY_MODE"
_AUDIENCES_NAME: Final = "MODEL_EXPRESS_SECURITY_TOKEN_AUDIENCES"
_ACCOUNTS_NAME: Final = "MODEL_EXPRESS_SECURITY_ALLOWED_SERVICE_ACCOUNTS"
_ENFORCED: Final = {
    "token_audiences": _AUDIENCES_NAME,
    "service_accounts": _ACCOUNTS_NAME,
    "token_cache_ttl": "MODEL_EXPRESS_SECURITY_CACHE_TTL_SECS",
}
"""Names that count where the mode is `enforce`, and only there."""
_OFF: Final = "off"
_ENFORCE: Final = "enforce"
_REDIS_BACKEND: Final = "redis"
_KUBERNETES_BACKENDS: Final = ("kubernetes", "k8s", "crd")
_KNOWN_BACKENDS: Final = (_REDIS_BACKEND, *_KUBERNETES_BACKENDS)
_REDIS_URL_NAME: Final = "REDIS_URL"
_REDIS_HOST_NAMES: Final = ("MX_REDIS_HOST", "REDIS_HOST")
_REDIS_PORT_NAMES: Final = ("MX_REDIS_PORT", "REDIS_PORT")
_REDIS_HOST: Final = "localhost"
_REDIS_PORT: Final = "6379"
_NAMESPACE_NAMES: Final = ("MX_METADATA_NAMESPACE", "POD_NAMESPACE")


class DeployedSource(PydanticBaseSettingsSource):
    """The variables that deployments of this protocol already set."""

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, (value, _) in self.found().items()}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, _ = self.found().get(field_name, (None, ""))
        return value, field_name, False

    @staticmethod
    def found() -> dict[str, tuple[str, str]]:
        """By setting: the value, and the name it stands under."""
        found = {
            setting: (os.environ[variable], variable)
            for setting, variable in _DEPLOYED.items()
            if os.environ.get(variable)
        }
        if _security_mode() == _ENFORCE:
            found |= {
                setting: (os.environ[variable], variable)
                for setting, variable in _ENFORCED.items()
                if os.environ.get(variable)
            }
        host, port = os.environ.get(_HOST_NAME), os.environ.get(_PORT_NAME)
        if host or port:
            names = ", ".join(name for name, value in ((_HOST_NAME, host), (_PORT_NAME, port)) if value)
            found["listen"] = (join_address(host or DEFAULT_HOST, port or DEFAULT_PORT), names)
        backend = _deployed_backend()
        if backend == _REDIS_BACKEND:
            found["store"] = _deployed_redis()
        elif backend in _KUBERNETES_BACKENDS:
            found["store"] = _deployed_kubernetes()
        return found


def _deployed_backend() -> str:
    return os.environ.get(_BACKEND_NAME, "").strip().lower()


def _security_mode() -> str:
    return os.environ.get(_SECURITY_NAME, "").strip().lower()


def _deployed_redis() -> tuple[str, str]:
    """The URL of the Redis that a deployment names, and the variables that it is taken from."""
    url = os.environ.get(_REDIS_URL_NAME, "").strip()
    if url:
        return url, f"{_BACKEND_NAME}, {_REDIS_URL_NAME}"
    names = [_BACKEND_NAME]
    parts = []
    for candidates, default in ((_REDIS_HOST_NAMES, _REDIS_HOST), (_REDIS_PORT_NAMES, _REDIS_PORT)):
        name = next((each for each in candidates if os.environ.get(each, "").strip()), None)
        parts.append(os.environ[name].strip() if name else default)
        names += [name] if name else []
    host, port = parts
    if port.startswith("tcp://"):
        # Kubernetes sets REDIS_PORT so by itself in every pod beside a service that is called redis.
        port = port.rpartition(":")[2]
    return f"redis://{join_address(host, port)}", ", ".join(names)


def _deployed_kubernetes() -> tuple[str, str]:
    """The URL of the namespace that a deployment names, and the variables that it is taken from.

    Where it names none it is that of the Pod, or of the kubeconfig: the store finds out.
    """
    name = next((each for each in _NAMESPACE_NAMES if os.environ.get(each, "").strip()), None)
    if name is None:
        return "kubernetes:", _BACKEND_NAME
    return f"kubernetes:{os.environ[name].strip()}", f"{_BACKEND_NAME}, {name}"


def refuse_what_is_not_here() -> None:
    """A deployment that asks for a store or for protection that there is not must not start without it."""
    backend = _deployed_backend()
    if backend and backend not in _KNOWN_BACKENDS:
        raise InvalidArgument(_BACKEND_NAME, f"must be one of {', '.join(_KNOWN_BACKENDS)} (it is {backend[:200]!r})")
    mode = _security_mode()
    if mode not in ("", _OFF, _ENFORCE):
        raise InvalidArgument(_SECURITY_NAME, f"must be {_OFF} or {_ENFORCE} (it is {mode[:200]!r})")


def check_enforced(audiences: tuple[str, ...], accounts: tuple[str, ...]) -> None:
    """A deployment that enforces authentication says for whom tokens must be, and who may come. Raises `InvalidArgument`."""
    if _security_mode() != _ENFORCE:
        return
    for name, listed, what in (
        (_AUDIENCES_NAME, audiences, "one audience"),
        (_ACCOUNTS_NAME, accounts, "one service account, NAMESPACE/NAME"),
    ):
        if not listed:
            raise InvalidArgument(name, f"must name at least {what}, where {_SECURITY_NAME} is {_ENFORCE}")
