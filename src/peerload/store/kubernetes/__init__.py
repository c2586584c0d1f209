"""The store in a Kubernetes API server: no database to run beside the cluster."""

from __future__ import annotations
