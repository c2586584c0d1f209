"""The server's settings, and where each of them came from.

A setting is taken from the first of: a flag, `PEERLOAD_<NAME>`, the name that existing deployments of this protocol
already set, the default. Empty variables count as unset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from peerload.errors import InvalidArgument

__all__ = ["Resolved", "Settings", "resolve"]

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8001
DEFAULT_METRICS_PORT: Final = 9401
_PREFIX: Final = "PEERLOAD_"
_MAX_PORT: Final = 65_535
_MONTH: Final = 31 * 24 * 3600.0

_DEPLOYED: Final = {
    "metrics": "MODEL_EXPRESS_SERVER_METRICS_PORT",
    "log_level": "MODEL_EXPRESS_LOG_LEVEL",
    "log_format": "MODEL_EXPRESS_LOG_FORMAT",
    "heartbeat_timeout": "MX_HEARTBEAT_TIMEOUT_SECS",
    "reaper_interval": "MX_REAPER_SCAN_INTERVAL_SECS",
    "gc_timeout": "MX_GC_TIMEOUT_SECS",
}
"""Names that deployments already set. The address and the store are made of two each; see `_DeployedSource`."""

_HOST_NAME: Final = "MODEL_EXPRESS_SERVER_HOST"
_PORT_NAME: Final = "MODEL_EXPRESS_SERVER_PORT"
_BACKEND_NAME: Final = "MX_METADATA_BACKEND"
_METRICS_AUTO: Final = "auto"
_METRICS_OFF: Final = "off"
_SECURITY_NAME: Final = "MODEL_EXPRESS_SECURITY_MODE"
_REDIS_BACKEND: Final = "redis"
_KUBERNETES_BACKENDS: Final = ("kubernetes", "k8s", "crd")
_KNOWN_BACKENDS: Final = (_REDIS_BACKEND, *_KUBERNETES_BACKENDS)
_REDIS_URL_NAME: Final = "REDIS_URL"
_REDIS_HOST_NAMES: Final = ("MX_REDIS_HOST", "REDIS_HOST")
_REDIS_PORT_NAMES: Final = ("MX_REDIS_PORT", "REDIS_PORT")
_REDIS_HOST: Final = "localhost"
_REDIS_PORT: Final = "6379"
_NAMESPACE_NAMES: Final = ("MX_METADATA_NAMESPACE", "POD_NAMESPACE")

_LEVELS: Final = {"trace": "debug", "warn": "warning", "fatal": "critical"}
_FORMATS: Final = {"pretty": "console", "compact": "console", "full": "console", "text": "console"}


def _level(text: object) -> object:
    return _LEVELS.get(text.strip().lower(), text.strip().lower()) if isinstance(text, str) else text


def _format(text: object) -> object:
    return _FORMATS.get(text.strip().lower(), text.strip().lower()) if isinstance(text, str) else text


def _address(text: object) -> object:
    if isinstance(text, str):
        split_address(text)
    return text


def _metrics(text: object) -> object:
    if not isinstance(text, str):
        return text
    given = text.strip().lower()
    if given.isascii() and given.isdigit():
        if int(given) > _MAX_PORT:
            raise ValueError("must be a port from 1 to 65535, HOST:PORT, or off")
        # In deployments of this protocol port 0 means none.
        return given if int(given) else _METRICS_OFF
    if given not in (_METRICS_AUTO, _METRICS_OFF):
        try:
            split_address(given)
        except ValueError:
            raise ValueError("must be a port from 1 to 65535, HOST:PORT, or off") from None
    return given


def split_address(text: str) -> tuple[str, int]:
    """The host (without brackets) and the port of `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in [::1]:8001")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > _MAX_PORT:
        raise ValueError("must be HOST:PORT or [IPV6]:PORT with a port from 0 (any free one) to 65535")
    return host, int(port)


def join_address(host: str, port: int | str) -> str:
    """`HOST:PORT`, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _default_store() -> str:
    return f"sqlite:{platformdirs.user_state_path('peerload') / 'peerload.sqlite'}"


Seconds = Annotated[float, Field(gt=0, le=_MONTH, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What `peerload serve` runs with. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True
    )

    listen: Annotated[str, BeforeValidator(_address)] = Field(
        default=f"{DEFAULT_HOST}:{DEFAULT_PORT}",
        description="Address to listen on, HOST:PORT; port 0 takes a free one.",
    )
    store: str = Field(
        default_factory=_default_store,
        min_length=1,
        description="Where records are kept: sqlite:PATH, redis://HOST, kubernetes:NAMESPACE or memory:.",
    )
    heartbeat_timeout: Seconds = Field(
        default=90.0, description="Seconds without a heartbeat after which a source is stale."
    )
    reaper_interval: Seconds = Field(default=30.0, description="Seconds between two looks for stale sources.")
    gc_timeout: Seconds = Field(default=3600.0, description="Seconds after which a stale source is forgotten.")
    probe: bool = Field(
        default=True, description="Whether sources that have fallen silent are asked by connecting to them."
    )
    probe_after: Seconds = Field(
        default=35.0, description="Seconds without a heartbeat after which a source is asked whether it is there."
    )
    metrics: Annotated[str, BeforeValidator(_metrics)] = Field(
        default=_METRICS_AUTO,
        description="Port for Prometheus: PORT on the host of listen, HOST:PORT, off, or auto: 9401 if it is free.",
    )
    grace: Annotated[float, Field(ge=0, le=_MONTH, allow_inf_nan=False)] = Field(
        default=10.0, description="Seconds that calls in flight get to end when the server is told to stop."
    )
    drain_delay: Annotated[float, Field(ge=0, le=_MONTH, allow_inf_nan=False)] = Field(
        default=0.2, description="Seconds from saying NOT_SERVING to turning calls away, for load balancers to notice."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_level)] = Field(
        default="info", description="debug, info, warning, error or critical."
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_format)] = Field(
        default="auto", description="console for people, json for programs; auto looks whether stderr is a terminal."
    )

    @property
    def metrics_is_default(self) -> bool:
        """Whether nobody has said where metrics are to be: then it is no failure that they cannot be there."""
        return self.metrics == _METRICS_AUTO

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port for metrics; None: they are off. Port 0 takes a free one."""
        if self.metrics == _METRICS_OFF:
            return None
        host, _ = split_address(self.listen)
        if self.metrics_is_default:
            return host, DEFAULT_METRICS_PORT
        return (host, int(self.metrics)) if self.metrics.isdigit() else split_address(self.metrics)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then our variables, then those of existing deployments."""
        return init_settings, env_settings, _DeployedSource(settings_cls)


class _DeployedSource(PydanticBaseSettingsSource):
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


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each by name: the flag or variable it was taken from, or `default`."""

    settings: Settings
    origins: Mapping[str, str]

    def table(self) -> list[tuple[str, str | float, str]]:
        """Each setting's name, value and origin, fit to be shown: a password in the store's URL is left out."""
        values: dict[str, str | float] = {**self.settings.model_dump(), "store": _without_password(self.settings.store)}
        return [(name, value, self.origins[name]) for name, value in values.items()]


def _without_password(url: str) -> str:
    """A URL fit to be shown. A password may hold the characters that end it, so it goes on to the last @."""
    shown = re.sub(r"(//[^/@:]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*password[^=&]*)=[^&]*", r"\1=***", shown, flags=re.IGNORECASE)


def resolve(flags: Mapping[str, Any]) -> Resolved:
    """The settings from these flags (None: not given) and the environment.

    Raises `InvalidArgument` whose field is the flag or variable that is wrong.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    origins = _origins(given)
    _refuse_what_is_not_here()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidArgument(
            origins.get(name, name), f"{text[:1].lower()}{text[1:]} (it is {str(first['input'])[:200]!r})"
        ) from None
    return Resolved(settings, origins)


def _origins(given: Mapping[str, Any]) -> dict[str, str]:
    ours = EnvSettingsSource(Settings)()
    deployed = _DeployedSource.found()
    origins: dict[str, str] = {}
    for name in Settings.model_fields:
        if name in given:
            origins[name] = f"--{name.replace('_', '-')}"
        elif name in ours:
            origins[name] = f"{_PREFIX}{name.upper()}"
        elif name in deployed:
            origins[name] = deployed[name][1]
        else:
            origins[name] = "default"
    return origins


def _refuse_what_is_not_here() -> None:
    """A deployment that asks for a store or for protection that this release lacks must not start without it."""
    backend = _deployed_backend()
    if backend and backend not in _KNOWN_BACKENDS:
        raise InvalidArgument(_BACKEND_NAME, f"must be one of {', '.join(_KNOWN_BACKENDS)} (it is {backend[:200]!r})")
    mode = os.environ.get(_SECURITY_NAME, "").strip().lower()
    if mode not in ("", "off"):
        raise InvalidArgument(_SECURITY_NAME, f"this release can only be run with off (it is {mode[:200]!r})")
