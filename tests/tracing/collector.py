"""A collector of traces: the receiving end of OTLP over gRPC, in this process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["Collector", "Told"]

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class Told:
    """One span."""

    service: str
    name: str
    kind: str
    trace: bytes
    span: bytes
    parent: bytes
    failed: bool
    attributes: dict[str, Any]


class Collector(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Keeps what it is told, while the block lasts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Told] = []
        self._server = grpc.server(ThreadPoolExecutor(2), handlers=(self,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that exports to here, often."""
        return {
            "PEERLOAD_TRACING": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def spans(self) -> list[Told]:
        """Those that have come in, in the order in which they ended."""
        with self._lock:
            return list(self._spans)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Of the one method there is."""
        if handler_call_details.method != _METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._take,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )

    def _take(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        found = [
            Told(
                _attributes(resource.resource.attributes)["service.name"],
                span.name,
                span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                span.trace_id,
                span.span_id,
                span.parent_span_id,
                span.status.code == span.status.STATUS_CODE_ERROR,
                _attributes(span.attributes),
            )
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found
        return ExportTraceServiceResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
