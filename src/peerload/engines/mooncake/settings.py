"""The settings of the Mooncake engine, and what its children's environment is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from peerload.engines.child.settings import ChildSettings
from peerload.errors import InvalidArgument

__all__ = ["MooncakeSettings"]


@dataclass(frozen=True, kw_only=True)
class MooncakeSettings(ChildSettings):
    """Beside what all engines with children have: what Mooncake's TransferEngine is told.

    A variable that is set in this process's environment wins over what is chosen here.
    """

    protocol: str = "tcp"
    """"tcp", or "rdma" where there are such devices."""
    device: str = ""
    """The RDMA devices to use, as "mlx5_0,mlx5_1"; "" leaves it to Mooncake."""
    library_timeout: int = 3
    """MC_TCP_PROGRESS_TIMEOUT_SEC, seconds (its own is 30): after that Mooncake gives up a silent source. Ours,
    `progress_timeout`, does not rely on it."""

    def __post_init__(self) -> None:
        ChildSettings.__post_init__(self)
        if self.protocol not in ("tcp", "rdma"):
            raise InvalidArgument("protocol", f"{self.protocol!r} is neither tcp nor rdma")
        if self.library_timeout < 1:
            raise InvalidArgument("library_timeout", "must be at least 1 second")

    def environment(self) -> tuple[tuple[str, str], ...]:
        """What children get beside this process's environment."""
        chosen = {
            "MC_LOG_LEVEL": "ERROR",  # It tells of everything that it does.
            "MC_TCP_PROGRESS_TIMEOUT_SEC": str(self.library_timeout),
        }
        return tuple(sorted((name, os.environ.get(name, value)) for name, value in chosen.items()))
