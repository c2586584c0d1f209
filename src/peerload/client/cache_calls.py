"""The calls of the client that have to do with the Hugging Face cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peerload.checkpoint import Progress, Skipped
from peerload.client.arguments import Seconds, seconds
from peerload.client.base import BaseClient
from peerload.client.cached import CacheRequest, CacheTarget, PulledModel
from peerload.client.claim import Claim
from peerload.client.folders import Folder
from peerload.client.opening import Opening
from peerload.client.source import AsyncSource, OnSourceEvent
from peerload.client.threads import in_thread, relay
from peerload.client.weights import OnProgress, PullProgress
from peerload.errors import Ambiguous, DeadlineExceeded, PullFailed, Unavailable
from peerload.hub.cache import MAIN, CachedModel, CachedSnapshot
from peerload.hub.download import download
from peerload.hub.patterns import Patterns

if TYPE_CHECKING:
    pass

__all__ = ["CacheCalls"]

_LOOK_S: Final = 5.0
"""How long one looks out for a source before asking again whether the one who downloads still does."""
_SOON_S: Final = 0.2


class CacheCalls(BaseClient):
    """Part of `AsyncClient`."""

    def share_cached(
        self,
        model: str,
        *,
        revision: str | None = None,
        cache_dir: Path | str | None = None,
        allow_code: bool = False,
        progress: Progress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> Opening[AsyncSource]:
        """Serve what the Hugging Face cache has of a model, in checkpoint form.

        `revision` is a commit, or a branch or tag that the cache knows (main, unless one is named); the source is published
        under the commit, and tells which branches and tags the cache knows it by. `cache_dir` is another cache than the one
        that huggingface_hub would use. For the rest see `share`.

        Raises `NotFound` for what is not in the cache, `MissingExtra` without huggingface_hub, and what `share` raises.
        """

        async def start() -> AsyncSource:
            def find(stop: threading.Event) -> CachedSnapshot:
                return CachedModel.of(model, cache_dir).snapshot(revision)

            snapshot = await in_thread(self._executor, find)
            folder = Folder(snapshot.folder, model, snapshot.commit, snapshot)
            return await self._share(folder, allow_code, progress, on_event)

        return Opening(start)

    async def pull_cached(
        self,
        model: str,
        *,
        revision: str | None = None,
        cache_dir: Path | str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        content: str = "",
        wait: Seconds | None = None,
        timeout: Seconds | None = None,
        share: bool = False,
        or_download: bool = False,
        allow_code: bool = False,
        progress: OnProgress | None = None,
        on_event: OnSourceEvent | None = None,
    ) -> PulledModel[AsyncSource]:
        """Fetch a model into the Hugging Face cache, verified, so that `from_pretrained` finds it there without a network.

        `revision` is a commit, or a branch or tag that a source knows; without one, it is what a source calls main, else
        whatever the sources of that name have. `include` and `exclude` are patterns as `hf download` has them. What the cache
        has already is checked and not moved again; while another process fills the same model's folder, this one waits.

        With `or_download`, what no peer has (or could give) is downloaded from the hub by one process of the fleet, while the
        others wait for it to become a source; should it end before, another goes on. Whoever downloaded serves what it has,
        as `PulledModel.source`: close it once nobody reads any more (`AsyncSource.quiet`). With `share` every process serves.
        For the rest see `pull_folder`.

        Raises what `pull_folder` raises, and `MissingExtra` without huggingface_hub.
        """
        repo = await in_thread(self._executor, lambda stop: CachedModel.of(model, cache_dir))
        request = CacheRequest(repo, revision, Patterns(tuple(include), tuple(exclude)), content, allow_code)
        fetch = partial(self._fetch, request, share=share, progress=progress, on_event=on_event)
        if not or_download:
            return await fetch(wait, timeout)
        limit = None if timeout is None else seconds(timeout, 0.0)
        try:
            async with asyncio.timeout(limit) as scope:
                try:
                    return await fetch(wait, None)
                except Ambiguous:
                    raise
                except PullFailed:
                    return await self._once_a_fleet(request, fetch, progress, on_event)
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(f"the pull of {model!r} was not done within {limit:g} s") from None

    async def _fetch(
        self,
        request: CacheRequest,
        wait: Seconds | None,
        timeout: Seconds | None,
        *,
        share: bool,
        progress: OnProgress | None,
        on_event: OnSourceEvent | None,
    ) -> PulledModel[AsyncSource]:
        """From a peer."""
        target = CacheTarget(request, lambda: pull.sources)
        pull = self._pull(request.wanted, target, wait, timeout, progress)
        told = relay(_tells("naming", progress))
        try:
            report = await pull.run()
            staging = await in_thread(self._executor, lambda stop: target.commit(partial(told, stop)))
        finally:
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._executor, target.close))
        assert pull.found is not None
        identity = pull.found.identity
        folder = target.folder(identity, pull.found.source.part)
        pulled: PulledModel[AsyncSource] = PulledModel(
            folder.path, identity, target.commit_hash, target.ref, staging.kept, staging.skipped, report
        )
        if not share:
            return pulled
        offer = await in_thread(self._executor, lambda stop: folder.known(staging.kept))
        return pulled.served_by(await self._open(pull, offer, on_event, staging.skipped))

    async def _once_a_fleet(
        self,
        request: CacheRequest,
        fetch: Callable[[Seconds | None, Seconds | None], Awaitable[PulledModel[AsyncSource]]],
        progress: OnProgress | None,
        on_event: OnSourceEvent | None,
    ) -> PulledModel[AsyncSource]:
        """Wait for whoever downloads it, or be the one who does. Rides out an outage of the server meanwhile."""
        claim = Claim(self._connection, claim_name(request), self.settings.claim_lease)
        loop = asyncio.get_running_loop()
        outage_since: float | None = None
        while True:
            try:
                claimed = await claim.take()
                outage_since = None
                if claimed.ours:
                    async with claim:
                        try:
                            # Whoever had the claim before may have become a source just now.
                            return await fetch(None, None)
                        except Ambiguous:
                            raise
                        except PullFailed:
                            return await self._download(request, progress, on_event)
                if progress is not None:
                    progress(PullProgress("downloading elsewhere", reason=claimed.note))
                try:
                    return await fetch(max(_SOON_S, min(claimed.left, _LOOK_S)), None)
                except Ambiguous:
                    raise
                except PullFailed:
                    continue
            except Unavailable as error:
                now = loop.time()
                outage_since = now if outage_since is None else outage_since
                if now - outage_since > self.settings.outage_patience:
                    raise
                if progress is not None:
                    progress(PullProgress("waiting", reason=str(error)))
                await asyncio.sleep(self.settings.retry_delay)

    async def _download(
        self, request: CacheRequest, progress: OnProgress | None, on_event: OnSourceEvent | None
    ) -> PulledModel[AsyncSource]:
        """From the hub; and a source for those who wait."""
        told = relay(_tells("downloading", progress))

        def fetch(stop: threading.Event) -> tuple[CachedSnapshot, tuple[Skipped, ...]]:
            return download(
                request.repo,
                request.revision,
                patterns=request.patterns,
                allow_code=request.allow_code,
                progress=partial(told, stop),
            )

        snapshot, skipped = await in_thread(self._executor, fetch)
        folder = Folder(snapshot.folder, request.repo.model, snapshot.commit, snapshot, part=str(request.patterns))
        source = await self._share(folder, request.allow_code, _tells("checking", progress), on_event, patient=True)
        checkpoint = source.manifest.checkpoint
        assert checkpoint is not None
        ref = request.revision or MAIN
        return PulledModel(
            snapshot.folder,
            source.identity,
            snapshot.commit,
            "" if ref == snapshot.commit else ref,
            checkpoint,
            skipped,
            None,
            source,
        )

    async def _share(
        self,
        folder: Folder,
        allow_code: bool,
        progress: Progress | None,
        on_event: OnSourceEvent | None,
        *,
        patient: bool = False,
    ) -> AsyncSource:
        """Read a folder for its digests, and serve it."""
        told = relay(progress)
        offer, skipped = await in_thread(
            self._executor, lambda stop: folder.read(allow_code=allow_code, progress=partial(told, stop))
        )
        return await self._publisher.open(offer, skipped=skipped, on_event=on_event, patient=patient)


def claim_name(request: CacheRequest) -> str:
    """What a fleet that wants the same claims: the same name if and only if one download is good for all."""
    code = "--allow-code" if request.allow_code else ""
    words = (f"download/{request.repo.model}@{request.revision or MAIN}", str(request.patterns), code)
    return " ".join(word for word in words if word)


def _tells(phase: str, progress: OnProgress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(PullProgress(phase, done, total))
