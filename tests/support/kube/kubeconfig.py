"""kubeconfig files: where the API server is, whom it is trusted by, and as whom one comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

__all__ = ["write_kubeconfig"]


def write_kubeconfig(path: Path, url: str, authority: Path, user: Mapping[str, object], namespace: str) -> Path:
    """A file with one context, `tests`; `user` as kubeconfig files have it: token, tokenFile, client-certificate, exec."""
    cluster = {"server": url, "certificate-authority": str(authority)}
    context = {"cluster": "tests", "user": "tests", "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": dict(user)}],
        "contexts": [{"name": "tests", "context": context}],
        "current-context": "tests",
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    path.chmod(0o600)
    return path
