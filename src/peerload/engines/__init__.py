"""Engines: what moves bytes between the memories of two workers. The contract is `peerload.engines.base`."""
