"""Peers that run the stock package `modelexpress`: reading from them, being read by them, and sharing artifacts.

Its contract is two-fold. The server carries records, and a worker serves `model_express.p2p.WorkerService` on a port of
its own: the list of its tensors, leases on them, artifacts chunk by chunk. Bytes move by NIXL alone, whose agents are told
of each other by a blob of metadata: it comes with the record, or from a listener beside the worker.
"""
