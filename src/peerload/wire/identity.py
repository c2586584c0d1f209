"""The source id: a short hash of everything that makes weights interchangeable.

`source_id` is the first 16 hex digits of SHA-256 over a canonical JSON form of the SourceIdentity. The rules are part
of the wire contract: clients compute the same id for their logs, and records outlive servers.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from peerload.wire.p2p_pb2 import SourceIdentity

__all__ = ["canonical", "canonical_json", "is_source_id", "source_id"]

_ALWAYS: Final = ("mx_version", "model_name", "dtype", "quantization", "revision")
_WHEN_SET: Final = (
    "backend_framework_version",
    "torch_version",
    "cuda_version",
    "triton_version",
    "gpu_arch",
    "compile_config_digest",
)
_NUMBERS: Final = (
    "mx_source_type",
    "backend_framework",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "expert_parallel_size",
)
_DIGITS: Final = 16
_SOURCE_ID: Final = re.compile(f"[0-9a-f]{{{_DIGITS}}}")


def canonical(identity: SourceIdentity) -> dict[str, Any]:
    """What of an identity counts, by field: strings lower-cased, numbers, and `extra_parameters` as a dictionary.

    Two identities have one source id just where these are equal. Of `extra_parameters` whose keys differ only by case,
    the one whose original key sorts first counts.
    """
    extra: dict[str, str] = {}
    for key, text in sorted(identity.extra_parameters.items()):
        extra.setdefault(key.lower(), text.lower())
    fields: dict[str, Any] = {name: getattr(identity, name).lower() for name in _ALWAYS}
    fields.update((name, getattr(identity, name).lower()) for name in _WHEN_SET if getattr(identity, name))
    fields.update((name, int(getattr(identity, name))) for name in _NUMBERS)
    fields["extra_parameters"] = extra
    return fields


def canonical_json(identity: SourceIdentity) -> str:
    """The text that is hashed: the canonical fields with keys sorted, no white space, non-ASCII as it is."""
    return json.dumps(canonical(identity), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def source_id(identity: SourceIdentity) -> str:
    """The id under which every source of exactly this identity is found."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:_DIGITS]


def is_source_id(text: str) -> bool:
    """Whether `text` has the form of a source id; what has not is nobody's."""
    return _SOURCE_ID.fullmatch(text) is not None
