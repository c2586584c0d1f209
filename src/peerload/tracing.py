"""Spans by OpenTelemetry, where this process traces; nothing at all where it does not.

Whether it does is seen by what is loaded: a program that traces has imported OpenTelemetry, and set a tracer provider that
exports its spans. Then ours join them. `start` is for programs of our own: it imports and sets up what `peerload[otel]` brings.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from peerload.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.context import Context

__all__ = ["Attribute", "Kind", "Span", "headers", "incoming", "inside", "span", "start", "unrelated"]

Attribute: TypeAlias = str | int | float | bool
Kind: TypeAlias = Literal["internal", "client", "server"]

_NAME: Final = "peerload"
_LAST_WORDS_SECONDS: Final = 2.0
"""For the last spans, when a process ends."""


class Span(Protocol):
    """Something that takes a while, and what is known of it."""

    def set_attribute(self, key: str, value: Attribute) -> None:
        """Say something about it. The latest counts."""
        ...


class _Nothing:
    """A span that nobody hears of."""

    def set_attribute(self, key: str, value: Attribute) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING: Final = _Nothing()


def span(
    name: str,
    attributes: Mapping[str, Attribute] | None = None,
    *,
    kind: Kind = "internal",
    parent: Context | None = None,
) -> contextlib.AbstractContextManager[Span]:
    """A span for the length of a block, inside the present one, or inside `parent`. What the block raises is its status.

    The block must be one task's, and no part of an asynchronous generator: whose turns may be different tasks'."""
    trace = _trace()
    if trace is None:
        return _NOTHING
    found: contextlib.AbstractContextManager[Span] = trace.get_tracer(_NAME).start_as_current_span(
        name,
        parent,
        kind=getattr(trace.SpanKind, kind.upper()),
        attributes=attributes,
        record_exception=False,
    )
    return found


def inside() -> bool:
    """Whether there is a span now that is recorded: something else than a call's own may not be worth one."""
    trace = _trace()
    return trace is not None and bool(trace.get_current_span().is_recording())


def headers() -> tuple[tuple[str, str], ...]:
    """Metadata by which whoever answers a call knows the present span: W3C's traceparent, unless the process uses another."""
    if _trace() is None:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def incoming(metadata: Iterable[tuple[str, str]]) -> Context | None:
    """The caller's span in a call's metadata; None where nothing is traced."""
    if _trace() is None:
        return None
    from opentelemetry import propagate

    return propagate.extract(dict(metadata))


def unrelated() -> contextvars.Context:
    """A context for tasks that go on long after whoever starts them: no span of theirs is inside the present one."""
    context = contextvars.copy_context()
    if _trace() is not None:
        from opentelemetry.context import Context, attach

        context.run(attach, Context())
    return context


def start(service: str) -> Callable[[], None]:
    """Export this process's spans by OTLP over gRPC, as OTEL_* variables say (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME,
    OTEL_TRACES_SAMPLER …); `service` is its name without those. Returns what exports the last of them, as far as
    that takes no more than some seconds, and ends that.

    Raises `MissingExtra`.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtra("tracing", "otel") from None
    named = os.environ.get("OTEL_SERVICE_NAME") or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    exporter = OTLPSpanExporter()
    resource = Resource.create({} if named else {SERVICE_NAME: service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def stop() -> None:
        # A collector that is away is tried again for ten seconds and more, while whoever stops this process waits.
        ending = threading.Thread(target=provider.shutdown, name="peerload-tracing", daemon=True)
        ending.start()
        ending.join(_LAST_WORDS_SECONDS)
        if ending.is_alive():
            exporter.shutdown()
            ending.join(_LAST_WORDS_SECONDS)

    return stop


def _trace() -> ModuleType | None:
    found = sys.modules.get("opentelemetry.trace")
    # Another thread may be importing it at this moment.
    return found if hasattr(found, "get_current_span") else None
