"""gRPC on any server that speaks ASGI over HTTP/2: framing, headers, compression, calls. The front that hosts it is another
module's.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""
