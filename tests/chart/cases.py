"""Values with which the chart is rendered."""

from __future__ import annotations

from typing import Any

__all__ = ["ACCOUNTS", "BARE", "DEFAULTS", "EVERYTHING", "KEPT_SECRET", "REDIS", "VALUES"]

DEFAULTS: dict[str, Any] = {}
REDIS = {"store": {"type": "redis", "redis": {"url": "redis://:s3cr%40t@redis:6379/1?min_replicas=1"}}, "replicas": 1}
KEPT_SECRET = {"store": {"type": "redis", "redis": {"existingSecret": "mine", "existingSecretKey": "REDIS_URL"}}}
BARE = {
    "serviceAccount": {"create": False},
    "rbac": {"create": False},
    "metrics": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "topologySpread": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "fullnameOverride": "directory",
}
EVERYTHING = {
    "image": {
        "repository": "registry.example/inference/peerload",
        "digest": f"sha256:{'0' * 64}",
        "pullPolicy": "Always",
        "command": ["python", "-m", "peerload"],
    },
    "imagePullSecrets": [{"name": "pull"}],
    "replicas": 5,
    "store": {"kubernetes": {"instance": "second"}},
    "tls": {"existingSecret": "peerload-tls", "clientCertificates": True},
    "settings": {
        "heartbeatTimeout": 60,
        "reaperInterval": 12.5,
        "gcTimeout": 2678400,
        "probe": False,
        "probeAfter": 40,
        "logLevel": "debug",
        "logFormat": "console",
        "drainDelay": 0.5,
        "grace": 30,
    },
    "access": {
        "existingSecret": "who",
        "existingSecretKey": "may.toml",
        "tokenAudiences": ["peerload", "modelexpress"],
        "serviceAccounts": ["inference/worker", "batch/default"],
    },
    "extraEnv": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
    "listenHost": "[::]",
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"example.com/a": "b"}},
    "metrics": {"port": 9999},
    "ui": {"enabled": True, "port": 8888},
    "serviceAccount": {"name": "special", "annotations": {"example.com/role": "x"}},
    "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": None},
    "podDisruptionBudget": {"maxUnavailable": "40%"},
    "topologySpread": {"keys": ["example.com/rack"], "whenUnsatisfiable": "DoNotSchedule"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "metricsFrom": [],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443}]}],
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"pool": "inference"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "nameOverride": "dir",
}
VALUES = {
    "defaults": DEFAULTS,
    "redis": REDIS,
    "kept secret": KEPT_SECRET,
    "bare": BARE,
    "everything": EVERYTHING,
}
ACCOUNTS = {"bare": "default", "everything": "special"}
"""The service accounts of those that do not have the release's."""
