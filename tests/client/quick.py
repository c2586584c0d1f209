"""Settings of clients that soon give up."""

from __future__ import annotations

from peerload import ClientSettings

__all__ = ["QUICK"]

QUICK = ClientSettings(patience=0.2, retry_delay=0.01, tries=2, retire_grace=0.5, outage_patience=0.2)
