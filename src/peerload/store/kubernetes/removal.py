"""Removing an instance with everything in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from peerload.clock import Clock
from peerload.errors import PeerloadError, Unavailable
from peerload.kubernetes.api import KubeApi
from peerload.kubernetes.place import KubernetesPlace
from peerload.kubernetes.trouble import NotThere
from peerload.store.kubernetes.names import LABELS, selector
from peerload.store.kubernetes.resources import Resources

__all__ = ["removed_after"]

_SECONDS: Final = 30.0


@contextlib.asynccontextmanager
async def removed_after(place: KubernetesPlace, clock: Clock) -> AsyncIterator[None]:
    """When the block ends, however it ends, nothing of the instance is left. Raises `Unavailable` if something is, which it
    names."""
    try:
        yield
    finally:
        api = KubeApi(place, clock)
        try:
            async with asyncio.timeout(_SECONDS):
                await api.open()
                await _remove(Resources(api, place.instance))
        except (PeerloadError, TimeoutError) as error:
            left = selector({LABELS.INSTANCE: place.instance})
            raise Unavailable(
                f"something was left behind ({str(error) or 'no time'}): kubectl delete peerloadrecords,configmaps -l {left}"
            ) from error
        finally:
            await api.close()


async def _remove(resources: Resources) -> None:
    async with contextlib.aclosing(resources.pages({}, metadata_only=True)) as pages:
        names = [body["metadata"]["name"] async for _, page in pages for body in page]
    for name in names:
        with contextlib.suppress(NotThere):
            await resources.delete(name)
    async with contextlib.aclosing(resources.chunk_pages({})) as pages:
        chunks = [body["metadata"]["name"] async for _, page in pages for body in page]
    for name in chunks:
        await resources.delete_chunk(name)
