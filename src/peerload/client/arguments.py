"""Callers' arguments in the forms that the client works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeAlias, TypedDict

from peerload.client.buffers import Memory
from peerload.client.identity import Identity
from peerload.client.manifest import Item
from peerload.client.ranks import own_rank
from peerload.client.search import Wanted
from peerload.client.source import OnSourceEvent
from peerload.client.sources import Selector
from peerload.client.weights import OnProgress
from peerload.errors import InvalidArgument
from peerload.metadata.records import Form

__all__ = ["IterOptions", "PullOptions", "Seconds", "destination", "seconds", "selection", "wanted"]

Seconds: TypeAlias = float | timedelta
"""A duration."""


class _Options(TypedDict, total=False):
    rank: int | None
    revision: str | None
    form: Form | None
    content: str
    wait: Seconds | None
    timeout: Seconds | None
    publish: bool
    progress: OnProgress | None
    on_event: OnSourceEvent | None


class PullOptions(_Options, total=False):
    """What `pull` takes, whatever it gives."""

    mapped: bool


class IterOptions(_Options, total=False):
    """What `iter_weights` takes, whatever it gives."""

    window: int
    files: Callable[[str], bool] | None


def wanted(model: str | Identity, revision: str | None, form: Form | None, content: str, rank: int | None) -> Wanted:
    """Which weights a pull is about; without a rank, this process's (see `own_rank`). Raises `InvalidArgument`."""
    whole = Form.CHECKPOINT in (form, model.form if isinstance(model, Identity) else None)
    rank = 0 if whole else own_rank(rank)
    if isinstance(model, Identity):
        if revision is not None or form is not None or content:
            raise InvalidArgument("model", "an identity says everything; revision, form and content go with a name")
        # A checkpoint is whole, whoever shares it.
        return Wanted(Selector(identity=model, rank=None if whole else rank), rank)
    if not model:
        raise InvalidArgument("model", "is empty")
    return Wanted(Selector(model=model, revision=revision, form=form), rank, content)


def selection(given: Selector | Identity | str | None) -> Selector:
    """Which sources; all of them for None."""
    if given is None:
        return Selector()
    if isinstance(given, str):
        return Selector(model=given)
    return Selector(identity=given) if isinstance(given, Identity) else given


def destination(item: Item, given: Mapping[str, Memory] | None, allocate: Callable[[int], memoryview]) -> memoryview:
    """Where an item goes: the caller's memory, if any was given, else fresh memory. Raises `InvalidArgument`."""
    if not item.size:
        return memoryview(bytearray())
    if given is None:
        return allocate(item.size)
    if item.name not in given:
        raise InvalidArgument("into", f"has no memory for {item.name[:200]!r}")
    memory = given[item.name]
    if memory.nbytes != item.size:
        raise InvalidArgument("into", f"{item.name[:200]!r} has {item.size} bytes, the memory given {memory.nbytes}")
    if memory.view is None or memory.stride != item.stride:
        raise InvalidArgument("into", f"{item.name[:200]!r} does not lie in the memory given as the source has it")
    return memory.view


def seconds(value: Seconds | None, default: float) -> float:
    """A duration in seconds; `default` for None. Raises `InvalidArgument`."""
    if value is None:
        return default
    number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not number >= 0:
        raise InvalidArgument("wait", f"{number} is not a number of seconds")
    return number
