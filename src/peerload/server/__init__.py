"""The server: gRPC services over a `MetadataBackend`, behind a front that speaks the protocol.

`peerload.server.app` puts the parts together; everything else is handed what it needs.
"""
