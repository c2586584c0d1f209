"""The client: publish, share, find, watch and pull weights.

`AsyncClient` is the client, `Client` the same for callers without an event loop. What is not named here is private.
"""

from __future__ import annotations

from peerload.client.addresses import server_address
from peerload.client.cached import PulledModel
from peerload.client.client import AsyncClient
from peerload.client.delivery import WeightStream
from peerload.client.explanation import Asked, Explanation, Finding, Miss, Unanswered, Verdict
from peerload.client.health import Health, ServerInfo
from peerload.client.identity import Framework, Identity, SourceType, StockIdentity
from peerload.client.manifest import Item, Manifest, SourceManifest
from peerload.client.measures import register_metrics
from peerload.client.opening import Opening
from peerload.client.replicas import Replica, replicas
from peerload.client.settings import ClientSettings
from peerload.client.sharing import shared_copy, shared_memory
from peerload.client.source import AsyncSource, SourceEvent, SourceState
from peerload.client.sources import Selector, SourceChange, SourceInfo
from peerload.client.stock.artifact_pull import PulledArtifact
from peerload.client.stock.artifact_source import AsyncArtifact
from peerload.client.sync import Artifact, Client, Source, WeightIterator
from peerload.client.tensor import Tensor
from peerload.client.weights import (
    Attempt,
    Filled,
    Given,
    PulledFolder,
    PullProgress,
    PullReport,
    Verification,
    Weights,
)
from peerload.metadata.records import Form, SourceKey, Status

__all__ = [
    "Artifact",
    "Asked",
    "AsyncArtifact",
    "AsyncClient",
    "AsyncSource",
    "Attempt",
    "Client",
    "ClientSettings",
    "Explanation",
    "Filled",
    "Finding",
    "Form",
    "Framework",
    "Given",
    "Health",
    "Identity",
    "Item",
    "Manifest",
    "Miss",
    "Opening",
    "PullProgress",
    "PullReport",
    "PulledArtifact",
    "PulledFolder",
    "PulledModel",
    "Replica",
    "Selector",
    "ServerInfo",
    "Source",
    "SourceChange",
    "SourceEvent",
    "SourceInfo",
    "SourceKey",
    "SourceManifest",
    "SourceState",
    "SourceType",
    "Status",
    "StockIdentity",
    "Tensor",
    "Unanswered",
    "Verdict",
    "Verification",
    "WeightIterator",
    "WeightStream",
    "Weights",
    "register_metrics",
    "replicas",
    "server_address",
    "shared_copy",
    "shared_memory",
]
