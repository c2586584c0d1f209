"""The settings of the NIXL engine, and the environment that UCX takes them from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peerload.engines.child.settings import ChildSettings
from peerload.engines.nixl.devices import interface_towards
from peerload.errors import InvalidArgument

__all__ = ["NixlSettings"]

_INFINIBAND: Final = Path("/sys/class/infiniband")


@dataclass(frozen=True, kw_only=True)
class NixlSettings(ChildSettings):
    """Beside what all engines with children have: what UCX, which moves NIXL's bytes, is told.

    A variable of UCX that is set in this process's environment wins over what is chosen here, and `ucx` over both.
    """

    transports: str = "^sysv"
    """UCX_TLS: all that there are but System V shared memory, whose segments outlive killed processes. On one host UCX then
    copies straight from process to process (CMA); between hosts it takes RDMA where there is any, else TCP."""
    net_devices: str | None = None
    """UCX_NET_DEVICES: the network devices that it may use, as in "mlx5_0:1,eth0". None: the RDMA devices that there are, and the
    interface on which the source is reached; UCX itself would try every bridge and container network."""
    segment: str = "64k"
    """UCX_TCP_TX_SEG_SIZE and UCX_TCP_RX_SEG_SIZE. UCX's own 8k are slow (0.7 to 1.1 GB/s on loopback, 64k 3.6, 256k 5.5); at 256k
    readers that were killed crashed sources."""
    ucx: Mapping[str, str] = field(default_factory=dict)
    """Other variables, by name: UCX_…"""

    def __post_init__(self) -> None:
        # By name: dataclasses with slots or not, this is the class that `super` means.
        ChildSettings.__post_init__(self)
        for name, value in self.ucx.items():
            if not name.startswith("UCX_") or not isinstance(value, str):
                raise InvalidArgument("ucx", f"{name!r}: names are those of UCX's variables, UCX_…, and values strings")

    def environment(self, host: str) -> tuple[tuple[str, str], ...]:
        """What children get beside this process's environment, to serve at or read from `host`. Blocks to resolve it."""
        chosen = {
            "NIXL_LOG_LEVEL": "WARN",  # INFO goes to standard output.
            "OPENBLAS_NUM_THREADS": "1",  # Children are forked, and numpy is used for lists of addresses only.
            "UCX_TLS": self.transports,
            "UCX_TCP_TX_SEG_SIZE": self.segment,
            "UCX_TCP_RX_SEG_SIZE": self.segment,
            # From GPU to GPU of one host directly. UCX does so only where it finds NVLinks, and reads through TCP elsewhere.
            "UCX_CUDA_IPC_ENABLE_GET_ZCOPY": "y",
            "UCX_WARN_UNUSED_ENV_VARS": "n",
        }
        devices = self.net_devices if self.net_devices is not None else _devices(host)
        if devices:
            chosen["UCX_NET_DEVICES"] = devices
        chosen = {name: os.environ.get(name, value) for name, value in chosen.items()}
        return tuple(sorted({**chosen, **self.ucx}.items()))


def _devices(host: str) -> str:
    """The devices to use towards a host, "" where that is not to be found out."""
    interface = interface_towards(host)
    if not interface:
        return ""
    ports = []
    if interface != "lo" and _INFINIBAND.is_dir():
        for device in sorted(_INFINIBAND.iterdir()):
            ports += [f"{device.name}:{port.name}" for port in sorted((device / "ports").iterdir())]
    return ",".join([*ports, interface])
