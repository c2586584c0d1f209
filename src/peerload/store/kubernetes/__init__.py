"""The store in a Kubernetes API server: no database to run.

`peerload.store.kubernetes.store.KubernetesStore` is the store; opening it needs the extra `peerload[kubernetes]`.

What is taken from the official client, and what is not: it reads kubeconfig files (`access`), for which it costs 21 MiB of
memory and a third of a second beside aiohttp; in the cluster, where two files and two variables say everything, it is not
imported. Requests are our own (`api`), on aiohttp, which comes with it: its calls have no deadline over all that they do,
and know nothing of whether a write that failed may have been done.
"""

from __future__ import annotations
