"""The shared store: one Redis (alone, behind sentinels, or a cluster's slot) for any number of servers.

`peerload.store.redis.store.RedisStore` is the store; importing it needs the extra `peerload[redis]`.

Why hiredis, and connections of our own (`link`, `pool`, `route`), instead of redis-py: its client was tried in their
place (8.1, asyncio). What the store promises beyond a client's ordinary calls is not to be had from its pools:

- A call that is given up closes its connection in the ordinary way, which first sends what is left. A publication for a
  Redis that hangs was done after its caller had been told UNAVAILABLE, and was held in memory until then.
- Replacing all connections, as when Redis hangs, waits for the end of each: with TLS five seconds, in every call that
  meets the fault.
- That an idle connection was cut is not seen when it is taken unless the event loop has run since, and in a cluster
  never. A write on it then fails, or with redis-py's retries is sent again although it may have been done.
- A cluster's pipeline gives WAIT to another node than the write before it; the sentinels' word for who is the primary
  is taken without asking it.

All of it can be mended by using only its connection class, and reaching into that: every test then passed. But deadlines,
retries, pool and routes stay as they are, and what is saved is thirty lines of `link`, for a package of 6 MB, 10 MB more
memory in every server, and up to twice the CPU time a command.
"""

from __future__ import annotations
