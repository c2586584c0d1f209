"""A program that traces by itself, pulls and becomes a source, until its input ends.

python tests/tracing/job.py SERVER MODEL
"""

from __future__ import annotations

import asyncio
import sys

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from peerload import AsyncClient


async def main(server: str, model: str) -> None:
    with trace.get_tracer("job").start_as_current_span("job"):
        async with AsyncClient(server) as client:
            await client.pull(model, publish=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "job"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    asyncio.run(main(*sys.argv[1:]))
    provider.shutdown()
