"""model_express.api.ApiService: calls by action name, of which there is one."""

from __future__ import annotations

from typing import Final

from peerload.server.rpc import Context, Methods, UnaryMethod
from peerload.server.services.messages import decode
from peerload.wire.api_pb2 import ApiRequest, ApiResponse

__all__ = ["ApiService"]

_PONG: Final = ApiResponse(success=True, data=b'{"message":"pong"}').SerializeToString()
_MAX_ACTION: Final = 200


class ApiService:
    """Answers `ping`."""

    def methods(self) -> Methods:
        """Its table."""
        return {"/model_express.api.ApiService/SendRequest": UnaryMethod(self.send_request)}

    async def send_request(self, request: bytes, context: Context) -> bytes:
        """`ping`: a pong; anything else: success=false."""
        action = decode(ApiRequest, request).action
        if action == "ping":
            return _PONG
        name = action if len(action) <= _MAX_ACTION else f"{action[:_MAX_ACTION]}…"
        return ApiResponse(success=False, error=f"Unknown action: {name}").SerializeToString()
