"""The messages of server.proto; made by tools/generate_wire.py."""

from peerload.wire import pool

globals().update(pool.names_of("server.proto"))
