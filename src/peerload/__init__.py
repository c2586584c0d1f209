"""Peerload: start model servers from the memory of their peers."""

__version__ = "0.1.0"
