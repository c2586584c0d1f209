"""The messages of grpc_reflection_v1alpha.proto; made by tools/generate_wire.py."""

from peerload.wire import pool

globals().update(pool.names_of("grpc_reflection_v1alpha.proto"))
