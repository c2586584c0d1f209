"""The client: publish, share, find, watch and pull weights.

`AsyncClient` is the client, `Client` the same for callers without an event loop. What is not named here is private.
"""

from __future__ import annotations

from peerload.client.client import AsyncClient
from peerload.client.delivery import WeightStream
from peerload.client.identity import Framework, Identity
from peerload.client.manifest import Item, Manifest, SourceManifest
from peerload.client.opening import Opening
from peerload.client.settings import ClientSettings, server_address
from peerload.client.source import AsyncSource, SourceEvent, SourceState
from peerload.client.sources import Selector, SourceChange, SourceInfo
from peerload.client.sync import Client, Source, WeightIterator
from peerload.client.tensor import Tensor
from peerload.client.weights import (
    Attempt,
    Given,
    PulledFolder,
    PullProgress,
    PullReport,
    Verification,
    Weights,
)
from peerload.metadata.records import Form, SourceKey, Status

__all__ = [
    "AsyncClient",
    "AsyncSource",
    "Attempt",
    "Client",
    "ClientSettings",
    "Form",
    "Framework",
    "Given",
    "Identity",
    "Item",
    "Manifest",
    "Opening",
    "PullProgress",
    "PullReport",
    "PulledFolder",
    "Selector",
    "Source",
    "SourceChange",
    "SourceEvent",
    "SourceInfo",
    "SourceKey",
    "SourceManifest",
    "SourceState",
    "Status",
    "Tensor",
    "Verification",
    "WeightIterator",
    "WeightStream",
    "Weights",
    "server_address",
]
