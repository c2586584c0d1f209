"""Stores: the durable, shared home of entries. The contract is `peerload.store.base`."""
