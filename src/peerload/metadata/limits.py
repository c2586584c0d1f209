"""How large a publication's parts may be. Every error that one of these causes names the field and the number."""

from __future__ import annotations

from typing import Final

from peerload.errors import LimitExceeded

__all__ = [
    "ANSWER_BYTES",
    "MAX_ENDPOINTS",
    "MAX_FILES",
    "MAX_IDENTITY_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_NAME_BYTES",
    "MAX_REFS",
    "MAX_REFS_BYTES",
    "MAX_TENSORS",
    "MAX_TEXT_BYTES",
    "MAX_TOPOLOGY",
    "MAX_TOPOLOGY_BYTES",
    "MAX_TOTAL_SIZE",
    "MAX_WORKER_ID_BYTES",
    "MAX_WORLD_SIZE",
    "check_count",
    "check_text",
]

MAX_MESSAGE_BYTES: Final = 100 * 1024 * 1024
"""One message on the wire, and with it everything that one worker publishes."""
ANSWER_BYTES: Final = 256 * 1024
"""What an answer may hold beside what was published: so much less can be published, or nobody could ask for it."""
MAX_NAME_BYTES: Final = 4096
"""Names of models, tensors and files."""
MAX_TEXT_BYTES: Final = 1024
"""Short texts: revisions, accelerators, topology, pods, dtypes, engines, addresses."""
MAX_WORKER_ID_BYTES: Final = 1024
MAX_IDENTITY_BYTES: Final = 256 * 1024
"""A SourceIdentity, encoded; its extra_parameters are the only part without a limit of its own."""
MAX_TOPOLOGY: Final = 64
"""Levels of topology."""
MAX_TOPOLOGY_BYTES: Final = 16 * 1024
"""All levels and places together. With this every record fits into a store's value, whatever must be escaped there."""
MAX_TENSORS: Final = 1_000_000
"""Tensors in one list, or items in one manifest."""
MAX_FILES: Final = 100_000
MAX_ENDPOINTS: Final = 64
MAX_WORLD_SIZE: Final = 2**20
"""Ranks of one replica."""
MAX_REFS: Final = 64
"""Branches and tags of one revision."""
MAX_REFS_BYTES: Final = 16 * 1024
"""All of them together."""
MAX_TOTAL_SIZE: Final = 2**63 - 1
"""Bytes in all tensors of a worker."""


def check_text(field: str, text: str, limit: int) -> None:
    """Raises `LimitExceeded` for a text of more than `limit` bytes as UTF-8."""
    # A character has at most four bytes, so most texts need not be encoded to be judged.
    if len(text) * 4 > limit and (size := len(text.encode())) > limit:
        raise LimitExceeded(field, f"has {size} bytes, more than {limit}", limit=limit)


def check_count(field: str, count: int, limit: int, unit: str, setting: str = "") -> None:
    """Raises `LimitExceeded` for more than `limit` of something; `setting` is what can be set about it."""
    if count > limit:
        why = f" ({setting})" if setting else ""
        raise LimitExceeded(field, f"has {count} {unit}, more than {limit}{why}", limit=limit)
