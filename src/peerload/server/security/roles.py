"""What a caller must be to call a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from peerload.metadata.principals import Role

__all__ = ["OPEN", "ROLES"]

OPEN: Final = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/model_express.health.HealthService/GetHealth",
    }
)
"""Methods that everybody may call: load balancers and kubelets show no credentials."""

ROLES: Final[Mapping[str, Role]] = {
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Role.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READ,
    "/model_express.api.ApiService/SendRequest": Role.READ,
    "/model_express.p2p.P2pService/GetMetadata": Role.READ,
    "/model_express.p2p.P2pService/ListSources": Role.READ,
    "/model_express.p2p.P2pService/PublishMetadata": Role.PUBLISH,
    "/model_express.p2p.P2pService/UpdateStatus": Role.PUBLISH,
    "/peerload.v1.ClaimService/Acquire": Role.PUBLISH,
    "/peerload.v1.ClaimService/Release": Role.PUBLISH,
    "/peerload.v1.ClaimService/Renew": Role.PUBLISH,
    "/peerload.v1.DiagnosisService/Explain": Role.READ,
    "/peerload.v1.ServerService/Describe": Role.READ,
    "/peerload.v1.SourceService/GetManifest": Role.READ,
    "/peerload.v1.SourceService/List": Role.READ,
    "/peerload.v1.SourceService/Publish": Role.PUBLISH,
    "/peerload.v1.SourceService/Watch": Role.READ,
    "/peerload.v1.SourceService/Withdraw": Role.PUBLISH,
    "/peerload.v1.TransferService/Progress": Role.READ,
    "/peerload.v1.TransferService/Report": Role.READ,
}
"""The least role for every other method. One that is not here nobody may call."""
