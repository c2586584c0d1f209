"""The server's settings.

A setting is taken from the first of: a flag, `PEERLOAD_<NAME>`, the name that existing deployments of this protocol
already set, the default. Empty variables count as unset.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal

import platformdirs
from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from peerload.errors import InvalidArgument
from peerload.metadata.limits import MAX_TENSORS
from peerload.server import spellings
from peerload.server.addresses import DEFAULT_HOST, DEFAULT_PORT, split_address
from peerload.server.deployed import DeployedSource
from peerload.server.limits import Limits
from peerload.server.tls import TlsFiles

__all__ = ["DEFAULT_METRICS_PORT", "PREFIX", "Settings"]

DEFAULT_METRICS_PORT: Final = 9401
PREFIX: Final = "PEERLOAD_"
"""What the names of our variables begin with."""
_MONTH: Final = 31 * 24 * 3600.0

_LIMITS: Final = Limits()
_LEAST_MESSAGE: Final = 1024 * 1024

_SHOWN_MODELS: Final = 100
_USUAL_BEATS: Final = 30.0
"""Seconds between two heartbeats of the clients' own accord, stock ones too."""


def _default_store() -> str:
    return f"sqlite:{platformdirs.user_state_path('peerload') / 'peerload.sqlite'}"


Seconds = Annotated[float, Field(gt=0, le=_MONTH, allow_inf_nan=False)]
SecondsOrNever = Annotated[float, Field(ge=0, le=_MONTH, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class Settings(BaseSettings):
    """What `peerload serve` runs with. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True
    )

    listen: Annotated[str, BeforeValidator(spellings.address)] = Field(
        default=f"{DEFAULT_HOST}:{DEFAULT_PORT}",
        description="Address to listen on, HOST:PORT; port 0 takes a free one.",
    )
    tls_cert: str = Field(
        default="", description="File with the server's certificate and those that lead from it to the root (PEM): TLS."
    )
    tls_key: str = Field(default="", description="File with the key of tls_cert (PEM).")
    tls_client_ca: str = Field(
        default="", description="File with who signs clients' certificates (PEM): every client must show one."
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
    front: Literal["grpc", "h2corn"] = Field(
        default="h2corn",
        description="What speaks gRPC on the port: h2corn (faster, and keeps limits closer), or grpc, the conservative choice.",
    )
    limit_message_bytes: Annotated[int, Field(ge=_LEAST_MESSAGE, le=2**30)] = Field(
        default=_LIMITS.limit_message_bytes, description="Bytes in one message, either way."
    )
    limit_connections: Count = Field(default=_LIMITS.limit_connections, description="Connections at once.")
    limit_calls: Count = Field(default=_LIMITS.limit_calls, description="Calls in flight, on all connections.")
    limit_connection_calls: Count = Field(
        default=_LIMITS.limit_connection_calls, description="Calls and watches in flight on one connection."
    )
    limit_watches: Count = Field(default=_LIMITS.limit_watches, description="Watches at once, on all connections.")
    limit_bytes_in_flight: Annotated[int, Field(ge=_LEAST_MESSAGE, le=2**40)] = Field(
        default=_LIMITS.limit_bytes_in_flight,
        description="Bytes in all requests being read and answered, and as many in answers being sent.",
    )
    connection_age: SecondsOrNever = Field(
        default=_LIMITS.connection_age, description="Seconds for which one connection is used; 0: for ever."
    )
    connection_age_grace: SecondsOrNever = Field(
        default=_LIMITS.connection_age_grace,
        description="Seconds that calls of a connection past its age get to end.",
    )
    timeout_idle: Seconds = Field(
        default=_LIMITS.timeout_idle, description="Seconds for which a connection without calls is kept."
    )
    timeout_handshake: Seconds = Field(
        default=_LIMITS.timeout_handshake, description="Seconds for the handshakes of a connection."
    )
    timeout_request: Seconds = Field(
        default=_LIMITS.timeout_request, description="Seconds in which a request must have arrived whole."
    )
    timeout_stall: Seconds = Field(
        default=_LIMITS.timeout_stall,
        description="Seconds for which a reader may take nothing of its answer (front h2corn).",
    )
    timeout_silence: Seconds = Field(
        default=_LIMITS.timeout_silence,
        description="Seconds without a sign of life after which a connection's peer has vanished.",
    )
    metrics: Annotated[str, BeforeValidator(spellings.metrics)] = Field(
        default=spellings.AUTO,
        description="Port for Prometheus: PORT on the host of listen, HOST:PORT, off, or auto: 9401 if it is free.",
    )
    metrics_models: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None,
        description="Models that have rows of their own in the metrics, the others are counted together; "
        "by default 100, and none where callers are asked who they are.",
    )
    grace: Annotated[float, Field(ge=0, le=_MONTH, allow_inf_nan=False)] = Field(
        default=10.0, description="Seconds that calls in flight get to end when the server is told to stop."
    )
    drain_delay: Annotated[float, Field(ge=0, le=_MONTH, allow_inf_nan=False)] = Field(
        default=0.2, description="Seconds from saying NOT_SERVING to turning calls away, for load balancers to notice."
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(spellings.log_level)
    ] = Field(default="info", description="debug, info, warning, error or critical.")
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(spellings.log_format)] = Field(
        default="auto", description="console for people, json for programs; auto looks whether stderr is a terminal."
    )

    tracing: bool = Field(
        default=False, description="Whether traces are exported by OTLP, as OTEL_* variables say (peerload[otel])."
    )
    access: str = Field(
        default="",
        description="The access file: tokens, service accounts and client certificates, and who may do what.",
    )
    token_audiences: str = Field(
        default="", description="For which audiences tokens of Kubernetes service accounts must be, with commas."
    )
    service_accounts: Annotated[str, BeforeValidator(spellings.accounts)] = Field(
        default="", description="Kubernetes service accounts that may publish, NAMESPACE/NAME, with commas."
    )
    token_cache_ttl: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        default=60.0, description="Seconds for which a service account's token is believed before it is reviewed again."
    )
    limit_principal_records: Annotated[int, Field(ge=0)] = Field(
        default=100_000, description="Records that one principal may have; 0: any number."
    )

    limit_tensors: Annotated[int, Field(ge=1, le=MAX_TENSORS)] = Field(
        default=MAX_TENSORS, description="Tensors in one manifest."
    )
    own_addresses: bool = Field(
        default=False, description="Whether sources must be where their publisher's connection comes from."
    )

    processes: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="Processes that serve on the one port, each with a directory of its own over the one store.",
    )
    ui: Annotated[str, BeforeValidator(spellings.ui)] = Field(
        default=spellings.OFF, description="Address of the web page, HOST:PORT, or off; port 0 takes a free one."
    )

    @property
    def hasty(self) -> str:
        """What is to be said of a heartbeat timeout that one lost heartbeat may outlast; "" of others."""
        if self.heartbeat_timeout >= 2 * _USUAL_BEATS:
            return ""
        return (
            f"--heartbeat-timeout is {self.heartbeat_timeout:g} s, and workers that are not told otherwise send a heartbeat every "
            f"{_USUAL_BEATS:g} s: live sources may be taken for stale"
        )

    @property
    def ui_address(self) -> tuple[str, int] | None:
        """Host and port of the web page; None: there is none."""
        return None if self.ui == spellings.OFF else split_address(self.ui)

    @property
    def audiences(self) -> tuple[str, ...]:
        """`token_audiences`, one by one."""
        return spellings.listed(self.token_audiences)

    @property
    def accounts(self) -> tuple[str, ...]:
        """`service_accounts`, one by one, as NAMESPACE/NAME."""
        return spellings.listed(self.service_accounts)

    @property
    def reviews_tokens(self) -> bool:
        """Whether tokens of service accounts are looked at."""
        return bool(self.audiences or self.accounts)

    @property
    def authenticates(self) -> bool:
        """Whether callers are asked who they are."""
        return bool(self.access) or self.reviews_tokens

    @property
    def tls(self) -> TlsFiles | None:
        """The files of TLS; None: plaintext. Raises `InvalidArgument` where only some of them are named."""
        for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
            if getattr(self, name) and not getattr(self, other):
                raise InvalidArgument(name, f"needs --{other.replace('_', '-')} beside it")
        if not self.tls_cert:
            return None
        client_ca = Path(self.tls_client_ca) if self.tls_client_ca else None
        return TlsFiles(Path(self.tls_cert), Path(self.tls_key), client_ca)

    @property
    def metrics_is_default(self) -> bool:
        """Whether nobody has said where metrics are to be: then it is no failure that they cannot be there."""
        return self.metrics == spellings.AUTO

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port for metrics; None: they are off. Port 0 takes a free one."""
        if self.metrics == spellings.OFF:
            return None
        host, _ = split_address(self.listen)
        if self.metrics_is_default:
            return host, DEFAULT_METRICS_PORT
        return (host, int(self.metrics)) if self.metrics.isdigit() else split_address(self.metrics)

    @property
    def models_in_metrics(self) -> int:
        """How many models the metrics name. Whoever asks there is not asked who he is, so none where the port for calls tells
        only some callers."""
        if self.metrics_models is not None:
            return self.metrics_models
        return 0 if self.authenticates else _SHOWN_MODELS

    @property
    def limits(self) -> Limits:
        """How much of the port clients may take up."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

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
        return init_settings, env_settings, DeployedSource(settings_cls)
