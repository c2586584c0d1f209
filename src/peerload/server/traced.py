"""Calls as spans of OpenTelemetry, inside the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final

from peerload import tracing
from peerload.server.rpc import Code, Context, Method, Methods, RpcError, Stream, StreamMethod, Unary, UnaryMethod
from peerload.server.settings import Settings
from peerload.tracing import Attribute, Span

__all__ = ["exporting", "traced"]

_STATUS: Final = "rpc.grpc.status_code"


@contextmanager
def exporting(settings: Settings) -> Iterator[None]:
    """Export this process's spans for the length of a block, where the settings say so. Raises `MissingExtra`."""
    stop = tracing.start("peerload-server") if settings.tracing else lambda: None
    try:
        yield
    finally:
        stop()


def traced(methods: Methods) -> dict[str, Method]:
    """The same table; each call with one answer is a span. Of streams the first answer is one: they last as long as their
    readers."""
    wrapped: dict[str, Method] = {}
    for path, method in methods.items():
        match method:
            case UnaryMethod(handler=unary):
                wrapped[path] = replace(method, handler=_unary(path.removeprefix("/"), unary))
            case StreamMethod(stream):
                wrapped[path] = StreamMethod(_stream(path.removeprefix("/"), stream))
            case _:
                wrapped[path] = method
    return wrapped


def _unary(name: str, handler: Unary) -> Unary:
    async def call(request: bytes, context: Context) -> bytes:
        with _span(name, context) as span:
            try:
                answer = await handler(request, context)
            except RpcError as error:
                span.set_attribute(_STATUS, int(error.code))
                raise
            span.set_attribute(_STATUS, int(Code.OK))
            return answer

    return call


def _stream(name: str, handler: Stream) -> Stream:
    async def first(answers: AsyncIterator[bytes], context: Context) -> bytes:
        with _span(name, context):
            return await anext(answers)

    async def call(request: bytes, context: Context) -> AsyncIterator[bytes]:
        answers = handler(request, context)
        try:
            try:
                yield await first(answers, context)
            except StopAsyncIteration:
                return
            async for answer in answers:
                yield answer
        finally:
            close = getattr(answers, "aclose", None)
            if close is not None:
                await close()

    return call


def _span(name: str, context: Context) -> AbstractContextManager[Span]:
    service, _, method = name.partition("/")
    attributes: dict[str, Attribute] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "peerload.request_id": context.request_id,
    }
    return tracing.span(name, attributes, kind="server", parent=tracing.incoming(_texts(context)))


def _texts(context: Context) -> Iterator[tuple[str, str]]:
    for key, values in context.metadata.items():
        for value in values:
            if isinstance(value, str):
                yield key, value
