"""The messages of outline.proto; made by tools/generate_wire.py."""

from peerload.wire import pool

globals().update(pool.names_of("outline.proto"))
