"""What children do with NIXL: one agent each, for one publication. See `peerload.engines.child.driver`.

Of the agent's life nothing is tidied up: the process is killed, which NIXL and its peers take better than a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerload.engines.nixl.agent import NixlSource, NixlTarget
from peerload.engines.nixl.library import library

__all__ = ["preload", "source", "target"]


def preload() -> None:
    """NIXL, UCX and numpy, but no agent's backend: that has threads."""
    bindings = library().nixlBind
    config = bindings.nixlAgentConfig()
    config.useProgThread = config.useListenThread = False
    # Loads UCX's libraries, which is most of what the first agent takes.
    bindings.nixlAgent("peerload-preload", config).getPluginParams("UCX")


def source(settings: Mapping[str, Any]) -> NixlSource:
    """The side that serves."""
    return NixlSource()


def target(settings: Mapping[str, Any]) -> NixlTarget:
    """The side that reads."""
    return NixlTarget()
