"""The slot of a cluster that a hash tag falls into (the CRC-16 of the Redis Cluster specification)."""

from __future__ import annotations

import binascii
from typing import Final

__all__ = ["SLOTS", "slot"]

SLOTS: Final = 16_384


def slot(tag: str) -> int:
    """The slot of every key whose hash tag this is."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS
