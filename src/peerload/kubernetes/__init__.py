"""Asking a Kubernetes API server: where it is and as whom (`access`), and requests to it (`api`).

What is taken from the official client, and what is not: it reads kubeconfig files (`access`), for which it costs 21 MiB of
memory and a third of a second beside aiohttp; in the cluster, where two files and two variables say everything, it is not
imported. Requests are our own (`api`), on aiohttp, which comes with it: its calls have no deadline over all that they do,
and know nothing of whether a write that failed may have been done. Both need the extra `peerload[kubernetes]`.
"""

from __future__ import annotations
