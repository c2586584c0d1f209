"""The shared store: one Redis (alone, behind sentinels, or a cluster's slot) for any number of servers.

`peerload.store.redis.store.RedisStore` is the store; importing it needs the extra `peerload[redis]`.
"""

from __future__ import annotations
