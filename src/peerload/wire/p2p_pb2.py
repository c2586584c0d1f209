"""The messages of p2p.proto; made by tools/generate_wire.py."""

from peerload.wire import pool

globals().update(pool.names_of("p2p.proto"))
