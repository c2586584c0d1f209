"""peerload.v1.TransferService: what workers tell of transfers among them."""

from __future__ import annotations

from typing import Final

from peerload.metadata.backend import MetadataBackend
from peerload.metadata.transfers import Transfer
from peerload.server.front import Context, Methods, UnaryMethod
from peerload.wire.transfers_pb2 import ReportResponse

__all__ = ["TransferService"]

_HEARD: Final = ReportResponse().SerializeToString()


class TransferService:
    """The one call, over a metadata backend. It waits for nothing."""

    def __init__(self, backend: MetadataBackend) -> None:
        self._backend = backend

    def methods(self) -> Methods:
        """Its table."""
        return {"/peerload.v1.TransferService/Report": UnaryMethod(self.report)}

    async def report(self, request: bytes, context: Context) -> bytes:
        """Take note of how attempts to read have ended."""
        for transfer in Transfer.from_report(request):
            self._backend.report(transfer, context.principal)
        return _HEARD
