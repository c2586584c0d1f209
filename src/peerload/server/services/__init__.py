"""The gRPC services: bytes in, bytes or a stream of bytes out. None of them knows a gRPC library."""
