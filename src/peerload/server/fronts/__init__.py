"""What speaks gRPC on the port: over grpcio, or over ASGI on h2corn."""
