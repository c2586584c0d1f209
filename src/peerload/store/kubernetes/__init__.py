"""The store in a Kubernetes API server: no database to run.

`peerload.store.kubernetes.store.KubernetesStore` is the store; opening it needs the extra `peerload[kubernetes]`. How the API
server is asked is in `peerload.kubernetes`.
"""

from __future__ import annotations
