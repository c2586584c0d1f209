"""Who calls, and what they may do: tokens, service accounts of Kubernetes, client certificates, and the gate that asks.

`gate` puts them together; each way of recognising a caller is a module of its own behind `authenticator.Authenticator`.
"""

from __future__ import annotations
