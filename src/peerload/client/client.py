"""The asynchronous client: one object for publishing, finding and pulling."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from peerload.checkpoint import Progress
from peerload.client.arguments import IterOptions, PullOptions, Seconds, wanted
from peerload.client.artifact_calls import ArtifactCalls
from peerload.client.buffers import memories
from peerload.client.cache_calls import CacheCalls
from peerload.client.delivery import Delivered, WeightStream
from peerload.client.folder_target import FolderTarget
from peerload.client.folders import Folder
from peerload.client.frameworks import TensorFramework
from peerload.client.giving import As
from peerload.client.identity import Identity
from peerload.client.into import IntoTarget
from peerload.client.memory import MemoryTarget
from peerload.client.offering import offer_tensors
from peerload.client.opening import Opening
from peerload.client.ranks import own_rank
from peerload.client.source import AsyncSource, Offer, OnSourceEvent
from peerload.client.stream import WINDOW_BYTES, KeptStream, WindowStream
from peerload.client.tensor import Tensor
from peerload.client.threads import in_thread, relay
from peerload.client.weights import Filled, OnProgress, PulledFolder, PullProgress, Weights
from peerload.errors import InvalidArgument, PeerloadError
from peerload.hub.patterns import Patterns
from peerload.metadata.records import Form

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor as TorchTensor

__all__ = ["AsyncClient"]


class AsyncClient(CacheCalls, ArtifactCalls):
    """A connection to a Peerload server, and the engines that move bytes between this process and its peers.

    `address` is the server's `HOST:PORT`, `https://HOST:PORT` for TLS, or those of several with commas between them; where it
    is not given, PEERLOAD_SERVER, MODEL_EXPRESS_URL and MX_SERVER_ADDRESS are asked, then it is localhost:8001. `host` is the name or address under which peers reach this process (else
    MX_WORKER_HOST, else the address from which the server is reached). `topology` adds to what PEERLOAD_TOPOLOGY says
    (`zone=a,rack=b`). `replica` is what the processes that hold one copy of a model together call it (else
    PEERLOAD_REPLICA, else what torch.distributed's launcher calls the job). `engine_settings` are each engine's own, by its
    name. `clock` and `rng` are for tests.

    Nothing is connected or started before it is needed. Belongs to one event loop; close it, or use it as an asynchronous
    context manager: that ends its sources too. Every method may raise `Unavailable` where no server answers in time.
    """

    def publish(
        self,
        tensors: Mapping[str, Any],
        *,
        model: str | Identity,
        rank: int | None = None,
        copy: bool = False,
        digests: bool | None = None,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncSource]:
        """Serve tensors from this process's memory, and publish them for peers to pull.

        `tensors` maps names to numpy arrays, torch tensors, or anything with the buffer protocol. They are served where they
        are, and must not change until the source is closed. A transposed one arrives with the same strides; those with holes
        in their memory (slices) are refused, or copied with `copy`. Their digests are computed first (`progress` is told
        bytes done and in all); with `digests` False those who pull cannot check what arrives. Memory of an accelerator needs
        an engine that reads it, and has digests only with `digests` True, for which it is copied through host memory. `model`
        is a name, or an identity where more than the name makes the weights what they are. `rank` is the worker's global
        rank; if it is not given, torch.distributed's where that is in use in this process, else that of the variable RANK,
        else 0. N ranks are N workers.

            async with client.publish({"w": array}, model="org/name") as source:
                ...

        Raises `InvalidArgument` naming the tensor, or the variable.
        """
        own = own_rank(rank)
        identity = model if isinstance(model, Identity) else Identity(model=model)
        if identity.form is Form.CHECKPOINT:
            raise InvalidArgument("model", "tensors are published in runtime form; share a folder instead")

        async def start() -> AsyncSource:
            told = relay(progress)

            def read(stop: threading.Event) -> Offer:
                return offer_tensors(
                    tensors,
                    identity,
                    own,
                    copy=copy,
                    digests=digests,
                    check=self._engines.check,
                    progress=partial(told, stop),
                )

            offer = await in_thread(self._executor, read)
            return await self._publisher.open(offer, on_event=on_event)

        return Opening(start)

    def share(
        self,
        folder: Path | str,
        *,
        model: str = "",
        revision: str = "",
        allow_code: bool = False,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncSource]:
        """Serve the files of a model's folder, in checkpoint form.

        Every file is read once for its digests (`progress` is told bytes done and in all), then served from memory maps,
        without a second copy; the files must not change meanwhile. Files that may run code are left out unless
        `allow_code`; `source.skipped` names what was left out. Of a snapshot in a Hugging Face cache, the path tells model
        and commit, where they are not given; its links may not lead out of the cache.

        Raises `InvalidCheckpoint` naming the file, and `OSError`.
        """

        async def start() -> AsyncSource:
            shared = await in_thread(self._executor, lambda stop: Folder.at(Path(folder), model, revision))
            return await self._share(shared, allow_code, progress, on_event)

        return Opening(start)

    @overload
    async def pull(
        self, model: str | Identity, *, framework: None = None, **options: Unpack[PullOptions]
    ) -> Weights[Tensor, AsyncSource]: ...
    @overload
    async def pull(
        self, model: str | Identity, *, framework: Literal["np"], **options: Unpack[PullOptions]
    ) -> Weights[np.ndarray[Any, Any], AsyncSource]: ...
    @overload
    async def pull(
        self, model: str | Identity, *, framework: Literal["pt"], **options: Unpack[PullOptions]
    ) -> Weights[TorchTensor, AsyncSource]: ...
    async def pull(
        self,
        model: str | Identity,
        *,
        rank: int | None = None,
        revision: str | None = None,
        form: Form | None = None,
        content: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        framework: TensorFramework | None = None,
        publish: bool = False,
        mapped: bool = True,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Weights[Any, AsyncSource]:
        """Fetch weights from a peer's memory into this process's, verified.

        By an identity: exactly those of that identity and `rank` (as in `publish`; of weights in runtime form each rank of a
        replica pulls its own). By name: whatever sources of that name have, in either form; `revision`, `form` and
        `content` (what a checkpoint's content digest begins with) say which where they differ. `wait`: how long to wait for
        a source to appear (the server tells; nothing is polled). `timeout`: how long it may take in all. `framework` "np"
        gives numpy arrays, "pt" torch tensors, over the memory that was read into, without a copy; without it each is a
        `Tensor`. With `publish` this process becomes a source of them in turn, `weights.source`, which
        publishes later if no server can be reached by then.

        Where source and target share a host and an engine can map (memfd), the weights are the source's own pages: nothing is
        copied, and a page takes memory here only once it is written to, which nobody else sees. With `mapped` False they are
        copied in any case.

        Raises `NoSource` (a fact), `Ambiguous` (sources of that name hold different weights; nothing was moved),
        `PullFailed` with a line for each attempt, `DeadlineExceeded`, `Unavailable`; `InvalidArgument` naming the tensor that
        `framework` cannot hold, before anything was moved.
        """
        target = MemoryTarget(As(framework), need_digests=publish, maps=mapped)
        pull = self._pull(wanted(model, revision, form, content, rank), target, wait, timeout, progress, publish)
        report = await pull.run()
        assert pull.found is not None
        weights = target.weights(pull.found, report)
        if publish:
            weights.source = await self._open(pull, target.offer(pull.found), on_event)
        return weights

    async def pull_into(
        self,
        tensors: Mapping[str, Any],
        model: str | Identity,
        *,
        rank: int | None = None,
        revision: str | None = None,
        form: Form | None = None,
        content: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        strict: bool = True,
        publish: bool = False,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Filled[AsyncSource]:
        """Fetch weights into memory that the caller owns, by name: a `state_dict()`, a dictionary of arrays.

        The names must be those of the weights, in either form, and dtypes and shapes the same; with `strict` false names
        that only one side has are left alone and listed in what is given back. Tensors may be transposed, sliced or on an
        accelerator; those that share all of their memory are filled once. With `publish` this process becomes a source of
        them (runtime form, nothing left over). For the rest see `pull`.

        Raises what `pull` raises. Names, dtypes, shapes and shared memory that do not fit are `PullFailed` or
        `InvalidArgument` and listed, before anything moves. Of every error `touched` and the text say what the memory holds
        now; after a cancellation tensors may be half filled.
        """
        target = IntoTarget(memories(tensors, filling=True), strict=strict, publish=publish)
        pull = self._pull(wanted(model, revision, form, content, rank), target, wait, timeout, progress, publish)
        try:
            report = await pull.run()
            filled: Filled[AsyncSource] = Filled(report, target.missing, target.unexpected)
            if not publish:
                return filled
            assert pull.found is not None
            return filled.served_by(await self._open(pull, target.offer(pull.found), on_event))
        except PeerloadError as error:
            error.touched = target.touched()
            error.args = (f"{error}\n{error.touched}",)
            raise

    @overload
    def iter_weights(
        self, model: str | Identity, *, framework: None = None, **options: Unpack[IterOptions]
    ) -> WeightStream[Tensor]: ...
    @overload
    def iter_weights(
        self, model: str | Identity, *, framework: Literal["np"], **options: Unpack[IterOptions]
    ) -> WeightStream[np.ndarray[Any, Any]]: ...
    @overload
    def iter_weights(
        self, model: str | Identity, *, framework: Literal["pt"], **options: Unpack[IterOptions]
    ) -> WeightStream[TorchTensor]: ...
    def iter_weights(
        self,
        model: str | Identity,
        *,
        rank: int | None = None,
        revision: str | None = None,
        form: Form | None = None,
        content: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        framework: TensorFramework | None = None,
        publish: bool = False,
        window: int = WINDOW_BYTES,
        files: Callable[[str], bool] | None = None,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> WeightStream[Any]:
        """Fetch weights tensor by tensor: iterates over `(name, tensor)`, each as soon as it is verified.

            async for name, tensor in client.iter_weights("org/name", framework="pt"):
                ...

        The order is that of the files (a checkpoint's in the order of their paths, each one's tensors in the order of their
        bytes), else the manifest's; tensors that share memory follow each other. Files that hold no tensors are not read,
        nor those whose path `files` says no to, as if they were not there. At most `window` bytes, or one tensor that is
        larger, are read ahead of the consumer; a tensor that he lets go of is freed. With `publish` everything is kept
        instead, and this process becomes a source, `source` of the iterator after its end. A source that dies is made up
        for by the next, for what is missing. Stopping early abandons the read; see `WeightStream`. `timeout` includes the
        consumer's time. For the rest see `pull`.

        Raises what `pull` raises, at the first or any later tensor; those given before were verified all the same.
        """
        which, given = wanted(model, revision, form, content, rank), As(framework)
        if publish and files is not None:
            raise InvalidArgument("files", "what is published on is the whole")
        target = KeptStream(given) if publish else WindowStream(given, window, files)
        news = asyncio.Event()

        def told(step: PullProgress) -> None:
            news.set()
            if progress is not None:
                progress(step)

        async def run() -> Delivered:
            # A thread of its own, for it waits for the consumer: others are not to wait for him too.
            executor = ThreadPoolExecutor(1, thread_name_prefix="peerload-weights")
            try:
                pull = self._pull(which, target, wait, timeout, told, publish, executor)
                report = await pull.run()
            finally:
                executor.shutdown(wait=False)
            if not isinstance(target, KeptStream):
                return Delivered(report, None)
            assert pull.found is not None
            return Delivered(report, await self._open(pull, target.offer(pull.found), on_event))

        stream: WeightStream[Any] = WeightStream(run, target, given, news)
        self._streams.add(stream)
        return stream

    async def pull_folder(
        self,
        model: str,
        local_dir: Path | str,
        *,
        revision: str | None = None,
        content: str = "",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        share: bool = False,
        allow_code: bool = False,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> PulledFolder[AsyncSource]:
        """Fetch the files of a model into a folder, verified, byte for byte.

        Files take their names only when everything is verified. What an earlier pull left, or the folder already has, is
        checked and not moved again. `include` and `exclude` are patterns as `hf download` has them (extra `hub`). Files that
        may run code are left out unless `allow_code`. With `share` this process serves the folder in turn, as
        `PulledFolder.source`. For the rest see `pull`.

        Raises what `pull` raises, `InvalidCheckpoint` for names that are unsafe here, `NotAllowed` while another pull fills
        the folder, `LimitExceeded` where the disk is too small, and `OSError`.
        """
        patterns = Patterns(tuple(include), tuple(exclude))
        target = FolderTarget(Path(local_dir), allow_code=allow_code, patterns=patterns)
        which = replace(wanted(model, revision, Form.CHECKPOINT, content, 0), part=str(patterns))
        pull = self._pull(which, target, wait, timeout, progress)
        try:
            report = await pull.run()
            staging = await in_thread(self._executor, lambda stop: target.commit())
        finally:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, target.close))
        assert pull.found is not None
        identity = pull.found.identity
        folder: PulledFolder[AsyncSource] = PulledFolder(
            target.local_dir, identity, staging.kept, staging.skipped, report
        )
        if not share:
            return folder
        shared = Folder(
            target.local_dir, identity.model, identity.revision, part=target.part_of(pull.found.source.part)
        )
        offer = await in_thread(self._executor, lambda stop: shared.known(staging.kept))
        return folder.served_by(await self._open(pull, offer, on_event, staging.skipped))
