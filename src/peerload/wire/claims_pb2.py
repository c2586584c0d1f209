"""The messages of claims.proto; made by tools/generate_wire.py."""

from peerload.wire import pool

globals().update(pool.names_of("claims.proto"))
