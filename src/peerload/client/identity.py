"""What makes weights interchangeable, as a caller states it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final, Self, cast

from peerload.errors import InvalidArgument
from peerload.metadata.records import Form
from peerload.wire import p2p_pb2
from peerload.wire.identity import source_id

__all__ = ["CONTENT_KEY", "FORM_KEY", "Framework", "Identity", "SourceType", "StockIdentity", "read_identity"]

FORM_KEY: Final = "peerload.form"
"""The extra parameter that keeps the two forms, and the sources of other clients, apart."""
CONTENT_KEY: Final = "peerload.content"
"""The extra parameter with the digest of a checkpoint's content."""

_MAX_UINT32: Final = 2**32 - 1


class Framework(enum.IntEnum):
    """The engine that processed the weights; numbered as on the wire."""

    UNKNOWN = 0
    VLLM = 1
    SGLANG = 2
    TRT_LLM = 3


_FRAMEWORKS: Final = frozenset(map(int, Framework))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Everything that makes weights interchangeable. Equal identities have equal source ids, and only those match.

    `extra` holds whatever else matters (quantization settings, a training step); keys and values count without case.
    Versions of Peerload do not divide the fleet: nothing here names ours.
    """

    model: str
    revision: str = ""
    framework: Framework = Framework.UNKNOWN
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    expert_parallel_size: int = 1
    dtype: str = ""
    quantization: str = ""
    framework_version: str = ""
    torch_version: str = ""
    cuda_version: str = ""
    triton_version: str = ""
    gpu_arch: str = ""
    compile_config_digest: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.model:
            raise InvalidArgument("model", "is empty")
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size"):
            if not 0 <= getattr(self, name) <= _MAX_UINT32:
                raise InvalidArgument(name, f"{getattr(self, name)} is not between 0 and {_MAX_UINT32}")
        for name in ("model", "revision", "dtype", "quantization"):
            try:
                getattr(self, name).encode()
            except UnicodeEncodeError:
                raise InvalidArgument(name, "is not valid Unicode text") from None

    @classmethod
    def checkpoint(cls, model: str, revision: str, content: str) -> Self:
        """The identity of a checkpoint whose files have that `content` digest."""
        return cls(model=model, revision=revision, extra={FORM_KEY: "checkpoint", CONTENT_KEY: content})

    @property
    def form(self) -> Form:
        """What the extra parameter `peerload.form` says; runtime, if nothing."""
        return Form.CHECKPOINT if self.extra.get(FORM_KEY) == "checkpoint" else Form.RUNTIME

    @property
    def source_id(self) -> str:
        """The id under which the server keeps every source of exactly this identity."""
        return source_id(self.to_wire())

    def to_wire(self) -> p2p_pb2.SourceIdentity:
        """The message, with `peerload.form` set: clients that do not know our engines never meet such a source."""
        return p2p_pb2.SourceIdentity(
            model_name=self.model,
            revision=self.revision,
            backend_framework=cast(p2p_pb2.BackendFramework, int(self.framework)),
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            expert_parallel_size=self.expert_parallel_size,
            dtype=self.dtype,
            quantization=self.quantization,
            backend_framework_version=self.framework_version,
            torch_version=self.torch_version,
            cuda_version=self.cuda_version,
            triton_version=self.triton_version,
            gpu_arch=self.gpu_arch,
            compile_config_digest=self.compile_config_digest,
            extra_parameters={FORM_KEY: "runtime", **self.extra},
        )

    @classmethod
    def from_wire(cls, message: p2p_pb2.SourceIdentity) -> Self:
        """The identity in a message. What only other clients set (mx_version, the kind of source) is not kept."""
        framework = message.backend_framework
        return cls(
            model=message.model_name,
            revision=message.revision,
            framework=Framework(framework) if int(framework) in _FRAMEWORKS else Framework.UNKNOWN,
            tensor_parallel_size=message.tensor_parallel_size,
            pipeline_parallel_size=message.pipeline_parallel_size,
            expert_parallel_size=message.expert_parallel_size,
            dtype=message.dtype,
            quantization=message.quantization,
            framework_version=message.backend_framework_version,
            torch_version=message.torch_version,
            cuda_version=message.cuda_version,
            triton_version=message.triton_version,
            gpu_arch=message.gpu_arch,
            compile_config_digest=message.compile_config_digest,
            extra=dict(message.extra_parameters),
        )


class SourceType(enum.IntEnum):
    """What is shared under an identity of the stock package; numbered as on the wire."""

    WEIGHTS = 0
    LORA = 1
    CUDA_GRAPH = 2
    TORCH_COMPILE_CACHE = 3
    TRITON_CACHE = 4
    DEEP_GEMM_CACHE = 5
    TILELANG_CACHE = 6
    CUTE_DSL_CACHE = 7
    FLASHINFER_CACHE = 8
    TVM_FFI_CACHE = 9


_SOURCE_TYPES: Final = frozenset(map(int, SourceType))


@dataclass(frozen=True, slots=True, kw_only=True)
class StockIdentity(Identity):
    """An identity as the stock package `modelexpress` publishes and asks for it: it has no `peerload.form`, so that both
    packages' workers meet under it.

    What is pulled by it may come from a stock worker; what is published under it is served to stock readers too. Every field
    must be what the stock worker says: `mx_version` is the version of its package, `dtype` torch's name without prefix.
    """

    source_type: SourceType = SourceType.WEIGHTS
    mx_version: str = ""

    def __post_init__(self) -> None:
        Identity.__post_init__(self)
        if any(key.lower() == FORM_KEY for key in self.extra):
            raise InvalidArgument("extra", f"{FORM_KEY} is what keeps stock clients away; use Identity for that")

    def to_wire(self) -> p2p_pb2.SourceIdentity:
        """The message, with nothing in it that the stock package would not set."""
        message = Identity.to_wire(self)
        del message.extra_parameters[FORM_KEY]
        message.mx_version = self.mx_version
        message.mx_source_type = cast(p2p_pb2.MxSourceType, int(self.source_type))
        return message

    @classmethod
    def from_wire(cls, message: p2p_pb2.SourceIdentity) -> Self:
        """The identity in a message. A kind of source that this release does not know is `WEIGHTS`: another id than the
        message's."""
        plain = Identity.from_wire(message)
        known = {field.name: getattr(plain, field.name) for field in fields(Identity)}
        kind = int(message.mx_source_type)
        return cls(
            **known,
            source_type=SourceType(kind) if kind in _SOURCE_TYPES else SourceType.WEIGHTS,
            mx_version=message.mx_version,
        )


def read_identity(message: p2p_pb2.SourceIdentity) -> Identity:
    """The identity in a message, of the kind that it is: one without `peerload.form` is a `StockIdentity`."""
    if any(key.lower() == FORM_KEY for key in message.extra_parameters):
        return Identity.from_wire(message)
    return StockIdentity.from_wire(message)
