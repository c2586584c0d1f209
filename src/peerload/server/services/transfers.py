"""peerload.v1.TransferService: what workers tell of transfers among them."""

from __future__ import annotations

from typing import Final

from peerload.metadata.backend import MetadataBackend
from peerload.metadata.transfers import Reading, Transfer
from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.traffic import Traffic
from peerload.wire.transfers_pb2 import ProgressResponse, ReportResponse

__all__ = ["TransferService"]

_HEARD: Final = ReportResponse().SerializeToString()
_UNHEEDED_S: Final = 60.0


class TransferService:
    """The two calls, over a metadata backend. They wait for nothing. `traffic` is told what people may see; None: nobody
    looks, and clients are asked to tell seldom."""

    def __init__(self, backend: MetadataBackend, traffic: Traffic | None = None) -> None:
        self._backend = backend
        self._traffic = traffic

    def methods(self) -> Methods:
        """Its table."""
        path = "/peerload.v1.TransferService"
        return {f"{path}/Report": UnaryMethod(self.report), f"{path}/Progress": UnaryMethod(self.progress)}

    async def report(self, request: bytes, context: Context) -> bytes:
        """Take note of how attempts to read have ended."""
        for transfer in Transfer.from_report(request):
            self._backend.report(transfer, context.principal)
            if self._traffic is not None:
                self._traffic.finished(transfer, context.principal, context.peer)
        return _HEARD

    async def progress(self, request: bytes, context: Context) -> bytes:
        """Take note of how far attempts are."""
        readings = Reading.from_progress(request)
        again = _UNHEEDED_S
        if self._traffic is not None:
            for reading in readings:
                self._traffic.progress(reading, context.principal, context.peer)
            again = self._traffic.again_s
        return ProgressResponse(again_ms=round(again * 1000)).SerializeToString()
