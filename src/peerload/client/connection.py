"""Calls to the server: typed, with errors of our own, at another server or again while one is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from peerload import tracing
from peerload.client.addresses import Place, Servers, resolve
from peerload.client.handshake import Diagnosis, diagnose
from peerload.client.route import Link, Resolve, Route
from peerload.client.settings import ClientSettings
from peerload.client.status import NotReached, Stopping, to_error
from peerload.client.tls import ClientTls
from peerload.clock import Clock
from peerload.errors import DeadlineExceeded, InvalidArgument, PeerloadError, Unauthenticated, Unavailable
from peerload.stamps import Stamp, stamp
from peerload.wire import (
    claims_pb2,
    diagnosis_pb2,
    grpc_health_pb2,
    health_pb2,
    outline_pb2,
    p2p_pb2,
    server_pb2,
    sources_pb2,
    transfers_pb2,
)

__all__ = ["Connection"]

_log: Final = logging.getLogger("peerload.client")
_SOURCES: Final = "/peerload.v1.SourceService/"
_TRANSFERS: Final = "/peerload.v1.TransferService/"
_CLAIMS: Final = "/peerload.v1.ClaimService/"
_P2P: Final = "/model_express.p2p.P2pService/"
_DIAGNOSIS: Final = "/peerload.v1.DiagnosisService/"
_FIRST_DELAY_S: Final = 0.05
_MAX_DELAY_S: Final = 1.0
_MAX_TOKEN_BYTES: Final = 64 * 1024
_RPC: Final = {"rpc.system": "grpc"}
_REQUEST_ID: Final = "x-request-id"
_MAX_REQUEST_ID: Final = 128

_SETTLED_S: Final = 1.0
"""A watch that has been told of changes for so long turns to every server again, at once, when it ends."""
_DIAGNOSIS_S: Final = 10.0
"""How long it is believed what was found out about a server to which there is no connection."""
_MOST_DIAGNOSES: Final = 4
"""Of so many servers at once."""

M = TypeVar("M", bound=Message)


class Connection:
    """The way to the servers of one directory, opened when it is first needed. Belongs to one event loop.

    A call that fails UNAVAILABLE goes to the next server at once, and when none has answered it is repeated after a pause,
    for `settings.patience`. Repeating is safe: every call that is repeated is idempotent. Every call may raise
    `Unavailable`, `DeadlineExceeded`, `InvalidArgument`, `NotAllowed`. Raises `InvalidArgument` for files of TLS that cannot
    be used.
    """

    def __init__(
        self,
        servers: Servers,
        settings: ClientSettings,
        *,
        clock: Clock,
        rng: random.Random,
        resolve: Resolve = resolve,
    ) -> None:
        self.address = str(servers)
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._tls = ClientTls.of(servers, settings)
        self._route = Route(servers.addresses, self._tls, rng=rng, resolve=resolve)
        self._token = _Token(Path(settings.token_path))
        self._warned = False
        self._diagnoses: dict[Place, tuple[float, Diagnosis]] = {}

    async def close(self) -> None:
        """End the calls in flight and the channels. Closing twice is allowed."""
        await self._route.close()

    async def publish(self, request: sources_pb2.PublishRequest) -> sources_pb2.PublishResponse:
        """Announce a worker with its manifest."""
        return await self._call(f"{_SOURCES}Publish", request, sources_pb2.PublishResponse)

    async def publish_metadata(self, request: p2p_pb2.PublishMetadataRequest) -> None:
        """Announce a worker as the stock package does. Raises `InvalidArgument` where the server says what is missing."""
        response = await self._call(f"{_P2P}PublishMetadata", request, p2p_pb2.PublishMetadataResponse)
        if not response.success:
            raise InvalidArgument("record", response.message)

    async def withdraw(self, request: sources_pb2.WithdrawRequest) -> sources_pb2.WithdrawResponse:
        """Take a record back."""
        return await self._call(f"{_SOURCES}Withdraw", request, sources_pb2.WithdrawResponse)

    async def manifest(self, request: sources_pb2.GetManifestRequest) -> outline_pb2.GetManifestResponse:
        """What a worker published, the manifest's items as they were encoded; `NotFound` is a fact."""
        return await self._call(f"{_SOURCES}GetManifest", request, outline_pb2.GetManifestResponse)

    async def list(self, request: sources_pb2.ListRequest) -> sources_pb2.ListResponse:
        """The sources that a selector lets through."""
        return await self._call(f"{_SOURCES}List", request, sources_pb2.ListResponse)

    async def check(self, request: grpc_health_pb2.HealthCheckRequest) -> grpc_health_pb2.HealthCheckResponse:
        """Whether a service is served, by the protocol that everybody speaks."""
        return await self._call("/grpc.health.v1.Health/Check", request, grpc_health_pb2.HealthCheckResponse)

    async def health(self, request: health_pb2.HealthRequest) -> health_pb2.HealthResponse:
        """The same in the words of the stock contract, with the reason."""
        return await self._call("/model_express.health.HealthService/GetHealth", request, health_pb2.HealthResponse)

    async def describe(self, request: server_pb2.DescribeRequest) -> server_pb2.DescribeResponse:
        """What the server is, and what time it has."""
        return await self._call("/peerload.v1.ServerService/Describe", request, server_pb2.DescribeResponse)

    async def explain(self, request: diagnosis_pb2.ExplainRequest) -> diagnosis_pb2.ExplainResponse:
        """Why lists gave nothing."""
        return await self._call(f"{_DIAGNOSIS}Explain", request, diagnosis_pb2.ExplainResponse)

    async def update_status(self, request: p2p_pb2.UpdateStatusRequest) -> p2p_pb2.UpdateStatusResponse:
        """A heartbeat. `success` is False where the server knows no such worker."""
        return await self._call(f"{_P2P}UpdateStatus", request, p2p_pb2.UpdateStatusResponse)

    async def report(self, request: transfers_pb2.ReportRequest, *, timeout: float) -> transfers_pb2.ReportResponse:
        """Tell of transfers that have ended; tried once, for `timeout` seconds at most."""
        return await self._told(f"{_TRANSFERS}Report", request, transfers_pb2.ReportResponse, timeout)

    async def progress(
        self, request: transfers_pb2.ProgressRequest, *, timeout: float
    ) -> transfers_pb2.ProgressResponse:
        """Tell of transfers on their way; tried once, for `timeout` seconds at most."""
        return await self._told(f"{_TRANSFERS}Progress", request, transfers_pb2.ProgressResponse, timeout)

    async def acquire(self, request: claims_pb2.AcquireClaimRequest) -> claims_pb2.AcquireClaimResponse:
        """Take a claim that is free; who holds it, if it is not."""
        return await self._call(f"{_CLAIMS}Acquire", request, claims_pb2.AcquireClaimResponse)

    async def renew(self, request: claims_pb2.RenewClaimRequest) -> claims_pb2.RenewClaimResponse:
        """Begin a claim's lease anew. `held` is False where it was lost."""
        return await self._call(f"{_CLAIMS}Renew", request, claims_pb2.RenewClaimResponse)

    async def release(self, request: claims_pb2.ReleaseClaimRequest) -> claims_pb2.ReleaseClaimResponse:
        """Let a claim go."""
        return await self._call(f"{_CLAIMS}Release", request, claims_pb2.ReleaseClaimResponse)

    async def watch(self, request: sources_pb2.WatchRequest) -> AsyncGenerator[sources_pb2.WatchResponse, None]:
        """The stream of changes, from one server after the other, until none goes on with it (then it raises
        `Unavailable`) or the caller ends it."""
        loop = asyncio.get_running_loop()
        asked = sources_pb2.WatchRequest()
        asked.CopyFrom(request)
        failures: dict[Place, Unavailable] = {}
        while (link := await self._link(failures, loop.time() + self._settings.call_timeout)) is not None:
            told_since: float | None = None
            try:
                async with aclosing(self._changes(link, asked)) as responses:
                    async for response in responses:
                        told_since = told_since or loop.time()
                        asked.resume_token = response.resume_token
                        yield response
            except Unavailable as error:
                if told_since is not None and loop.time() - told_since > _SETTLED_S:
                    # It worked until now. Connections are let go of for their age, too: then its server goes on with it.
                    failures.clear()
                else:
                    failures[link.place] = error
        raise await self._summed_up(failures)

    async def _changes(
        self, link: Link, request: sources_pb2.WatchRequest
    ) -> AsyncGenerator[sources_pb2.WatchResponse, None]:
        """The stream from one server, until that ends it: then it raises `Unavailable`."""
        method = f"{_SOURCES}Watch"
        # Of a place to go on from nothing need be told at once; any other stream begins with all there is.
        patience = None if request.resume_token else self._settings.call_timeout
        with link.calling() as channel:
            call = channel.unary_stream(method, request_serializer=sources_pb2.WatchRequest.SerializeToString)(
                request, metadata=self._metadata(link)
            )
            try:
                while True:
                    async with asyncio.timeout(patience):
                        read = await call.read()
                    if read is grpc.aio.EOF:
                        break
                    response = _decoded(read, sources_pb2.WatchResponse, link, method)
                    patience = None
                    self._route.works(link)
                    yield response
            except grpc.aio.AioRpcError as error:
                raise self._failed(link, error, method) from error
            except TimeoutError:
                self._route.failed(link)
                raise DeadlineExceeded(f"the server at {link.place.name} did not answer Watch in time") from None
            finally:
                call.cancel()
        self._route.failed(link)
        raise Unavailable(f"the server at {link.place.name} ended the watch")

    async def _call(self, method: str, request: Message, answer: type[M]) -> M:
        loop = asyncio.get_running_loop()
        start = loop.time()
        end = start + self._settings.call_timeout
        delay = _FIRST_DELAY_S
        while True:
            failures: dict[Place, Unavailable] = {}
            try:
                while (link := await self._link(failures, end)) is not None:
                    try:
                        return await self._once(link, method, request, answer, end - loop.time())
                    except DeadlineExceeded:
                        raise
                    except Unavailable as error:
                        failures[link.place] = error
                outage = await self._summed_up(failures)
            except DeadlineExceeded:
                raise
            except Unavailable as error:  # no name could be resolved
                outage = error
            pause = delay * self._rng.uniform(0.5, 1.5)
            if isinstance(outage, _Hopeless) or loop.time() + pause > min(end, start + self._settings.patience):
                raise outage
            await asyncio.sleep(pause)
            delay = min(delay * 2, _MAX_DELAY_S)

    async def _told(self, method: str, request: Message, answer: type[M], timeout: float) -> M:
        """A call that is tried once, for so many seconds at most."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        link = await self._link({}, end)
        assert link is not None
        return await self._once(link, method, request, answer, end - loop.time())

    async def _once(self, link: Link, method: str, request: Message, answer: type[M], timeout: float) -> M:
        with link.calling() as channel, tracing.span(method.removeprefix("/"), _RPC, kind="client"):
            call = channel.unary_unary(method, request_serializer=lambda message: message.SerializeToString())(
                request, timeout=max(0.001, timeout), metadata=self._metadata(link)
            )
            try:
                response = await call
            except grpc.aio.AioRpcError as error:
                raise self._failed(link, error, method) from error
        decoded = _decoded(response, answer, link, method)
        self._route.works(link)
        return decoded

    async def _link(self, failures: Mapping[Place, Unavailable], end: float) -> Link | None:
        try:
            async with asyncio.timeout_at(end):
                return await self._route.link(failures)
        except TimeoutError:
            raise DeadlineExceeded(f"the name of the server at {self.address} was not resolved in time") from None

    def _failed(self, link: Link, error: grpc.aio.AioRpcError, method: str) -> PeerloadError:
        trailing = error.trailing_metadata() or ()
        request_id = next((str(value) for key, value in trailing if key == _REQUEST_ID), "")
        failure = to_error(error.code(), error.details() or "", link.place.name, method, request_id[:_MAX_REQUEST_ID])
        if isinstance(failure, Unauthenticated):
            return Unauthenticated(f"{failure}; {self._token}")
        if isinstance(failure, Unavailable):
            # A connection that is lost is made anew by who comes next, not when gRPC thinks that it is time.
            self._route.failed(link, for_good=isinstance(failure, (NotReached, Stopping)))
        return failure

    async def _summed_up(self, failures: Mapping[Place, Unavailable]) -> Unavailable:
        """What to say of servers none of which has answered: of each one once, and why there is no connection to it, if
        that can be found out."""
        unclear = [place for place, each in failures.items() if isinstance(each, NotReached) and not each.refused]
        found = dict(zip(unclear, await asyncio.gather(*map(self._diagnosis, unclear[:_MOST_DIAGNOSES])), strict=False))
        told: dict[str, Unavailable] = {}
        for place, failure in failures.items():
            if diagnosis := found.get(place):
                kind = _Hopeless if diagnosis.certain else NotReached
                told[place.name] = kind(f"no connection to the server at {place.name}: {diagnosis.text}")
            else:
                told.setdefault(place.name, failure)
        if len(told) == 1:
            return next(iter(told.values()))
        hopeless = all(isinstance(each, _Hopeless) for each in told.values())
        return (_Hopeless if hopeless else Unavailable)("; ".join(map(str, told.values())))

    async def _diagnosis(self, place: Place) -> Diagnosis:
        loop = asyncio.get_running_loop()
        when, found = self._diagnoses.get(place, (-math.inf, Diagnosis()))
        if loop.time() - when > _DIAGNOSIS_S:
            trust = None if self._tls is None else self._tls.current()
            found = await loop.run_in_executor(None, diagnose, place, trust, self._clock.wall_ms())
            recent = {each: known for each, known in self._diagnoses.items() if loop.time() - known[0] < _DIAGNOSIS_S}
            self._diagnoses = {**recent, place: (loop.time(), found)}
        return found

    def _metadata(self, link: Link) -> tuple[tuple[str, str], ...]:
        metadata = self._token.metadata()
        if metadata and link.trust is None and not link.place.is_local and not self._warned:
            self._warned = True
            _log.warning(
                "the token in %s goes to %s in plaintext, where others may read it: https:// before the address is TLS",
                self._settings.token_path,
                link.place.name,
            )
        return (*metadata, *tracing.headers())


def _decoded(encoded: bytes, answer: type[M], link: Link, method: str) -> M:
    """An answer, or a part of a stream. gRPC itself would give None for what it cannot decode. Raises `Unavailable`: whatever
    says that is no server of ours, and another may be one."""
    try:
        return answer.FromString(encoded)
    except DecodeError:
        text = f"what the server at {link.place.name} answered to {method.rpartition('/')[2]} is no {answer.__name__}"
        raise Unavailable(text) from None


class _Hopeless(NotReached):
    """No connection comes about until somebody changes something: trying again is for those who have time."""


class _Token:
    """The bearer token, read again when its file changes: such tokens are rotated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Stamp = None
        self._metadata: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """For messages to people: what was sent, and which setting says so."""
        what = "the token sent is that in" if self._metadata else "no token was sent: there is none in"
        return f"{what} {self._path} (MX_AUTH_TOKEN_PATH)"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call: the authorization header, or nothing where there is no file."""
        found = stamp(self._path)
        if found != self._seen:
            self._seen, self._metadata = None, ()
            with contextlib.suppress(OSError), self._path.open("rb") as file:
                token = file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace").strip()
                self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
                self._seen = found
        return self._metadata
