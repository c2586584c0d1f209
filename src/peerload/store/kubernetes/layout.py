"""The one record that says how things are kept, and which beginning of the store this is.

The API server numbers its objects anew when its data is lost, or goes back when it is restored. Whoever finds no such
record begins the store: with a random `epoch`, so that positions in an earlier feed are not taken for ones in this, and
with a `base` that is added to every number, so that none comes twice.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from peerload.errors import Damaged, Unavailable
from peerload.kubernetes.trouble import Exists, Moved, NotThere
from peerload.store.kubernetes.names import Type, layout_name
from peerload.store.kubernetes.objects import body_of
from peerload.store.kubernetes.resources import Resources

__all__ = ["Layout", "NewerLayout", "begin_anew", "read_layout", "settle"]

_LAYOUT: Final = 1
_ATTEMPTS: Final = 5
_CREATE_SECONDS: Final = 10.0
"""The first object of a kind that was just defined takes the API server longer."""


class NewerLayout(Unavailable):
    """A newer release has changed how things are kept."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which beginning of the store this is."""

    epoch: str
    base: int
    """What is added to resourceVersions: microseconds since 1970 when the store began."""
    uid: str


async def settle(resources: Resources, now_ms: int, *, after: int = 0) -> Layout:
    """The record that is there, or a new one, whose `base` is at least `after`. Raises `NewerLayout`."""
    name = layout_name(resources.instance)
    for _ in range(_ATTEMPTS):
        found = await resources.get(name)
        if found is not None:
            return read_layout(found)
        base = max(now_ms * 1_000, after)
        # As text: a person who looks at it shall not see it rounded.
        value = {"layout": _LAYOUT, "epoch": secrets.token_hex(6), "base": str(base)}
        body = body_of(resources.instance, name, Type.LAYOUT, {"key": "layout", "value": value})
        try:
            return read_layout(await resources.create(body, seconds=_CREATE_SECONDS))
        except (Exists, Moved):
            continue  # another server was faster; or what moved is a quota, against which others create something
    raise Unavailable("the record that says how the store is kept comes and goes")


async def begin_anew(resources: Resources, layout: Layout, now_ms: int, *, after: int) -> Layout:
    """Put another record in the place of this one: numbers have gone back."""
    try:
        await resources.delete(layout_name(resources.instance), uid=layout.uid)
    except (Moved, NotThere):
        pass  # another server did it
    return await settle(resources, now_ms, after=after)


def read_layout(body: Mapping[str, Any]) -> Layout:
    """Raises `NewerLayout` and `Damaged`."""
    try:
        value = body["value"]
        if value["layout"] != _LAYOUT:
            raise NewerLayout(
                f"namespace {body['metadata'].get('namespace')} holds data in layout {value['layout']}, which a newer"
                f" Peerload wrote; this one understands layout {_LAYOUT}: upgrade it, or give it another instance"
            )
        return Layout(str(value["epoch"]), int(value["base"]), body["metadata"]["uid"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Damaged(f"the object {body['metadata']['name']!r} cannot be read: {error!r}") from error
